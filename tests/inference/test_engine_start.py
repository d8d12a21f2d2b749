"""An engine that cannot be started: what is said about it, without starting one."""

import os

import pytest

from swift_thyme.core.errors import EngineError
from swift_thyme.inference import model


def test_an_error_of_ours_is_its_line_and_one_of_the_engine_has_the_log_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "_quiet", True)
    with pytest.raises(EngineError) as ours, model._own_log():
        os.write(2, b"words of a library\n")
        raise EngineError("vLLM needs more memory")
    assert str(ours.value) == "vLLM needs more memory"
    with pytest.raises(EngineError) as theirs, model._own_log():
        os.write(2, b"ValueError: the true reason\n")
        raise RuntimeError("Engine core initialization failed")
    assert "initialization failed" in str(theirs.value)
    assert str(theirs.value).endswith("ValueError: the true reason")
