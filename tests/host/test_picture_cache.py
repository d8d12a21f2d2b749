"""Pictures that are prepared once, on the real template."""

import base64
import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.observation import Observation
from swift_thyme.host import picture_cache
from swift_thyme.host.continuous_rollout import roll_out
from swift_thyme.host.picture_cache import PictureCache, install_picture_cache
from tests.host.test_continuous_rollout import SteppedEngine, make_requests
from tests.host.test_scheduler import load_template
from tests.host.test_server_rollout import make_scheduler

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # importing ms-swift warns about its own dependencies
]


def photo(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((640, 480)).convert("RGB").point(
        lambda value: value // 2 + colour[0] // 2
    ).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> Any:
    loaded = load_template()
    import qwen_vl_utils
    from swift.template import Template, base
    from swift.template.templates.qwen import Qwen2VLTemplate

    # What is replaced is put back after the test.
    for owner, name in (
        (base, "rescale_image"),
        (qwen_vl_utils, "fetch_image"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    for owner in (Template, Qwen2VLTemplate):
        if "_load_image" in vars(owner):
            monkeypatch.setattr(owner, "_load_image", staticmethod(owner._load_image))
    return loaded


@pytest.fixture
def pictures(template: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[PictureCache]:
    cache = PictureCache(1 << 30)
    monkeypatch.setattr(picture_cache, "shared_pictures", lambda: cache)
    install_picture_cache()
    yield cache


def row(*images: Any) -> dict[str, Any]:
    tags = "<image>" * len(images)
    return {"messages": [{"role": "user", "content": f"{tags}What is it?"}], "images": list(images)}


def test_a_picture_is_decoded_and_resized_once_in_a_rollout(
    template: Any, pictures: PictureCache, tmp_path: Path
) -> None:
    from swift_thyme.host.template_codec import TemplateCodec

    asked, returned = photo((10, 0, 0)), photo((200, 0, 0))
    path = tmp_path / "asked.jpg"
    path.write_bytes(asked)
    text = base64.b64encode(asked).decode()
    codec = TemplateCodec(template, row(text)["messages"], [text])
    codec.prompt_length()
    for form in (text, f"data:image/jpeg;base64,{text}", str(path), {"bytes": asked, "path": ""}):
        template.encode(row(form))
    image = ReturnedImage(returned, 640, 480, "")
    codec.encode_observation(Observation("<sandbox_output><image></sandbox_output>", (image,)))
    template.encode(row(text, base64.b64encode(returned).decode()))
    # Two pictures, each decoded and resized.
    assert pictures.made == 4


def test_a_rollout_and_its_training_prepare_each_picture_once(
    template: Any, pictures: PictureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()
    load, resize = ImageFile.ImageFile.load, Image.Image.resize

    def counted_load(picture: Any) -> Any:
        counted["decoded"] += bool(picture.tile)
        return load(picture)

    def counted_resize(picture: Any, *args: Any, **kwargs: Any) -> Any:
        counted["resized"] += 1
        return resize(picture, *args, **kwargs)

    path = tmp_path / "asked.jpg"
    path.write_bytes(photo((10, 0, 0)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", counted_load)
    monkeypatch.setattr(Image.Image, "resize", counted_resize)
    template.set_mode("vllm")
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    names = ["three turns", "two pictures", "three turns", "two pictures"]
    outputs = roll_out(scheduler, engine, make_requests(names, path), None)
    template.set_mode("train")
    distinct, of_trajectories = set(), 0
    for output in outputs:
        images = output.rollout_infos["images"]
        turn = {"role": "assistant", "content": output.response_token_ids[0]}
        template.encode({"messages": [*output.messages[:-1], turn], "images": images})
        distinct |= set(images)
        of_trajectories += len(images)
    # A prompt's picture and one or two crops; equal crops are one picture of the process.
    assert of_trajectories == 10
    assert counted == {"decoded": len(distinct), "resized": len(distinct)}


def test_encoded_rows_are_the_same_with_and_without_kept_pictures(
    template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [base64.b64encode(photo((level, 0, 0))).decode() for level in (10, 200)]
    plain = template.encode(row(*images))
    monkeypatch.setattr(picture_cache, "shared_pictures", lambda: PictureCache(1 << 30))
    install_picture_cache()
    for _ in range(2):
        kept = template.encode(row(*images))
        assert kept["input_ids"] == plain["input_ids"]
        assert kept["pixel_values"].equal(plain["pixel_values"])


def test_a_limit_of_pixels_is_part_of_what_a_picture_is(
    template: Any, pictures: PictureCache
) -> None:
    image = base64.b64encode(photo((10, 0, 0))).decode()
    lengths = []
    for most in (100_000, 30_000, 100_000):
        template.max_pixels = most
        lengths.append(len(template.encode(row(image))["input_ids"]))
    assert lengths[0] == lengths[2] > lengths[1]


def test_what_is_no_picture_is_refused_as_before(template: Any, pictures: PictureCache) -> None:
    broken = photo((10, 0, 0))[:500]
    for image in (base64.b64encode(broken).decode(), "/no/such/file.jpg"):
        for _ in range(2):
            with pytest.raises(Exception, match=r"(?i)truncated|no such|cannot identify"):
                template.encode(row(image))
    assert pictures.made == 0


def test_without_room_in_the_settings_nothing_is_replaced(
    template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THYME_PICTURES_MB", "0")
    before = type(template)._load_image
    install_picture_cache()
    assert type(template)._load_image is before


def test_the_oldest_pictures_go_where_there_is_no_room() -> None:
    cache = PictureCache(3 * 4 * 100)
    made: list[str] = []

    def get(name: str) -> Image.Image:
        def make() -> Image.Image:
            made.append(name)
            return Image.new("RGB", (10, 10))

        return cache.get((name,), make)

    for name in "abcab":
        get(name)
    assert made == list("abc")
    get("d")
    for name in "abd":
        get(name)
    assert made == list("abcd")
    get("c")
    assert made == list("abcdc")


def test_two_threads_that_ask_at_once_share_one_picture() -> None:
    cache, made, found = PictureCache(1 << 20), [], []

    def make() -> Image.Image:
        made.append(1)
        time.sleep(0.05)
        return Image.new("RGB", (10, 10))

    threads = [threading.Thread(target=lambda: found.append(cache.get(("a",), make))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and found[0] is found[1]
