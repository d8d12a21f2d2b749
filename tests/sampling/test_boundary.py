"""Tags that end inside tokens of Qwen's vocabulary, on ms-swift's engines with a scripted policy.

One process per engine rolls everything out (``boundary_cases.py``); here are the claims.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import python_program, run_program
from tests.sampling.boundary_scripts import ANSWER, CODE, LATE, PUNCTUAL, SCRIPTS

pytestmark = pytest.mark.slow

ENGINES = ["transformers", "vllm"]


@pytest.fixture(scope="module")
def rolled_out(
    real_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    results = {}
    for engine in ENGINES:
        out = tmp_path_factory.mktemp("boundary") / f"{engine}.json"
        program = ("-m", "tests.sampling.boundary_cases", engine, str(real_vocabulary), str(out))
        run = run_program(python_program(*program))
        assert run.returncode == 0, run.stderr[-4000:]
        results[engine] = json.loads(out.read_text())
    return results


@pytest.mark.parametrize("engine", ENGINES)
def test_the_code_runs_the_answer_counts_and_trained_ids_are_sampled_ids(
    rolled_out: dict[str, list[dict[str, Any]]], engine: str
) -> None:
    for number, (script, result) in enumerate(zip(SCRIPTS, rolled_out[engine], strict=True)):
        tail = script.tail if not script.tail[1:].strip() else ">"
        text = (
            f"{CODE.format(n=number)}{script.code}{tail}"
            f"<sandbox_output>{number * 7}</sandbox_output>"
            f"{ANSWER.format(n=number)}{script.answer}{tail}"
        )
        assert result["text"] == text
        assert result["format"]
        assert result["finish_reason"] == "stop"
        infos = result["infos"]
        assert infos["thyme_end_reason"] == "answer"
        assert infos["thyme_tool_used"] is True
        assert infos["thyme_boundary_repairs"] == (2 if tail != script.tail else 0)
        trained = [i for i, m in zip(result["ids"], result["mask"], strict=True) if m]
        sampled = iter(i for turn in result["sampled"] for i in turn)
        assert all(token_id in sampled for token_id in trained)
        assert infos["thyme_sampled_tokens"] == len(trained)
        assert result["n_logprobs"] == (len(trained) if engine == "vllm" else 0)


def test_both_engines_give_the_same_rollouts(
    rolled_out: dict[str, list[dict[str, Any]]],
) -> None:
    for one, other in zip(*rolled_out.values(), strict=True):
        for result in (one, other):
            del result["n_logprobs"], result["infos"]["thyme_sandbox_s"]
            for block in result["infos"]["thyme_block_records"]:
                del block["duration_s"]
        assert one == other


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_stop_at_the_usual_spellings(
    rolled_out: dict[str, list[dict[str, Any]]], engine: str
) -> None:
    surplus = [
        sum(map(len, result["sampled"])) - sum(result["mask"]) for result in rolled_out[engine]
    ]
    assert max(surplus[:PUNCTUAL]) == 2
    # With other spellings they say everything; the trajectory leaves it out.
    assert min(surplus[PUNCTUAL:]) > len(LATE.split())
