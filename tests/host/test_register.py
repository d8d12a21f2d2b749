"""What a plugin file says when a job starts."""

import logging
from collections.abc import Callable

import pytest

from swift_thyme.host.register import register_loss_scale, register_rewards


@pytest.mark.parametrize("register", [register_rewards, register_loss_scale])
def test_a_misspelt_variable_gives_one_warning(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    register: Callable[[], None],
) -> None:
    monkeypatch.setenv("THYME_JUDGE_URL", "http://a/v1")
    monkeypatch.delenv("RANK", raising=False)
    with caplog.at_level(logging.WARNING, "swift_thyme"):
        register()
    said = [r.getMessage() for r in caplog.records if "not known to swift_thyme" in r.getMessage()]
    assert len(said) == 1
    assert "did you mean THYME_JUDGE_URLS?" in said[0]
