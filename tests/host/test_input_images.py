"""Which path each image of a training row has in the sandbox."""

import base64
import logging
from pathlib import Path

import pytest

from swift_thyme.core.errors import DataError
from swift_thyme.core.protocol import build_user_prompt, image_lines
from swift_thyme.host.input_images import PictureReader, path_problem, place_images, quoted_paths
from tests.pictures import camera_file

A, B = camera_file("JPEG", 1), camera_file("PNG", 1)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def placed(prompts: list[str], *values: object) -> list[tuple[str, object]]:
    reader = PictureReader()
    pictures = [reader.read(value, "an image") for value in values]
    messages = [{"role": "user", "content": prompt} for prompt in prompts]
    return [(i.path, i.source) for i in place_images(messages, pictures, "row 1")]


def quoting(*paths: str) -> str:
    return "\n".join(["q", *(image_lines(n, path, 1, 1) for n, path in enumerate(paths, 1))])


def test_each_quoted_path_has_its_image() -> None:
    prompt = build_user_prompt("Which?", "/d/a.jpg", (1, 1), [("/d/b.png", (1, 1))])
    assert placed([prompt], text(A), text(B)) == [("/d/a.jpg", A), ("/d/b.png", B)]
    assert placed([quoting("/d/a.jpg"), quoting("/d/b.png")], text(A), text(B)) == [
        ("/d/a.jpg", A),
        ("/d/b.png", B),
    ]


def test_an_image_without_a_quoted_path_has_its_own_or_a_default_one(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(A)
    assert placed(["q"], str(file)) == [(str(file), file)]
    assert placed([quoting("/d/b.png")], text(B), str(file)) == [("/d/b.png", B), (str(file), file)]
    assert placed([quoting("/d/a.jpg")], text(A), text(B)) == [
        ("/d/a.jpg", A),
        ("/mnt/data/images/1.png", B),
    ]
    assert placed([quoting("", "/d/b.png")], text(A), text(B)) == [
        ("/mnt/data/images/0.jpg", A),
        ("/d/b.png", B),
    ]
    assert placed([]) == []


def test_a_file_that_is_not_upright_keeps_its_path(tmp_path: Path) -> None:
    file = tmp_path / "phone.jpg"
    file.write_bytes(camera_file("JPEG", 6))
    ((path, source),) = placed(["q"], str(file))
    assert path == str(file)
    assert isinstance(source, bytes) and source != file.read_bytes()


def test_paths_that_are_left_over_name_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert placed([quoting("/d/a.jpg", "/d/b.png")], text(A)) == [("/d/a.jpg", A)]
    assert "row 1 quotes 2 image paths for 1" in caplog.text


def test_a_path_that_every_message_quotes_again_counts_once() -> None:
    again = [quoting("/d/a.jpg"), quoting("/d/a.jpg", "/d/b.png")]
    assert placed(again, text(A), text(B)) == [("/d/a.jpg", A), ("/d/b.png", B)]
    assert placed(again[:1] * 2, text(A)) == [("/d/a.jpg", A)]


def test_a_path_for_two_images_is_the_first_ones(caplog: pytest.LogCaptureFixture) -> None:
    twice = [quoting("/d/a.jpg", "/d/a.jpg")]
    assert placed(twice, text(A), text(A)) == [("/d/a.jpg", A)]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert placed(twice, text(A), text(B)) == [
            ("/d/a.jpg", A),
            ("/mnt/data/images/1.png", B),
        ]
    assert "row 1 has two images for '/d/a.jpg'" in caplog.text


def test_only_what_the_user_says_is_a_prompt() -> None:
    messages = [
        {"role": "system", "content": quoting("/s.jpg")},
        {"role": "user", "content": quoting("/u.jpg")},
        {"role": "assistant", "content": quoting("/a.jpg")},
        {"role": "assistant", "content": [1, 2, 3]},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
    ]
    assert quoted_paths(messages) == ["/u.jpg"]


def test_problems_of_paths() -> None:
    for path in ("/a.jpg", "/d/ü \n.png", "/tmp/a.png", "/mnt/data/temp_processed_images/a.png"):
        assert path_problem(path) is None
    for path in ("a.jpg", "/a//b.jpg", "/a/", "/./a", "/\0", "/\ud800", "/" + "a/" * 2500 + "b"):
        assert path_problem(path)
    assert path_problem("/usr/bin/env") is None  # a file that is there can be covered
    with pytest.raises(DataError, match=r"^row 1 quotes the image path 'a\.jpg'"):
        placed([quoting("a.jpg")], text(A))


@pytest.mark.parametrize("value", ["/no/such.jpg", text(b"no picture"), 5, None, text(A[:30])])
def test_what_is_no_image_names_it(value: object) -> None:
    with pytest.raises(DataError, match=r"^image 2 of row 9 "):
        PictureReader().read(value, "image 2 of row 9")
