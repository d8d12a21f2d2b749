"""Environment variables of the rewards; the environment is passed in."""

from __future__ import annotations

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.rewards.reward_settings import JudgeSettings, RewardScale, RewardSettings


def test_an_empty_environment_gives_the_published_weights_and_no_judge() -> None:
    settings = RewardSettings.from_env({})
    assert settings == RewardSettings()
    scales = [settings.format, settings.answer, settings.consistency, settings.code]
    scales += [settings.answer_process, settings.code_process]
    assert [scale.weight for scale in scales] == [0.5, 1.0, 0.5, 0.3, 0.3, 0.3]
    assert not any(scale.centred for scale in scales)
    assert not settings.judge.enabled


def test_weights_and_norms_are_read() -> None:
    settings = RewardSettings.from_env({"VQA_WEIGHT": "2", "VQA_NORM": "1", "CST_NORM": " 0 "})
    assert settings.answer == RewardScale(2.0, True)
    assert not settings.consistency.centred


def test_a_centred_score_lies_between_minus_and_plus_the_weight() -> None:
    scale = RewardScale(0.5, True)
    assert [scale.apply(score) for score in (0.0, 0.5, 1.0)] == [-0.5, 0.0, 0.5]


def test_the_published_address_and_ports_become_base_urls() -> None:
    env = {"REWARD_API_ADDRESS": "10.0.0.7", "QWEN_API_PORT": "8000, 8001,8000"}
    urls = RewardSettings.from_env(env).judge.urls
    assert urls == ("http://10.0.0.7:8000/v1", "http://10.0.0.7:8001/v1")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://a:1", "http://a:1/v1"),
        ("http://a:1/", "http://a:1/v1"),
        ("https://a/v1/", "https://a/v1"),
        ("http://a:1/proxy/v2", "http://a:1/proxy/v2"),
    ],
)
def test_full_urls_get_a_version_only_where_they_have_no_path(given: str, used: str) -> None:
    assert RewardSettings.from_env({"THYME_JUDGE_URLS": given}).judge.urls == (used,)


def test_full_urls_win_over_the_published_variables() -> None:
    env = {"THYME_JUDGE_URLS": "http://a:1", "REWARD_API_ADDRESS": "b", "QWEN_API_PORT": "x"}
    assert RewardSettings.from_env(env).judge.urls == ("http://a:1/v1",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FMT_WEIGHT", "half"),
        ("VQA_WEIGHT", "nan"),
        ("CST_NORM", "2"),
        ("VQA_PRM_WEIGHT", "inf"),
        ("THYME_CST_NEEDS_RIGHT", "maybe"),
        ("THYME_JUDGE_CONCURRENCY", "0"),
        ("THYME_JUDGE_CONCURRENCY", "1.5"),
        ("THYME_JUDGE_READ_TIMEOUT_S", "-1"),
        ("THYME_JUDGE_MAX_FAILED_STEPS", "0"),
        ("THYME_JUDGE_URLS", "localhost:8000"),
        ("THYME_JUDGE_URLS", "ftp://a"),
        ("THYME_JUDGE_URLS", ","),
        ("THYME_JUDGE_URLS", "http://a:99999"),
        ("THYME_JUDGE_URLS", "http://a/v1?key=1"),
        ("REWARD_API_ADDRESS", "10.0.0.7"),
        ("QWEN_API_PORT", "8000"),
    ],
)
def test_an_unusable_value_is_an_error_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        RewardSettings.from_env({name: value})


@pytest.mark.parametrize("ports", ["eight", "0", "70000", "8000,,8001", "-1"])
def test_an_unusable_port_is_an_error_that_names_the_variable(ports: str) -> None:
    with pytest.raises(SettingsError, match="QWEN_API_PORT"):
        RewardSettings.from_env({"REWARD_API_ADDRESS": "a", "QWEN_API_PORT": ports})


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingsError, match="attempts"):
        JudgeSettings(attempts=0)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match="THYME_JUDGE_URLS") as raised:
        RewardSettings.from_env({"THYME_JUDGE_URLS": "http://me:hidden@a/v1"})
    assert "hidden" not in str(raised.value)
