"""The hook inside real engines: ms-swift's vLLM and transformers engines on the tiny model.

One process per engine samples everything (``engine_cases.py``); here are the claims. Seeds are
fixed, so a p-value is the same number at each run; its bound is the chance of an unlucky seed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from swift_thyme.core.repetition import CHECK_EVERY, repetition_end
from swift_thyme.sampling.sampling_settings import VLLM_HOOK
from tests.conftest import python_program, run_program
from tests.sampling.scripts import SCRIPTS

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3
"""In logits of float32: what two engines may disagree by, so that a tie is no error."""

LEAST_P = 1e-3
"""p-value that a fixed seed must reach; the wrong temperature gives less than 1e-9."""


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def sampled(
    engine: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("sampled") / f"{engine}.json"
    run = run_program(
        python_program("-m", "tests.sampling.engine_cases", engine, str(tiny_data), str(out))
    )
    assert run.returncode == 0, run.stderr[-4000:]
    results: dict[str, Any] = json.loads(out.read_text())
    return results


def test_vllm_loads_the_hook_by_name_without_ms_swift() -> None:
    program = (
        "import sys\n"
        "from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns as load\n"
        f"(hook,) = load([{VLLM_HOOK!r}])\n"
        "print(hook.__name__, 'swift' in sys.modules)\n"
    )
    run = run_program(python_program("-c", program))
    assert run.stdout.endswith("ThymeLogitsProcessor False\n"), run.stderr[-3000:]


def p_value(counts: list[int], logits: list[float], temperature: float) -> float:
    """Chi-square test of draws against a softmax; tokens expected less than 5 times are pooled."""
    scaled = np.array(logits) / temperature
    expected = np.exp(scaled - scaled.max())
    expected *= sum(counts) / expected.sum()
    often = expected >= 5
    observed = np.append(np.array(counts)[often], np.array(counts)[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    assert len(observed) > 5
    return float(chisquare(observed, expected).pvalue)


def test_every_token_inside_code_is_the_arg_max_of_the_models_own_logits(
    sampled: dict[str, Any],
) -> None:
    assert sampled["on"]["n_blocks"] >= 200
    assert len(sampled["on"]["gaps"]) > 10_000
    assert max(sampled["on"]["gaps"]) <= TOLERANCE
    assert sampled["on"]["n_text_not_best"] > 200


def test_top_k_top_p_a_penalty_and_a_seed_change_nothing_inside_code(
    sampled: dict[str, Any],
) -> None:
    assert sampled["composed"]["n_blocks"] >= 60
    assert max(sampled["composed"]["gaps"]) <= TOLERANCE
    assert sampled["composed"]["n_text_not_best"] > 30


def test_text_is_sampled_at_temperature_one(sampled: dict[str, Any]) -> None:
    counts, logits = sampled["text"]
    assert p_value(counts, logits, 1.0) > LEAST_P
    assert p_value(counts, logits, 0.7) < 1e-9


def test_a_prompt_that_ends_inside_code_is_continued_greedily(sampled: dict[str, Any]) -> None:
    counts, logits = sampled["greedy"]
    assert counts[int(np.argmax(logits))] == sum(counts) == 600


def test_code_varies_without_the_hook(sampled: dict[str, Any]) -> None:
    counts, logits = sampled["off"]
    assert np.count_nonzero(counts) > 10
    assert p_value(counts, logits, 1.0) > LEAST_P


def test_code_may_have_a_temperature_between_zero_and_that_of_text(
    sampled: dict[str, Any],
) -> None:
    counts, logits = sampled["half"]
    assert p_value(counts, logits, 0.5) > LEAST_P
    assert p_value(counts, logits, 1.0) < 1e-9


def test_no_placeholder_is_ever_sampled(sampled: dict[str, Any]) -> None:
    for case in ("text", "greedy", "half"):
        counts, _ = sampled[case]
        assert sum(counts[i] for i in sampled["forbidden"]) == 0


def test_the_probe_before_the_first_step_notices_that_the_hook_is_missing(
    sampled: dict[str, Any],
) -> None:
    assert sampled["probe"]["on"] == ["", ""]
    for said in sampled["probe"]["off"]:
        assert "samples without the sampling hook" in said
        assert "\n" not in said


def test_the_warm_up_before_the_first_step_leaves_the_engine_as_it_was(
    engine: str, sampled: dict[str, Any]
) -> None:
    if engine != "vllm":
        assert "warm_up" not in sampled
        return
    awake, sleeping, too_long = sampled["warm_up"]
    assert awake == {"said": "done", "idle": True, "same": True}
    assert sleeping == {**awake, "said": "done as far as sleeping weights allow"}
    assert too_long["said"].startswith("was not possible: MaxLengthError: ")
    assert "\n" not in too_long["said"]
    assert too_long["idle"] and too_long["same"]


def test_a_looping_generation_ends_within_64_tokens_of_the_loop_being_evident(
    engine: str, sampled: dict[str, Any]
) -> None:
    for name, result in sampled["loops"].items():
        ids, script = result["token_ids"], SCRIPTS[name]
        end = repetition_end(script)
        if end is None:
            assert ids[: len(script)] == script
            continue
        assert ids[:end] == script[:end]
        assert len(ids) == end + 1 <= end + 64 - CHECK_EVERY
        assert result["finish_reason"] == "stop"
    assert {"one", "three", "fifty", "none"} <= sampled["loops"].keys()
    assert engine == "transformers" or "hundreds" in sampled["loops"]


def test_code_tokens_have_the_log_probability_of_a_certain_choice(
    engine: str, sampled: dict[str, Any]
) -> None:
    # ms-swift asks no other engine for log-probabilities.
    expected = {0.0} if engine == "vllm" else set()
    assert set(sampled.get("code_logprobs", [])) == expected
