"""One small pool per module, and an input image; every test opens sessions of its own."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from swift_thyme.sandbox import InputImage, SandboxPool, SandboxSession, SandboxSettings

IMAGE_PATH = "/data/images/street.jpg"


def small_settings(**changes: object) -> SandboxSettings:
    """Return settings with limits that a test reaches quickly."""
    values: dict[str, object] = {
        "workers": 1,
        "timeout_s": 5.0,
        "memory_mb": 256,
        "disk_mb": 16,
        "inodes": 256,
        "processes": 16,
        "output_mb": 4,
        "image_mb": 8,
        "image_megapixels": 4.0,
    }
    return SandboxSettings(**{**values, **changes})  # type: ignore[arg-type]


def jpeg(width: int = 200, height: int = 100) -> bytes:
    """Return a JPEG with some structure."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def changes() -> dict[str, object]:
    """Settings that differ from the small ones; a module can have others."""
    return {}


@pytest.fixture(scope="module")
def pool(changes: dict[str, object]) -> Iterator[SandboxPool]:
    """A pool with small limits, shared by the tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYME_TEST_SECRET", "hunter2-secret")
        with SandboxPool(small_settings(**changes)) as pool:
            yield pool


@pytest.fixture(scope="module", params=["fast", "without accelerations"])
def with_and_without_accelerations(request: pytest.FixtureRequest) -> dict[str, object]:
    """The settings of a module whose tests run twice."""
    return {"fast": ("on",) if request.param == "fast" else ("off",)}


@pytest.fixture
def session(pool: SandboxPool) -> Iterator[SandboxSession]:
    """A session with one 200x100 image."""
    with pool.open_sync([InputImage(IMAGE_PATH, jpeg())]) as session:
        yield session


@pytest.fixture(scope="module")
def open_session(pool: SandboxPool) -> Callable[[], SandboxSession]:
    """Open further sessions with the same image."""
    return lambda: pool.open_sync([InputImage(IMAGE_PATH, jpeg())])
