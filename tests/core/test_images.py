"""Every form of an image in; bytes, formats and faults out. And nobody else does it."""

import ast
import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core import images
from swift_thyme.core.images import ImageError, ImageFault
from tests.pictures import camera_file, is_upright, upright_picture
from tests.test_architecture import PACKAGE, modules, named

OWNERS = {"core/images.py", "core/pictures.py"}
EXCEPTIONS = {
    "view/page.py": {"b64encode"},  # the hash of a script, no image
    "sandbox/preload.py": {"Image.open"},  # warms up Pillow with a picture of its own
}
"""Modules to what they may do all the same."""
CALLS = {"b64decode", "b64encode", "a2b_base64", "exif_transpose", "getexif", "alpha_composite"}
SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*", b"MM\x00")


def foreign_work(path: Path) -> set[str]:
    """Return what a module does with images that is another module's business."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            if node.attr in CALLS:
                found.add(node.attr)
            if (
                node.attr == "open"
                and isinstance(node.value, ast.Name)
                and node.value.id == "Image"
            ):
                found.add("Image.open")
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            found |= names & CALLS | ({"Image.open"} if node.module == "PIL.Image" else set())
        elif isinstance(node, ast.Constant):
            value = node.value
            if isinstance(value, bytes) and value.startswith(SIGNATURES):
                found.add(repr(value))
            if isinstance(value, str) and value.startswith("data:image/"):
                found.add(value)
    return found


@pytest.mark.parametrize("path", modules(), ids=named)
def test_only_the_image_modules_decode_sniff_and_turn_images(path: Path) -> None:
    if named(path) not in OWNERS:
        assert foreign_work(path) <= EXCEPTIONS.get(named(path), set())


def test_the_list_of_exceptions_holds_nothing_else() -> None:
    for name, calls in EXCEPTIONS.items():
        assert foreign_work(PACKAGE / name) == calls
    assert foreign_work(PACKAGE / "core/images.py") >= {"b64decode", "b64encode"}


def encoded(kind: str = "PNG", size: tuple[int, int] = (20, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 99, 200)).save(buffer, kind)
    return buffer.getvalue()


def test_an_image_is_read_in_every_form(tmp_path: Path) -> None:
    data = encoded()
    file = tmp_path / "a b.png"
    file.write_bytes(data)
    text = base64.b64encode(data).decode()
    forms: list[Any] = [
        data,
        bytearray(data),
        memoryview(data),
        text,
        f"data:image/png;base64,{text}",
        "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        text.replace("+", "-").replace("/", "_"),
        {"bytes": data, "path": None},
        {"bytes": data, "path": "/gone.png"},
        {"bytes": None, "path": str(file)},
        file,
        str(file),
        f"file://{file}",
    ]
    for form in forms:
        assert images.read(form) == data, form
    assert images.read("a b.png", root=tmp_path) == data


def test_a_pil_image_is_read_upright_and_without_loss() -> None:
    for kind in ("JPEG", "PNG"):
        opened = Image.open(io.BytesIO(camera_file(kind, 6)))
        again = Image.open(io.BytesIO(images.read(opened)))
        assert again.format == "PNG"
        assert is_upright(again)
    deep = Image.new("F", (4, 4), 0.5)
    assert Image.open(io.BytesIO(images.read(deep))).getpixel((1, 1)) == 0.5
    for mode in ("CMYK", "YCbCr", "LA", "P", "1"):
        assert images.read(upright_picture().convert("RGB").convert(mode))[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, ImageFault.EMPTY),
        ("", ImageFault.EMPTY),
        ({"bytes": None, "path": None}, ImageFault.EMPTY),
        ({}, ImageFault.EMPTY),
        (3.5, ImageFault.TYPE),
        (["/a.png"], ImageFault.TYPE),
        ("https://example.org/a.png", ImageFault.URL),
        ("pictures/none.jpg", ImageFault.FILE),
        ("/no/such/file", ImageFault.FILE),
        (Path("/no/such/file"), ImageFault.FILE),
        ("/a\0b.png", ImageFault.FILE),
        ("/" + "x" * 300 + ".png", ImageFault.FILE),
        ("not base64", ImageFault.BASE64),
        ("data:image/png;base64,%%%", ImageFault.BASE64),
        ("Ü" * 8, ImageFault.BASE64),
        ("A" * 5001, ImageFault.BASE64),
    ],
)
def test_what_is_no_image_has_a_fault_and_a_name(value: Any, fault: ImageFault) -> None:
    with pytest.raises(ImageError, match=r"^image 3 of row 7 ") as error:
        images.read(value, "image 3 of row 7")
    assert error.value.fault is fault


def test_a_folder_and_an_unreadable_file_are_faults_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as error:
        images.read(str(tmp_path) + "/")
    assert error.value.fault is ImageFault.FILE


@pytest.mark.parametrize(
    ("kind", "suffix", "mime"),
    [
        ("JPEG", ".jpg", "image/jpeg"),
        ("PNG", ".png", "image/png"),
        ("GIF", ".gif", "image/gif"),
        ("BMP", ".bmp", "image/bmp"),
        ("TIFF", ".tif", "image/tiff"),
        ("WEBP", ".webp", "image/webp"),
        ("PPM", ".ppm", "image/x-portable-anymap"),
        ("JPEG2000", ".jp2", "image/jp2"),
        ("AVIF", ".avif", "image/avif"),
        ("ICO", ".ico", "image/x-icon"),
    ],
)
def test_formats_are_known_by_their_first_bytes(kind: str, suffix: str, mime: str) -> None:
    if kind not in Image.SAVE and not Image.init():
        pytest.skip(f"this Pillow has no {kind}")
    data = encoded(kind, (32, 32))
    found = images.sniff(data)
    assert found == (kind, suffix, mime)
    assert images.data_uri(data).startswith(f"data:{mime};base64,")
    assert images.read(images.data_uri(data)) == data


def test_bytes_of_no_format_have_none() -> None:
    for data in (b"", b"<svg/>", b"%PDF-1.7", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypmp42"):
        assert images.sniff(data) is None
    assert images.data_uri(b"<svg/>").startswith("data:application/octet-stream;base64,")


def test_base64_is_decoded_without_the_faster_library_too(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256))
    for codec in (base64, images._codec()):
        monkeypatch.setattr(images, "_codec", lambda codec=codec: codec)
        text = images.base64_text(data)
        assert images.base64_bytes(text) == data
        assert images.base64_bytes(text.replace("+", "-").replace("/", "_") + "\r\n") == data
        with pytest.raises(ImageError):
            images.base64_bytes(text[:-3])


def test_importing_the_module_loads_neither_pillow_nor_numpy() -> None:
    from tests.conftest import python_program, run_program

    program = (
        "import sys, swift_thyme.core.images, swift_thyme.core.trajectory_files;"
        "print(sorted({'PIL', 'numpy', 'pybase64'} & set(sys.modules)))"
    )
    run = run_program(python_program("-c", program))
    assert run.stdout.strip() == "[]", run.stderr
