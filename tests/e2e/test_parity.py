"""The same trajectories in every mode: transformers, vLLM in colocate mode, ``swift rollout``.

With WHOLE=true colocate mode comes twice: without barriers, which is the default, and turn by turn.

Real ``swift`` jobs, with the scripted policy of ``parity_plugin.py``: one job per mode says all
scripts of ``parity_scripts.py`` in one batch, twice each, and what was to be trained on is compared
entry by entry.
"""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.core.protocol import STOP_STRINGS
from tests.conftest import ROOT, TINY_MODEL, wanted_whole

from . import parity_scripts as scripts
from .jobs import as_argv, grpo_flags, rollout_server, swift, training_log

pytestmark = [pytest.mark.slow, pytest.mark.ci]

MODES = ("transformers", "colocate", "server", *(("turns",) if wanted_whole() else ()))
PLUGIN, CAPTURE = "tests/e2e/parity_plugin.py", "tests/e2e/parity_capture_plugin.py"
COPIES = 2
EXACT = ("response_token_ids", "response_loss_mask", "messages", "finish_reason", "images")
TIMES = {"thyme_sandbox_s"}
LIMITS = {
    "multi_turn_scheduler": "parity",
    "max_turns": scripts.MAX_TURNS,
    "max_length": scripts.MAX_TOKENS,
    "vllm_limit_mm_per_prompt": json.dumps({"image": scripts.MAX_IMAGES}),
}
VLLM = {
    "vllm_max_model_len": scripts.MAX_TOKENS,
    "vllm_enforce_eager": True,
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_engine_kwargs": json.dumps(
        {"logits_processors": ["tests.e2e.parity_logits:ParityLogits"]}
    ),
}


def rows_in(folder: Path, data: Path) -> Path:
    """Write one row per script, all about the same picture."""
    row = json.loads((data / "rl.jsonl").read_text().splitlines()[0])
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for name in scripts.SCRIPTS:
            messages = [dict(message) for message in row["messages"]]
            messages[-1]["content"] = messages[-1]["content"].replace(
                row["question"], scripts.question_of(name)
            )
            file.write(json.dumps({**row, "messages": messages, "solution": "2"}) + "\n")
    return path


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health/", timeout=2)
    except OSError:
        return False
    return True


SERVER = {
    "model": TINY_MODEL,
    "model_type": "qwen2_5_vl",
    "template": "thyme_tiny",
    "external_plugins": ["plugin/agent_rm.py", "plugin/testbed.py", PLUGIN],
    "O3": True,
    "torch_dtype": "float32",
    "use_hf": True,
    **LIMITS,
    **VLLM,
}


def run_job(
    folder: Path, data: Path, environment: dict[str, str] | None = None, **mode: Any
) -> tuple[list[dict[str, Any]], Path]:
    """Run one step of GRPO and return its samples."""
    output, capture = folder / "run", folder / "samples.jsonl"
    flags = grpo_flags(data, output, plugins=(PLUGIN, CAPTURE))
    flags |= {
        "dataset": str(rows_in(folder, data)),
        "max_completion_length": scripts.MAX_TURN_TOKENS,
        "num_generations": COPIES,
        "per_device_train_batch_size": len(scripts.SCRIPTS),
        "gradient_accumulation_steps": COPIES,
        **LIMITS,
        **mode,
    }
    path = f"{ROOT}:{ROOT / 'tests' / 'e2e' / 'cpu_server'}"
    variables = {"THYME_CAPTURE": str(capture), "PYTHONPATH": path, **(environment or {})}
    job = swift("rlhf", *as_argv(flags), **variables)
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    return [json.loads(line) for line in capture.read_text().splitlines()], output


class Jobs:
    """The job of each mode, run when it is asked for.

    Args:
        factory: Makes folders.
        data: The rows of the testbed.
    """

    def __init__(self, factory: pytest.TempPathFactory, data: Path) -> None:
        self._factory, self._data = factory, data
        self._done: dict[str, tuple[list[dict[str, Any]], Path]] = {}
        self.refusal = ""
        """What a running server answers to a batch in which one picture is broken."""
        self.reasons_after: list[str] = []
        """How the trajectories of the next batch end."""

    def samples(self, mode: str, name: str) -> list[dict[str, Any]]:
        """Return the samples of one script."""
        return [record for record in self._job(mode)[0] if record["script"] == name]

    def log(self, mode: str) -> dict[str, Any]:
        """Return what the job logged of its step."""
        (record,) = training_log(self._job(mode)[1])
        return record

    def _job(self, mode: str) -> tuple[list[dict[str, Any]], Path]:
        if mode not in self._done:
            folder = self._factory.mktemp(f"parity_{mode}")
            self._done[mode] = self._run(mode, folder)
        return self._done[mode]

    def _run(self, mode: str, folder: Path) -> tuple[list[dict[str, Any]], Path]:
        if mode == "transformers":
            return run_job(folder, self._data)
        if mode in ("colocate", "turns"):
            choice = {} if mode == "colocate" else {"THYME_ROLLOUT": "turns"}
            flags = {"use_vllm": True, "vllm_mode": "colocate", **VLLM}
            return run_job(folder, self._data, choice, **flags)
        with rollout_server(folder / "server.log", SERVER) as port:
            done = run_job(
                folder,
                self._data,
                use_vllm=True,
                vllm_mode="server",
                vllm_server_host="127.0.0.1",
                vllm_server_port=port,
                vllm_max_model_len=scripts.MAX_TOKENS,
            )
            rows = rows_in(folder, self._data).read_text().splitlines()
            good, bad = (request_of(json.loads(row)) for row in rows[:2])
            bad["images"] = ["bm90IGEgcGljdHVyZQ=="]
            self.refusal = ask(port, [good, bad])
            answers = json.loads(ask(port, [good, good]))
            self.reasons_after = [a["rollout_infos"]["thyme_end_reason"] for a in answers]
        return done


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    image = base64.b64encode(Path(row["images"][0]).read_bytes()).decode()
    messages = [message for message in row["messages"] if message["role"] != "assistant"]
    return {"messages": messages, "images": [image], "data_dict": {"question": row["question"]}}


