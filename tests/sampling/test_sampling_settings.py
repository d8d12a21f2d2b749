"""The sampling settings: what the environment may say."""

import json

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.sampling.sampling_settings import SamplingSettings


def test_the_defaults_are_those_of_the_published_recipe() -> None:
    settings = SamplingSettings.from_env(adaptive=True, text_temperature=1.0)
    assert settings == SamplingSettings(
        adaptive=True, code_temperature=0.0, train_code_tokens=True, stop_repetition=True
    )


def test_settings_survive_the_way_to_the_engine() -> None:
    settings = SamplingSettings(True, 0.5, False, False)
    assert SamplingSettings.from_config(json.loads(json.dumps(settings.as_config()))) == settings


@pytest.mark.parametrize("value", ["-0.1", "warm", "nan", "inf", "1.01"])
def test_a_code_temperature_outside_its_range_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("THYME_CODE_TEMPERATURE", value)
    with pytest.raises(SettingsError, match="THYME_CODE_TEMPERATURE"):
        SamplingSettings.from_env(adaptive=True, text_temperature=1.0)


@pytest.mark.parametrize("name", ["THYME_TRAIN_CODE_TOKENS", "THYME_REPETITION_STOP"])
def test_a_switch_that_is_neither_true_nor_false_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "maybe")
    with pytest.raises(SettingsError, match=name):
        SamplingSettings.from_env()


@pytest.mark.parametrize(
    ("code", "text", "factor"),
    [(0.0, 1.0, 0.0), (0.5, 1.0, 2.0), (1.0, 1.0, 1.0), (0.5, 0.25, 1.0), (0.5, 0.0, 1.0)],
)
def test_the_factor_gives_code_its_temperature(code: float, text: float, factor: float) -> None:
    assert SamplingSettings(True, code).code_factor(text) == factor


def test_an_engine_that_is_given_no_settings_samples_code_greedily() -> None:
    variables = {"THYME_REPETITION_STOP": "false"}
    for nothing in (None, {}, {"other": 1}):
        found = SamplingSettings.of_engine(nothing, variables)
        assert found == SamplingSettings(adaptive=True, stop_repetition=False)
    given = SamplingSettings(code_temperature=0.5)
    assert SamplingSettings.of_engine({"thyme": given.as_config()}, variables) == given
    assert SamplingSettings.of_engine({"thyme": {}}, variables) == SamplingSettings()
