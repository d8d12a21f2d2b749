"""Conditions of the flag table on argument objects of ms-swift; no ms-swift is needed."""

from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.host.flag_check import check_flags, refusals, warn_about_scheduler
from swift_thyme.host.flag_row import Condition, Job, job_of


class RLHFArguments(SimpleNamespace):
    """A class of ms-swift's name."""


class Derived(RLHFArguments):
    """A class of a user's, made from ms-swift's."""


class PretrainArguments(SimpleNamespace):
    """A class of ms-swift's name."""


@pytest.mark.parametrize(
    ("condition", "fields", "met"),
    [
        (Condition("a"), {}, False),
        (Condition("a"), {"a": None}, False),
        (Condition("a"), {"a": 0.0}, False),
        (Condition("a"), {"a": [1]}, True),
        (Condition("a", ("x", "y")), {"a": "y"}, True),
        (Condition("a", ("x", "y")), {"a": "z"}, False),
        (Condition("a", above=1), {"a": 1}, False),
        (Condition("a", above=1), {"a": 2}, True),
        (Condition("a", above=1), {}, False),
        (Condition("a", unless="b"), {"a": 1}, True),
        (Condition("a", unless="b"), {"a": 1, "b": ["own"]}, False),
        (Condition("a", key="k"), {"a": {"k": {"x": 1}}}, True),
        (Condition("a", key="k"), {"a": '{"k": {"x": 1}}'}, True),
        (Condition("a", key="k"), {"a": '{"other": 1}'}, False),
        (Condition("a", key="k"), {"a": "no JSON"}, False),
        (Condition("a", key="k"), {"a": None}, False),
        (Condition("a", ("all",), within=True), {"a": "all+thyme"}, True),
        (Condition("a", ("all",), within=True), {"a": "small"}, False),
        (Condition("a", ("all",), within=True), {"a": None}, False),
        (Condition("a", our_scheduler=True), {"a": 1, "multi_turn_scheduler": None}, True),
        (Condition("a", our_scheduler=True), {"a": 1, "multi_turn_scheduler": "o3"}, True),
        (Condition("a", our_scheduler=True), {"a": 1, "multi_turn_scheduler": "mine"}, False),
    ],
)
def test_a_condition_is_met_by_its_values_alone(
    condition: Condition, fields: dict[str, Any], met: bool
) -> None:
    assert condition.is_met(SimpleNamespace(**fields), "o3") is met


def test_the_class_of_the_arguments_tells_the_command() -> None:
    assert job_of(Derived(rlhf_type="grpo")) is Job.GRPO
    assert job_of(RLHFArguments(rlhf_type="ppo")) is Job.OTHER_RLHF
    assert job_of(PretrainArguments()) is Job.PRETRAIN
    assert job_of(SimpleNamespace()) is Job.OTHER


def test_a_job_without_such_flags_is_not_refused() -> None:
    arguments = RLHFArguments(rlhf_type="grpo", loss_type="grpo", loss_scale=None)
    assert refusals(arguments, "o3") == []
    check_flags(arguments, "o3")


def test_all_flags_of_a_job_that_cannot_work_are_in_one_line() -> None:
    arguments = RLHFArguments(rlhf_type="grpo", loss_type="fipo", streaming=True)
    with pytest.raises(SettingsError) as found:
        check_flags(arguments, "o3")
    line = str(found.value)
    assert "--loss_type real or fipo cannot be used with --O3 true" in line
    assert "--streaming true cannot be used with --O3 true" in line
    assert "\n" not in line


def test_a_command_that_nobody_knows_is_refused_as_a_whole() -> None:
    with pytest.raises(SettingsError, match="does nothing for this command"):
        check_flags(SimpleNamespace(), "o3")


def test_another_scheduler_is_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_about_scheduler("o3", "o3")
    assert caplog.text == ""
    warn_about_scheduler("mine", "o3")
    assert "runs no code in this job" in caplog.text
