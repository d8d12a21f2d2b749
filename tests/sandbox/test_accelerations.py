"""The switch `THYME_SANDBOX_FAST`: what it takes, and that nothing depends on it but speed."""

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.variable_table import VARIABLES
from swift_thyme.sandbox import InputImage, SandboxPool, SandboxSettings
from swift_thyme.sandbox.accelerations import Acceleration
from tests.sandbox.conftest import IMAGE_PATH, jpeg, small_settings


def test_the_table_of_variables_has_the_same_names() -> None:
    choices = VARIABLES["THYME_SANDBOX_FAST"].choices
    assert choices == ("on", "off", *(f"-{item}" for item in Acceleration))


def used(text: str) -> set[Acceleration]:
    settings = SandboxSettings.from_env({"THYME_SANDBOX_FAST": text})
    return {item for item in Acceleration if settings.uses(item)}


def test_accelerations_are_on_unless_they_are_left_out() -> None:
    everything = set(Acceleration)
    assert used("") == used("on") == everything
    assert used("off") == set()
    assert used("-memory_image") == everything - {Acceleration.MEMORY_IMAGE}
    left = everything - {Acceleration.MEMORY_IMAGE, Acceleration.AFFINITY}
    assert used("-memory_image, -affinity") == left


@pytest.mark.parametrize("text", ["yes", "affinity", "-speed", "off,-affinity", "on,off", "-"])
def test_a_wrong_name_is_an_error_that_lists_the_right_ones(text: str) -> None:
    with pytest.raises(SettingsError, match="THYME_SANDBOX_FAST") as error:
        SandboxSettings.from_env({"THYME_SANDBOX_FAST": text})
    assert all(item.value in str(error.value) for item in Acceleration)


@pytest.mark.parametrize("name", Acceleration)
def test_results_are_the_same_without_an_acceleration(name: Acceleration) -> None:
    with (
        SandboxPool(small_settings(fast=(f"-{name}",))) as pool,
        pool.open_sync([InputImage(IMAGE_PATH, jpeg())]) as session,
        pool.open_sync() as other,
    ):
        assert session.run_sync("x = [1]\nopen('f', 'w').write('a')").ok
        assert other.run_sync("y = bytearray(20 << 20)").ok
        assert not session.run_sync("x.append(2)\nopen('f', 'w').write('b')\n1 / 0").ok
        crop = session.run_sync(
            "image = cv2.imread(image_path)[10:60, 20:90]\ncv2.imwrite('c.jpg', image)\n"
            "print('c.jpg')\nprint(x, open('f').read(), image.shape)"
        )
        assert crop.stdout == "c.jpg\n[1] a (50, 70, 3)\n"
        assert [(image.name, image.width) for image in crop.images] == [("c.jpg", 70)]
        assert other.run_sync("print(len(y))").stdout == f"{20 << 20}\n"
