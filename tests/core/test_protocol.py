"""The text protocol; pure functions, nothing is faked."""

import pytest

from swift_thyme.core import protocol


@pytest.mark.parametrize(
    "path", ["/data/a.jpg", "/data/mit Leerzeichen.png", '/d/quote".jpg', "/d/ü.png"]
)
def test_the_image_path_survives_the_prompt(path: str) -> None:
    prompt = protocol.build_user_prompt("What colour?", path, (640, 480))
    found = protocol.parse_user_prompt(prompt)
    assert found is not None
    assert found.path == path
    assert prompt.startswith("<image>\nWhat colour?\n")
    assert '"640x480"' in prompt


def test_a_prompt_without_a_path_has_none() -> None:
    assert protocol.parse_user_prompt("<image>\nWhat colour?") is None


def test_all_image_paths_of_a_prompt_come_in_the_order_of_their_numbers() -> None:
    more = [("/d/2 b.png", (2, 2)), ('/d/"3".png', (3, 3))]
    prompt = protocol.build_user_prompt("Which?", "/d/1.jpg", (1, 1), more)
    found = protocol.parse_user_prompt(prompt)
    assert found is not None
    assert found.paths == ("/d/1.jpg", "/d/2 b.png", '/d/"3".png')
    assert found.path == "/d/1.jpg"
    ten = "\n".join(protocol.image_lines(n, f"/{n}.png", 1, 1) for n in reversed(range(1, 12)))
    found = protocol.parse_user_prompt(ten)
    assert found is not None and found.paths == tuple(f"/{n}.png" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ('User Image Path: "/a.jpg"\nUser Image Path: "/b.jpg"', ("/a.jpg", "/b.jpg")),
        ('User Image Path 1: "/a.jpg"\nUser Image Path 2: "/b.jpg"', ("/a.jpg", "/b.jpg")),
        ('### User Image Path:** "/a.jpg"', ("/a.jpg",)),
        ("**User Image Path**: '/a.jpg'", ("/a.jpg",)),
        ('User Image Path: ""', ("",)),
        ('User Image Path: "/a.jpg\n"', None),
        ('User Image Path 99999999: "/a.jpg"', None),
        ("User Image Path: /a.jpg", None),
        ('User Image Path: "' + "\\" * 5000, None),
    ],
)
def test_image_paths_are_found_as_they_are_written(
    text: str, paths: tuple[str, ...] | None
) -> None:
    found = protocol.parse_user_prompt(text)
    assert (found.paths if found else None) == paths
