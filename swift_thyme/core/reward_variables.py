"""The environment variables of rewards and judge: a part of the declared table."""

from __future__ import annotations

from swift_thyme.core.variables import (
    Kind,
    Variable,
    count,
    group,
    seconds,
    secret,
    switch,
    text,
)

__all__ = ["JUDGE", "REWARDS"]


def _weight(name: str, default: float, meaning: str) -> Variable:
    """Declare the weight of a reward, under the name that Thyme gave it."""
    return Variable(name, Kind.NUMBER, default, meaning, owner="Thyme")


def _norm(name: str, reward: str) -> Variable:
    """Declare the switch that maps a reward to [-1, 1], under the name that Thyme gave it."""
    return switch(name, False, f"maps the score of {reward} from [0, 1] to [-1, 1]", owner="Thyme")


REWARDS = group(
    "Rewards",
    "rewards/reward_settings.py",
    _weight("FMT_WEIGHT", 0.5, "weight of fmt_orm"),
    _norm("FMT_NORM", "fmt_orm"),
    _weight("VQA_WEIGHT", 1.0, "weight of vqa_orm"),
    _norm("VQA_NORM", "vqa_orm"),
    _weight("CST_WEIGHT", 0.5, "weight of cst_orm"),
    _norm("CST_NORM", "cst_orm"),
    _weight("CODE_WEIGHT", 0.3, "weight of code_orm and code_orm_llm"),
    _weight("VQA_PRM_WEIGHT", 0.3, "weight of vqa_prm"),
    _weight("CODE_PRM_WEIGHT", 0.3, "weight of code_prm"),
    switch("THYME_CST_NEEDS_RIGHT", True, "whether cst_orm counts only where the answer is right"),
    seconds("THYME_MATHS_TIMEOUT_S", 2.0, "longest comparison of two mathematical expressions"),
)

JUDGE = group(
    "Judge",
    "rewards/reward_settings.py",
    text(
        "THYME_JUDGE_URLS",
        "servers of the judge; wins over the two published variables below",
        "http(s) URLs, separated by commas, such as http://10.0.0.7:8000/v1",
    ),
    text(
        "REWARD_API_ADDRESS",
        "host of the judge, without a port where QWEN_API_PORT is set",
        "a host name, an IP address or an http(s) URL",
        owner="Thyme",
    ),
    text(
        "QWEN_API_PORT",
        "ports of the judge on that host",
        "port numbers from 1 to 65535, separated by commas",
        owner="Thyme",
    ),
    Variable(
        "THYME_JUDGE_MODEL",
        Kind.TEXT,
        None,
        "name of the judge's model",
        computed="the first model that the server lists",
    ),
    secret("THYME_JUDGE_API_KEY", "bearer token for the judge"),
    count("THYME_JUDGE_CONCURRENCY", 8, "requests at once, per server and process", "requests"),
    seconds("THYME_JUDGE_CONNECT_TIMEOUT_S", 5.0, "longest wait for a connection"),
    seconds("THYME_JUDGE_READ_TIMEOUT_S", 60.0, "longest wait for the reply to a request"),
    seconds("THYME_JUDGE_STEP_TIMEOUT_S", 180.0, "longest wait for all verdicts of a step"),
    seconds("THYME_JUDGE_OUTAGE_S", 20.0, "a step gives up after this long without any server"),
    count("THYME_JUDGE_MAX_TOKENS", 512, "longest reply of the judge", "tokens"),
    count(
        "THYME_JUDGE_MAX_FAILED_STEPS",
        10,
        "training stops after so many steps in a row without any verdict",
        "steps",
    ),
)