def ask(port: int, requests: list[dict[str, Any]]) -> str:
    """Have a server run trajectories, as ms-swift's client does, and return its answer."""
    config = {"max_tokens": 64, "temperature": 1.0, "return_details": True, "logprobs": True}
    config["stop"] = list(STOP_STRINGS)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/infer/",
        json.dumps({"infer_requests": requests, "request_config": config}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=100) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Jobs:
    return Jobs(tmp_path_factory, tiny_data)


def flat(nested: list[list[Any]]) -> list[Any]:
    return [item for inner in nested for item in inner]


def without_times(infos: dict[str, Any]) -> dict[str, Any]:
    blocks = [
        {k: v for k, v in block.items() if k != "duration_s"}
        for block in infos["thyme_block_records"]
    ]
    kept = {k: v for k, v in infos.items() if k not in TIMES}
    return {**kept, "thyme_block_records": blocks}


def with_one_placeholder_per_image(ids: list[int], image_id: int) -> list[int]:
    pairs = zip(ids, [None, *ids], strict=False)
    return [token for token, before in pairs if token != image_id or before != image_id]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", scripts.SCRIPTS)
def test_every_mode_trains_on_the_same(jobs: Jobs, mode: str, name: str) -> None:
    expected = jobs.samples("transformers", name)[0]
    samples = jobs.samples(mode, name)
    assert len(samples) == COPIES
    for sample in samples:
        for entry in EXACT:
            assert sample[entry] == expected[entry], entry
        assert sample["rewards"] == pytest.approx(expected["rewards"], nan_ok=True)
        assert without_times(sample["infos"]) == without_times(expected["infos"])
        assert sample["infos"]["thyme_end_reason"] == scripts.ENDS[name]
        trained = sum(flat(sample["response_loss_mask"]))
        logprobs = flat(sample["rollout_logprobs"])
        assert len(logprobs) == trained == len(flat(expected["rollout_logprobs"]))
        assert logprobs == pytest.approx(flat(expected["rollout_logprobs"]), abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", scripts.SCRIPTS)
def test_the_last_prompt_ends_with_the_ids_of_the_trajectory_so_far(
    jobs: Jobs, mode: str, name: str
) -> None:
    for sample in jobs.samples(mode, name):
        assert sample["last_prompt"] == jobs.samples("transformers", name)[0]["last_prompt"]
        # A prompt of one turn ends where the assistant begins.
        beginning = jobs.samples(mode, "answer")[0]["last_prompt"][-3:]
        prompt = with_one_placeholder_per_image(sample["last_prompt"], sample["image_id"])
        at = max(i for i in range(3, len(prompt) + 1) if prompt[i - 3 : i] == beginning)
        so_far = prompt[at:]
        assert so_far == flat(sample["response_token_ids"])[: len(so_far)]
        assert bool(so_far) == (sample["infos"]["num_turns"] > 1)


def test_every_mode_logs_the_same_metrics(jobs: Jobs) -> None:
    logs = {mode: jobs.log(mode) for mode in MODES}
    names = {
        name
        for name in logs["transformers"]
        if name.startswith(("thyme/", "rewards/", "reward"))
        and not name.endswith(("_s", "_ms"))
        and not name.startswith("thyme/time/")
    }
    assert {"thyme/end/repetition", "thyme/end/length_limit", "thyme/tool_use_rate"} <= names
    expected = {name: logs["transformers"][name] for name in names}
    for mode in MODES:
        assert {name: logs[mode].get(name) for name in names} == pytest.approx(expected), mode


def test_a_server_says_why_it_refuses_a_batch_and_takes_the_next(jobs: Jobs) -> None:
    jobs.log("server")
    assert jobs.refusal.startswith("500")
    assert "image 1 of the row with" in jobs.refusal and "is not an image" in jobs.refusal
    assert jobs.reasons_after == ["answer", "answer"]
