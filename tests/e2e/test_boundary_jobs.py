"""A real GRPO job and server whose scripted model ends tags inside tokens of Qwen's vocabulary."""

import json
import urllib.request
from pathlib import Path

import pytest

from swift_thyme.core.protocol import STOP_STRINGS
from tests.conftest import ROOT
from tests.sampling.boundary_scripts import ANSWER, CODE, PUNCTUAL, SCRIPTS, prompt_of

from .jobs import VLLM_FLAGS, as_argv, grpo_flags, rollout_server, swift, training_log

FLAGS = {
    "template": "qwen2_5_vl",
    "max_pixels": 12544,
    "stop_words": ["<code>"],
    "reward_funcs": ["fmt_orm"],
    "overlong_filter": True,
    "rollout_importance_sampling_mode": "token_truncate",
    "vllm_engine_kwargs": json.dumps(
        {"logits_processors": ["tests.sampling.boundary_logits:BoundaryLogits"]}
    ),
}


@pytest.mark.slow
@pytest.mark.whole
def test_the_trainer_takes_turns_that_end_inside_tokens(
    real_vocabulary: Path, tiny_data: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (tiny_data / "rl.jsonl").read_text().splitlines()]
    carries_more = [n for n in range(PUNCTUAL) if SCRIPTS[n].tail[1:].strip()]
    for row, number in zip(rows, carries_more, strict=False):
        row["messages"][-1]["content"] += prompt_of(number)
    (tmp_path / "rl.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[: len(carries_more)])
    )
    flags = grpo_flags(tmp_path, tmp_path / "run", steps=1) | FLAGS
    argv = as_argv(flags | {"model": str(real_vocabulary)})
    run = swift("rlhf", *argv, *VLLM_FLAGS, PYTHONPATH=str(ROOT))
    assert run.returncode == 0, run.stderr[-4000:]
    (record,) = training_log(tmp_path / "run")
    assert record["thyme/tool_use_rate"] == record["thyme/end/answer"] == 1
    assert record["thyme/boundary_repairs"] == 2
    assert record["rewards/FmtORM/mean"] == 0.5
    # The trainer compares the engine's log-probabilities with its own, one for each trained id.
    assert "rollout_correction/kl" in record


@pytest.mark.slow
@pytest.mark.whole
def test_a_server_runs_code_that_ends_inside_tokens(real_vocabulary: Path, tmp_path: Path) -> None:
    flags = {
        "model": real_vocabulary,
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "external_plugins": ["plugin/agent_rm.py", "plugin/testbed.py"],
        "O3": True,
        "torch_dtype": "float32",
        "use_hf": True,
        "vllm_max_model_len": 1024,
        "vllm_enforce_eager": True,
        "vllm_gpu_memory_utilization": 0.3,
        "vllm_engine_kwargs": FLAGS["vllm_engine_kwargs"],
    }
    requests = [
        {"messages": [{"role": "user", "content": prompt_of(number)}], "uuid": str(number)}
        for number in range(len(SCRIPTS))
    ]
    config = {"max_tokens": 100, "temperature": 1.0, "stop": list(STOP_STRINGS)}
    config |= {"return_details": True, "logprobs": True}
    body = json.dumps({"infer_requests": requests, "request_config": config}).encode()
    with rollout_server(tmp_path / "server.log", flags) as port:
        url, kind = f"http://127.0.0.1:{port}/infer/", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=300) as answer:
            outputs = json.loads(answer.read())
    for number, (script, output) in enumerate(zip(SCRIPTS, outputs, strict=True)):
        tail = script.tail if not script.tail[1:].strip() else ">"
        assert output["messages"][-1]["content"] == (
            f"{CODE.format(n=number)}{script.code}{tail}"
            f"<sandbox_output>{number * 7}</sandbox_output>"
            f"{ANSWER.format(n=number)}{script.answer}{tail}"
        )
        infos = output["rollout_infos"]
        assert infos["thyme_end_reason"] == "answer"
        assert infos["thyme_boundary_repairs"] == (2 if tail != script.tail else 0)
        (mask,), (logprobs,) = output["response_loss_mask"], output["rollout_logprobs"]
        assert sum(mask) == len(logprobs) == infos["thyme_sampled_tokens"]
