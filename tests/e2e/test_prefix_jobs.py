"""A response prefix in real jobs of ms-swift: trained on by neither, read once by everybody.

The tiny model begins its turns with ``<think>`` by itself, so with ``<think>`` as the prefix all
else stays as it is without one.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from swift_thyme.core.placeholders import IMAGE_TOKENS
from swift_thyme.core.protocol import STOP_STRINGS
from swift_thyme.core.trajectory_files import read_trajectories
from swift_thyme.rewards.format import follows_format

from .jobs import VLLM_FLAGS, rollout_server, server_flags, training_log
from .test_rollouts import flat, mean_difference, run_and_capture

PREFIX = "<think>"


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("transformers", marks=pytest.mark.slow),
        pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.whole]),
    ],
)
def test_a_job_trains_and_rewards_what_it_would_without_the_prefix(
    engine: str, tmp_path: Path, tiny_data: Path
) -> None:
    flags = ("--response_prefix", PREFIX, *(VLLM_FLAGS if engine == "vllm" else ()))
    records, output = run_and_capture(tmp_path, tiny_data, *flags)
    assert sum(len(record["turns"]) == 2 for record in records) >= 6
    for record in records:
        ids, mask = flat(record["response_token_ids"]), flat(record["response_loss_mask"])
        trained = [i for i, m in zip(ids, mask, strict=True) if m]
        assert trained == flat([turn["token_ids"] for turn in record["turns"]])
        assert mask.index(1) == 1
        assert mean_difference(record, "trainer_logps") < 1e-2
        assert record["completion"].startswith(PREFIX)
        assert record["completion"].count(PREFIX) == 1
        assert ids.count(ids[0]) == 1
    in_format = [follows_format(record["completion"]) for record in records]
    assert sum(in_format) >= 6
    (step,) = training_log(output)
    assert step["rewards/FmtORM/mean"] == pytest.approx(0.5 * sum(in_format) / len(records))
    (file,) = output.glob("**/trajectories/rank0/trajectories.jsonl")
    completions = {r["completion"].replace(IMAGE_TOKENS, "<image>") for r in records}
    kept = list(read_trajectories(file))
    assert kept
    assert all(trajectory.completion in completions for trajectory in kept)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A `swift rollout` of the tiny model with the prefix; yields its address."""
    with rollout_server(
        tmp_path / "server.log", server_flags() | {"response_prefix": PREFIX}
    ) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.ci
def test_the_prompts_of_a_server_hold_the_prefix_in_every_turn(
    server: str, tiny_data: Path
) -> None:
    rows = [json.loads(line) for line in (tiny_data / "rl.jsonl").read_text().splitlines()[:4]]
    requests = [
        {
            "messages": row["messages"],
            "images": [base64.b64encode(Path(row["images"][0]).read_bytes()).decode()],
            "uuid": str(index),
        }
        for index, row in enumerate(rows)
    ]
    # What a trainer asks for.
    config = {
        **{"temperature": 0, "max_tokens": 200, "stop": list(STOP_STRINGS)},
        **{"return_details": True, "logprobs": True},
    }
    body = {"infer_requests": requests, "request_config": config}
    outputs: list[dict[str, Any]] = httpx.post(f"{server}/infer/", json=body, timeout=300).json()
    assert [output["rollout_infos"]["num_turns"] for output in outputs] == [2] * 4
    for output in outputs:
        (ids,), (mask,) = output["response_token_ids"], output["response_loss_mask"]
        assert mask.index(1) == 1
        completion = output["messages"][-1]["content"]
        assert completion.startswith(PREFIX)
        assert completion.count(PREFIX) == 1
        assert follows_format(completion)
        assert ids.count(ids[0]) == 1
        # The last prompt is everything up to what the last turn sampled, images expanded.
        response = output["response"]
        sampled = response["choices"][0]["token_ids"]
        prompt = response["prompt_token_ids"]
        once = [i for k, i in enumerate(prompt) if k == 0 or i != prompt[k - 1]]
        before = ids[: len(ids) - len(sampled)]
        expected = [i for k, i in enumerate(before) if k == 0 or i != before[k - 1]]
        assert once[len(once) - len(expected) :] == expected
        assert len(flat(output["rollout_logprobs"])) == sum(mask)
