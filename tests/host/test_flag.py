"""The --O3 flag against ms-swift's real argument classes (one process parses all cases)."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.errors import HostError, SettingsError
from swift_thyme.core.protocol import STOP_STRINGS
from swift_thyme.host.flag import O3Settings, _take_o3, accept_o3_flag, fill_defaults
from swift_thyme.sampling.sampling_settings import VLLM_HOOK, SamplingSettings
from tests.conftest import TINY_MODEL, python_program, run_program

BASE = [
    "--model",
    str(TINY_MODEL),
    "--model_type",
    "qwen2_5_vl",
    "--template",
    "thyme_tiny",
    "--external_plugins",
    "plugin/agent_rm.py",
    "plugin/testbed.py",
    "--use_hf",
    "true",
]
TRAIN = [
    *BASE,
    "--check_model",
    "false",
    "--dataset",
    "unused.jsonl",
    "--use_cpu",
    "true",
    "--torch_dtype",
    "float32",
]
GRPO = [*TRAIN, "--rlhf_type", "grpo", "--per_device_train_batch_size", "8"]
VLLM = [*GRPO, "--use_vllm", "true", "--vllm_mode", "colocate"]
INFER = ["--stream", "false", "--val_dataset", "unused.jsonl", "--result_path", os.devnull]
USER = [
    *VLLM,
    "--O3",
    "true",
    "--multi_turn_scheduler",
    "math_tip_trick",
    "--max_turns",
    "2",
    "--stop_words",
    "<code>",
    "###",
    "--vllm_limit_mm_per_prompt",
    '{"image": 3}',
    "--callbacks",
    "early_stop",
    "--vllm_engine_kwargs",
    '{"logits_processors": ["a:B"], "seed": 4}',
]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"class": "rlhf", "argv": [*GRPO, "--O3", "true"]},
    "vllm": {"class": "rlhf", "argv": [*VLLM, "--O3", "true"]},
    "equals sign": {"class": "rlhf", "argv": [*GRPO, "--O3=true"]},
    "turn limit": {
        "class": "rlhf",
        "argv": [*GRPO, "--O3", "true"],
        "env": {"GEN_ITER_LIMIT": "5"},
    },
    "bad turn limit": {
        "class": "rlhf",
        "argv": [*GRPO, "--O3", "true"],
        "env": {"GEN_ITER_LIMIT": "many"},
    },
    "code temperature": {
        "class": "rlhf",
        "argv": [*VLLM, "--O3", "true", "--stop_words", "<code>", "--temperature", "1"],
        "env": {"THYME_CODE_TEMPERATURE": "0.25", "THYME_TRAIN_CODE_TOKENS": "false"},
    },
    "hot code": {
        "class": "rlhf",
        "argv": [*VLLM, "--O3", "true", "--stop_words", "<code>", "--temperature", "0.5"],
        "env": {"THYME_CODE_TEMPERATURE": "0.75"},
    },
    "temperature of no code": {
        "class": "rlhf",
        "argv": [*VLLM, "--O3", "true"],
        "env": {"THYME_CODE_TEMPERATURE": "0.75"},
    },
    "second model runner": {
        "class": "rlhf",
        "argv": [*VLLM, "--O3", "true"],
        "env": {"VLLM_USE_V2_MODEL_RUNNER": "1"},
    },
    "rollout": {
        "class": "rollout",
        "argv": [*BASE, "--O3", "true", "--stop_words", "<code>"],
        "env": {"THYME_REPETITION_STOP": "off"},
    },
    "rollout with engine flags": {
        "class": "rollout",
        "argv": [
            *(*BASE, "--O3", "true", "--vllm_engine_kwargs"),
            '{"logits_processors": ["a:B"], "seed": 4, "additional_config": {"other": 1}}',
        ],
    },
    "rollout with engine flags of no use": {
        "class": "rollout",
        "argv": [*BASE, "--O3", "true", "--vllm_engine_kwargs", "[1, 2]"],
    },
    "false": {"class": "rlhf", "argv": [*VLLM, "--O3", "false"]},
    "absent": {"class": "rlhf", "argv": VLLM},
    "user": {"class": "rlhf", "argv": USER},
    "mistyped": {"class": "rlhf", "argv": [*GRPO, "--O3", "true", "--lerning_rate", "1"]},
    "mistyped o3": {"class": "rlhf", "argv": [*GRPO, "--O33", "true"]},
    "no bool": {"class": "rlhf", "argv": [*GRPO, "--O3", "maybe"]},
    "dpo without O3": {"class": "rlhf", "argv": TRAIN},
    "demonstrations": {
        "class": "rlhf",
        "argv": [*GRPO, "--O3", "true", "--chord_sft_dataset", "unused.jsonl"],
    },
    "several": {
        "class": "rlhf",
        "argv": [*GRPO, "--O3", "true", "--gym_env", "x", "--sdar_loss_coef", "1"],
    },
    "a gym": {
        "class": "rlhf",
        "argv": [
            *GRPO,
            "--O3",
            "true",
            "--gym_env",
            "x",
            "--multi_turn_scheduler",
            "gym_scheduler",
        ],
    },
    "a reward model": {
        "class": "rlhf",
        "argv": [*GRPO, "--O3", "true", "--reward_model", "x", "--reward_model_plugin", "genrm"],
    },
    "sft": {"class": "sft", "argv": [*TRAIN, "--O3", "true"]},
    "sft with a loss scale": {
        "class": "sft",
        "argv": [*TRAIN, "--O3", "true", "--loss_scale", "default"],
    },
    "sft without O3": {"class": "sft", "argv": TRAIN},
    "infer without O3": {"class": "infer", "argv": [*BASE, "--load_args", "false", *INFER]},
}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    cases = tmp_path_factory.mktemp("parse") / "cases.json"
    cases.write_text(json.dumps(list(CASES.values())))
    program = Path(__file__).parents[1] / "e2e" / "parse_cases.py"
    run = run_program(python_program(str(program), str(cases)), timeout_s=300)
    line = next((x for x in run.stdout.splitlines() if x.startswith("RESULTS")), None)
    assert line is not None, run.stderr[-3000:]
    return dict(zip(CASES, json.loads(line.removeprefix("RESULTS")), strict=True))


def test_o3_fills_what_the_user_left_open(parsed: dict[str, dict[str, Any]]) -> None:
    fields = parsed["plain"]["fields"]
    assert parsed["plain"]["remaining"] == []
    assert fields["O3"] is True
    assert fields["multi_turn_scheduler"] == "o3"
    assert fields["max_turns"] == 4
    assert fields["stop_words"] == list(STOP_STRINGS)
    assert fields["vllm_limit_mm_per_prompt"] == {"image": 6, "video": 0}
    assert fields["callbacks"] == ["thyme"]
    assert not fields["vllm_engine_kwargs"]


def test_o3_loads_the_sampling_hook_into_vllm(parsed: dict[str, dict[str, Any]]) -> None:
    kwargs = parsed["vllm"]["fields"]["vllm_engine_kwargs"]
    assert kwargs["logits_processors"] == [VLLM_HOOK]
    assert kwargs["additional_config"] == {"thyme": SamplingSettings().as_config()}


def test_o3_overrides_nothing_that_the_user_set(parsed: dict[str, dict[str, Any]]) -> None:
    fields = parsed["user"]["fields"]
    assert fields["multi_turn_scheduler"] == "math_tip_trick"
    assert fields["max_turns"] == 2
    assert fields["vllm_limit_mm_per_prompt"] == {"image": 3}
    assert fields["callbacks"] == ["early_stop", "thyme"]
    assert fields["vllm_engine_kwargs"]["seed"] == 4
    assert fields["vllm_engine_kwargs"]["logits_processors"] == ["a:B", VLLM_HOOK]


def test_the_code_tag_among_the_stop_words_means_a_temperature_of_its_own(
    parsed: dict[str, dict[str, Any]],
) -> None:
    fields = parsed["user"]["fields"]
    assert fields["stop_words"] == ["###", *STOP_STRINGS]
    expected = SamplingSettings(adaptive=True).as_config()
    assert fields["thyme_sampling"] == expected
    assert fields["vllm_engine_kwargs"]["additional_config"] == {"thyme": expected}


def test_the_sampling_settings_come_from_the_environment(
    parsed: dict[str, dict[str, Any]],
) -> None:
    fields = parsed["code temperature"]["fields"]
    assert fields["thyme_sampling"] == {
        "adaptive": True,
        "code_temperature": 0.25,
        "train_code_tokens": False,
        "stop_repetition": True,
    }


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("hot code", "THYME_CODE_TEMPERATURE='0.75'"),
        ("temperature of no code", "THYME_CODE_TEMPERATURE has no effect"),
        ("second model runner", "VLLM_USE_V2_MODEL_RUNNER=0"),
        ("rollout with engine flags of no use", "--vllm_engine_kwargs '[1, 2]' is no JSON object"),
    ],
)
def test_settings_that_cannot_work_stop_the_job(
    parsed: dict[str, dict[str, Any]], case: str, message: str
) -> None:
    assert message in parsed[case]["error"]
    assert "SettingsError" in parsed[case]["error"]


def test_a_rollout_server_is_started_with_the_sampling_hook(
    parsed: dict[str, dict[str, Any]],
) -> None:
    fields = parsed["rollout"]["fields"]
    assert fields["stop_words"] == list(STOP_STRINGS)
    engine = fields["engine"]["engine_kwargs"]
    assert engine["logits_processors"] == [VLLM_HOOK]
    expected = SamplingSettings(adaptive=True, stop_repetition=False)
    assert engine["additional_config"] == {"thyme": expected.as_config()}


def test_a_rollout_server_keeps_the_users_flags_of_the_engine(
    parsed: dict[str, dict[str, Any]],
) -> None:
    engine = parsed["rollout with engine flags"]["fields"]["engine"]["engine_kwargs"]
    assert engine["logits_processors"] == ["a:B", VLLM_HOOK]
    assert engine["seed"] == 4
    thyme = SamplingSettings().as_config()
    assert engine["additional_config"] == {"other": 1, "thyme": thyme}


class RolloutArguments(SimpleNamespace):
    """Fields of `swift rollout`, told by the name of their class."""

    def __init__(self, engine_kwargs: Any) -> None:
        super().__init__(
            multi_turn_scheduler="o3",
            max_turns=4,
            vllm_limit_mm_per_prompt=None,
            vllm_engine_kwargs=engine_kwargs,
        )


@pytest.mark.parametrize("given", ["[1, 2]", "a word", '"{}"'])
def test_flags_of_the_engine_that_are_no_object_are_refused(given: str) -> None:
    arguments = RolloutArguments(given)
    with pytest.raises(SettingsError, match=r"--vllm_engine_kwargs .* is no JSON object"):
        fill_defaults(arguments, O3Settings())


def test_flags_of_the_engine_may_be_text_or_a_file_of_it(tmp_path: Path) -> None:
    text = '{"seed": 4}'
    file = tmp_path / "engine.json"
    file.write_text(text)
    for given in (text, str(file), {"seed": 4}):
        arguments = RolloutArguments(given)
        fill_defaults(arguments, O3Settings())
        assert arguments.vllm_engine_kwargs["seed"] == 4
        assert arguments.vllm_engine_kwargs["logits_processors"] == [VLLM_HOOK]


def test_the_turn_limit_comes_from_the_environment(parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["turn limit"]["fields"]["max_turns"] == 5
    assert "GEN_ITER_LIMIT='many'" in parsed["bad turn limit"]["error"]


def test_o3_false_changes_nothing(parsed: dict[str, dict[str, Any]]) -> None:
    off, absent = parsed["false"], parsed["absent"]
    assert off == absent
    assert off["fields"]["O3"] is False
    assert off["fields"]["multi_turn_scheduler"] is None
    assert off["fields"]["stop_words"] == []
    assert off["remaining"] == []


def test_o3_with_an_equals_sign_is_the_same(parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["equals sign"] == parsed["plain"]


def test_a_mistyped_flag_is_left_for_ms_swifts_error(parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["mistyped"]["remaining"] == ["--lerning_rate", "1"]
    assert parsed["mistyped o3"]["remaining"] == ["--O33", "true"]
    assert parsed["mistyped o3"]["fields"]["O3"] is False


def test_a_value_that_is_neither_true_nor_false_is_an_error(
    parsed: dict[str, dict[str, Any]],
) -> None:
    assert "SystemExit" in parsed["no bool"]["error"]


def test_supervised_training_rolls_nothing_out(parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["sft"]["remaining"] == []
    assert parsed["sft"]["fields"]["O3"] is True
    assert parsed["sft"]["fields"].get("multi_turn_scheduler") is None


@pytest.mark.parametrize("command", ["infer without O3", "dpo without O3", "sft without O3"])
def test_a_plugin_without_the_flag_refuses_nothing(
    parsed: dict[str, dict[str, Any]], command: str
) -> None:
    assert parsed[command]["remaining"] == []
    assert parsed[command]["fields"]["O3"] is False


def test_every_flag_that_cannot_work_is_named(parsed: dict[str, dict[str, Any]]) -> None:
    error = parsed["several"]["error"]
    assert "--gym_env NAME cannot be used with --O3 true" in error
    assert "--sdar_loss_coef above 0 cannot be used with --O3 true" in error


def test_a_scheduler_of_the_users_may_have_a_gym(parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["a gym"]["fields"]["multi_turn_scheduler"] == "gym_scheduler"


def test_a_reward_model_may_have_a_plugin(parsed: dict[str, dict[str, Any]]) -> None:
    assert "error" not in parsed["a reward model"]


def test_demonstrations_beside_rollouts_have_no_loss_on_outputs(
    parsed: dict[str, dict[str, Any]],
) -> None:
    assert parsed["demonstrations"]["fields"]["loss_scale"] == "thyme"
    assert parsed["plain"]["fields"]["loss_scale"] == "default"


def test_o3_sets_the_loss_scale_of_supervised_training_alone(
    parsed: dict[str, dict[str, Any]],
) -> None:
    assert parsed["sft"]["fields"]["loss_scale"] == "thyme"
    assert parsed["sft with a loss scale"]["fields"]["loss_scale"] == "default"
    assert parsed["sft without O3"]["fields"]["loss_scale"] == "default"
    assert parsed["plain"]["fields"]["loss_scale"] != "thyme"


@pytest.mark.parametrize(
    ("remaining", "value", "rest"),
    [
        (["--O3", "true"], True, []),
        (["--O3", "False", "--x", "1"], False, ["--x", "1"]),
        (["--x", "--O3=1"], True, ["--x"]),
        (["--O3"], True, []),
        (["--O", "true"], None, ["--O", "true"]),
        ([], None, []),
    ],
)
def test_only_the_flag_itself_is_taken(
    remaining: list[str], value: bool | None, rest: list[str]
) -> None:
    assert _take_o3(remaining) is value
    assert remaining == rest


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "four"])
def test_a_turn_limit_that_is_no_positive_number_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("GEN_ITER_LIMIT", text)
    with pytest.raises(SettingsError, match="GEN_ITER_LIMIT"):
        O3Settings.from_env()


@pytest.mark.parametrize("flag", ["--O3", "--O3=true"])
def test_the_flag_outside_a_call_that_is_known_is_an_error_and_not_forgotten(
    monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr("sys.argv", ["swift", flag])
    monkeypatch.setattr("swift_thyme.host.flag._host_arguments", None)
    with pytest.raises(HostError, match="thyme doctor"):
        accept_o3_flag()


def test_a_parser_that_keeps_its_flags_elsewhere_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Arguments:
        def _import_external_plugins(self) -> bool:
            return accept_o3_flag()

    monkeypatch.setattr("swift_thyme.host.flag._host_arguments", None)
    monkeypatch.setattr("sys.argv", ["swift", "--O3", "true"])
    with pytest.raises(HostError, match="parses its flags in a way"):
        Arguments()._import_external_plugins()
    monkeypatch.setattr("sys.argv", ["swift"])
    assert not Arguments()._import_external_plugins()
