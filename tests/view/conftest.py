"""The browser of the page's tests."""

import os

import pytest

from tests.view.chromium import INSTALL, find_chromium


@pytest.fixture
def chromium() -> None:
    """Skip where no Chromium is installed, but never in continuous integration."""
    if find_chromium() is None:
        message = f"needs a Chromium: {INSTALL}"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
