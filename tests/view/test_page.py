"""The page as a file: what is in it, how often, and how large it gets."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from swift_thyme.commands.main import app
from swift_thyme.core.images import base64_bytes
from swift_thyme.core.trajectory_files import TrajectoryWriter
from swift_thyme.view.embedded_pictures import embed_all
from swift_thyme.view.highlight import highlight
from swift_thyme.view.page import SCRIPTS, build_page
from swift_thyme.view.sources import load
from tests.pictures import camera_file, is_upright
from tests.view.samples import HOSTILE, make_record, picture, write_folder, write_hostile


def data_of(page: Path) -> Any:
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match.group(1))


def test_a_picture_of_many_trajectories_is_in_the_page_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "run", 8, prompts=1)
    report = build_page(load([tmp_path / "run"]), tmp_path / "page.html", title="t")
    assert report.images == 1 + 8
    assert (tmp_path / "page.html").read_text().count('type="text/plain"') == 9
    assert report.bytes == (tmp_path / "page.html").stat().st_size


def test_the_command_says_what_it_wrote_and_what_it_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path / "run", 10)
    next((tmp_path / "run" / "images").iterdir()).unlink()
    page = tmp_path / "page.html"
    result = CliRunner().invoke(
        app, ["view", str(tmp_path / "run"), "-o", str(page), "--max-trajectories", "5"]
    )
    assert result.exit_code == 0, result.output
    assert "5 trajectories" in result.output
    assert "10 were found" in result.output
    assert [t["id"] for t in data_of(page)["trajectories"]] == ["t0", "t2", "t4", "t6", "t8"]


def test_missing_and_broken_pictures_are_counted_and_leave_the_rest(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path) as writer:
        good = writer.add_image(picture(1, 50, 50))
        broken = writer.add_image(b"\x89PNG but not really", size=(1, 1))
        gone = writer.add_image(picture(2, 50, 50))
        writer.write(make_record(1, good, broken), make_record(2, gone, good))
    (tmp_path / gone.file).unlink()
    report = build_page(load([tmp_path]), tmp_path / "page.html", title="t")
    assert (report.images, report.missing_images) == (1, 2)
    images = data_of(tmp_path / "page.html")["images"]
    assert [image is None for image in images] == [False, True, True]


@pytest.mark.parametrize(
    ("kind", "size", "mime", "reduced"),
    [
        ("PNG", (112, 112), "image/png", False),
        ("JPEG", (448, 300), "image/jpeg", False),
        ("JPEG", (2000, 1500), "image/webp", True),
        ("BMP", (60, 60), "image/webp", True),
        ("TIFF", (60, 60), "image/webp", True),
    ],
)
def test_only_small_pictures_of_web_formats_are_embedded_as_they_are(
    tmp_path: Path, kind: str, size: tuple[int, int], mime: str, reduced: bool
) -> None:
    import base64

    file = tmp_path / "picture"
    file.write_bytes(picture(1, *size, kind))
    (embedded,) = embed_all([file], 640)
    assert embedded is not None
    assert (embedded.mime, embedded.reduced) == (mime, reduced)
    assert (embedded.width, embedded.height) == size
    data = base64.b64decode(embedded.data)
    assert (data == file.read_bytes()) is not reduced
    with Image.open(io.BytesIO(data)) as image:
        assert max(image.size) <= 640
        assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.01)


def test_hostile_text_is_in_the_page_as_data_alone(tmp_path: Path) -> None:
    write_hostile(tmp_path)
    build_page(load([tmp_path]), tmp_path / "page.html", title="t")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>window.pwned" not in page
    assert "<!-- <script" not in page
    assert page.count("<script") == page.count("</script>") == 3
    question = data_of(tmp_path / "page.html")["trajectories"][0]["question"]
    # The writer has no UTF-8 for half a surrogate pair.
    assert question == HOSTILE.replace("\ud800", "?")


def test_the_page_names_no_address_and_builds_no_markup() -> None:
    from importlib.resources import files

    folder = files("swift_thyme.view")
    for name in ("page.html", "page.css", *SCRIPTS):
        text = folder.joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|//\w+\.\w|@import|url\(", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        assert "style=" not in text.replace("{{style}}", "")


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "# \U0001f600 comment\nx = '\U0001f600'\nfor i in range(3):\n\treturn i\n",
        "\n\n  def f(",
        "'unclosed",
        "\r\nx\u2028y\0",
        "",
    ],
)
def test_coloured_runs_cover_the_code_in_javascripts_units(code: str) -> None:
    runs = re.findall(r"([a-z])(\d+)", highlight(code))
    assert "".join(kind + length for kind, length in runs) == highlight(code)
    assert sum(int(length) for _, length in runs) == len(code.encode("utf-16-le")) // 2


def test_equal_names_from_different_files_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_folder(tmp_path / name, 2)
    build_page(load([tmp_path]), tmp_path / "page.html", title="t")
    names = [t["id"] for t in data_of(tmp_path / "page.html")["trajectories"]]
    assert names == ["t0", "t1", "t0~2", "t1~2"]


def test_a_picture_that_is_not_upright_is_turned_for_the_page(tmp_path: Path) -> None:
    file = tmp_path / "phone.jpg"
    file.write_bytes(camera_file("JPEG", 6))
    (embedded,) = embed_all([file], 640)
    assert embedded is not None and embedded.reduced
    assert (embedded.width, embedded.height) == (80, 48)
    assert is_upright(Image.open(io.BytesIO(base64_bytes(embedded.data))))
