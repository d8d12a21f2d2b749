"""Each row of the flag table against ms-swift's real argument classes (one process parses all)."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from flags_page import PAGE

from swift_thyme.host.flag_row import FlagRow, Job, Outcome
from swift_thyme.host.flag_table import HOST_ROWS, JOB_ROWS, REFUSED_ROWS
from swift_thyme.host.working_flags import UNTOUCHED, WORKING_ROWS
from tests.conftest import ROOT, TINY_MODEL, python_program, run_program

ROWS = (*JOB_ROWS, *REFUSED_ROWS, *HOST_ROWS, *WORKING_ROWS)
MODEL = [
    *("--model", str(TINY_MODEL), "--model_type", "qwen2_5_vl", "--template", "thyme_tiny"),
    *("--external_plugins", "plugin/agent_rm.py", "plugin/testbed.py", "--use_hf", "true"),
]
DATA = ["--dataset", "unused.jsonl", "--torch_dtype", "float32"]
TRAIN = [*MODEL, *DATA, "--check_model", "false", "--use_cpu", "true"]
COMMANDS: dict[Job, tuple[str, list[str]]] = {
    Job.GRPO: ("rlhf", [*TRAIN, "--rlhf_type", "grpo", "--per_device_train_batch_size", "8"]),
    Job.OTHER_RLHF: ("rlhf", TRAIN),
    Job.SFT: ("sft", TRAIN),
    Job.ROLLOUT: ("rollout", MODEL),
    Job.PRETRAIN: ("pt", TRAIN),
    Job.INFER: ("infer", [*MODEL, "--load_args", "false"]),
    Job.DEPLOY: ("deploy", [*MODEL, "--load_args", "false"]),
    Job.APP: ("app", [*MODEL, "--load_args", "false"]),
    Job.EVAL: ("eval", [*MODEL, "--load_args", "false"]),
    Job.EXPORT: ("export", [*MODEL, "--load_args", "false"]),
    Job.SAMPLE: ("sample", [*MODEL, *DATA]),
    Job.MEGATRON_SFT: ("megatron sft", [*MODEL, *DATA]),
    Job.MEGATRON_RLHF: ("megatron rlhf", [*MODEL, *DATA]),
    Job.MEGATRON_PRETRAIN: ("megatron pt", [*MODEL, *DATA]),
    Job.MEGATRON_EXPORT: ("megatron export", MODEL),
}


def named(case: tuple[FlagRow, Job]) -> str:
    row, job = case
    return f"{job.name.lower()} {row.flags}"


def cases(rows: tuple[FlagRow, ...]) -> list[tuple[FlagRow, Job]]:
    return [(row, job) for row in rows for job in row.jobs if job in COMMANDS]


def argv_of(case: tuple[FlagRow, Job]) -> list[str]:
    row, job = case
    example = [word.format(model=TINY_MODEL) if word == "{model}" else word for word in row.example]
    given = set(example)
    argv, skip = [], False
    for word in COMMANDS[job][1]:
        skip = word in given if word.startswith("--") else skip
        if not skip:
            argv.append(word)
    return [*argv, "--O3", "true", *example]


PARSED = [
    case
    for case in cases(ROWS)
    if case[0].example or case[0].outcome is not Outcome.WORKS or case[1] is Job.MEGATRON_SFT
]


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("parse") / "cases.json"
    file.write_text(
        json.dumps([{"class": COMMANDS[case[1]][0], "argv": argv_of(case)} for case in PARSED])
    )
    program = ROOT / "tests" / "e2e" / "parse_cases.py"
    run = run_program(python_program(str(program), str(file)), timeout_s=300)
    line = next((x for x in run.stdout.splitlines() if x.startswith("RESULTS")), None)
    assert line is not None, run.stderr[-3000:]
    results = json.loads(line.removeprefix("RESULTS"))
    return dict(zip(map(named, PARSED), results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(JOB_ROWS), ids=named)
def test_a_job_in_which_the_flag_does_nothing_is_refused(
    parsed: dict[str, dict[str, Any]], case: tuple[FlagRow, Job]
) -> None:
    assert parsed[named(case)].get("error") == f"SettingsError: {case[0].line}"


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(REFUSED_ROWS), ids=named)
def test_a_flag_that_cannot_work_is_refused_in_one_line(
    parsed: dict[str, dict[str, Any]], case: tuple[FlagRow, Job]
) -> None:
    assert parsed[named(case)].get("error") == f"SettingsError: {case[0].line}"
    assert "\n" not in case[0].line
    assert case[0].instead


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(HOST_ROWS), ids=named)
def test_ms_swift_refuses_with_its_own_message(
    parsed: dict[str, dict[str, Any]], case: tuple[FlagRow, Job]
) -> None:
    error = parsed[named(case)].get("error", "")
    assert case[0].error in error
    assert "SettingsError" not in error


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in cases(WORKING_ROWS) if c[0].example], ids=named)
def test_a_flag_that_works_is_accepted(
    parsed: dict[str, dict[str, Any]], case: tuple[FlagRow, Job]
) -> None:
    result = parsed[named(case)]
    assert "error" not in result
    assert result["remaining"] == []


@pytest.mark.slow
def test_supervised_training_of_megatron_masks_outputs(parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["megatron_sft megatron sft"]["fields"]["loss_scale"] == "thyme"


FIELDS_OF_CLASSES = """
import dataclasses, json
from swift.arguments import RLHFArguments, RolloutArguments, SftArguments
from swift.arguments.base_args.model_args import ModelArguments
from swift.arguments.base_args.quant_args import QuantizeArguments
from swift.arguments.infer_args import LmdeployArguments, SglangArguments
from swift.arguments.sft_args import SwanlabArguments
from swift.arguments.tuner_args import TunerArguments
from transformers import Seq2SeqTrainingArguments
whole = (ModelArguments, QuantizeArguments, LmdeployArguments, SglangArguments, SwanlabArguments,
         TunerArguments, Seq2SeqTrainingArguments)
def names(*kinds):
    return sorted({field.name for kind in kinds for field in dataclasses.fields(kind)})
print("FIELDS" + json.dumps([names(RLHFArguments, RolloutArguments, SftArguments), names(*whole)]))
"""


@pytest.mark.slow
def test_every_flag_of_ms_swift_is_in_the_table_or_declared_untouched() -> None:
    run = run_program(python_program("-c", FIELDS_OF_CLASSES))
    line = next((x for x in run.stdout.splitlines() if x.startswith("FIELDS")), None)
    assert line is not None, run.stderr[-3000:]
    fields, of_whole_classes = map(set, json.loads(line.removeprefix("FIELDS")))
    in_rows = {name for row in ROWS for name in row.fields}
    untouched = {name for names in UNTOUCHED.values() for name in names.split()}
    assert in_rows | untouched <= fields, "the table names a flag that ms-swift does not have"
    assert not in_rows & untouched
    assert fields - of_whole_classes <= in_rows | untouched


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.flags)
def test_the_test_that_a_row_names_is_there(row: FlagRow) -> None:
    for test in filter(None, (row.test, row.why_test)):
        file, _, function = test.partition("::")
        assert function in functions_of(ROOT / file)


def test_the_page_holds_the_table_as_it_is_declared() -> None:
    assert PAGE.is_current(), "run python scripts/flags_page.py --write"
    text = PAGE.path.read_text(encoding="utf-8")
    assert all(row.why in text.replace("&lt;", "<") for row in (*REFUSED_ROWS, *WORKING_ROWS))
