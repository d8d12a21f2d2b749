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
