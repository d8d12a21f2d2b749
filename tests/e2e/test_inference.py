"""``thyme ask``, ``serve`` and ``eval`` as a user calls them, on the embedded tiny model."""

import base64
import concurrent.futures
import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from swift_thyme.core.trajectory_files import read_trajectories
from swift_thyme.testbed.data import QUESTION
from swift_thyme.testbed.tsv import TsvPaths, make_tsvs
from tests.conftest import ROOT, TINY_MODEL, cpu_environment, python_program, run_program

THYME = ("-m", "swift_thyme.commands.main")
MODEL = ("--model", str(TINY_MODEL), "--max-model-len", "1024")


@pytest.fixture(scope="module")
def tsvs(tmp_path_factory: pytest.TempPathFactory) -> TsvPaths:
    return make_tsvs(tmp_path_factory.mktemp("tsv"), 24, seed=5)


def start(*argv: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        python_program(*THYME, *argv),
        cwd=ROOT,
        env=cpu_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def session_processes(session: int) -> list[str]:
    """Return what still runs of a session; what is just ending gets a moment."""
    deadline = time.monotonic() + 10
    while (found := running_now(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def running_now(session: int) -> list[str]:
    """Return the command lines of the processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_ask_shows_code_result_and_answer_and_keeps_them(tmp_path: Path, tiny_data: Path) -> None:
    rows = [json.loads(line) for line in (tiny_data / "eval.jsonl").read_text().splitlines()]
    image, save = rows[0]["images"][0], tmp_path / "kept"
    run = run_program(
        python_program(*THYME, "ask", *MODEL, "--image", image, "--save", str(save), QUESTION)
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    for part in ("<code>", "image.crop((", "<sandbox_output><image></sandbox_output>"):
        assert part in run.stdout
    (record,) = read_trajectories(save / "trajectories.jsonl")
    assert record.tool_used
    assert f"answer: {record.answer}" in run.stdout
    assert record.completion.replace("\n", "") in run.stdout.replace("\n", "").replace(
        f"<image>: 112x112 pixels, saved as {save}/{record.all_images[1].file}", ""
    )
    assert all((save / image.file).is_file() for image in record.all_images)


@pytest.mark.slow
def test_ctrl_c_ends_ask_without_a_trace(tiny_data: Path) -> None:
    image = str(next(tiny_data.glob("pictures/*.jpg")))
    # At this temperature the model goes on until its limit.
    process = start(
        *("ask", *MODEL, "--image", image, QUESTION, "--temperature", "5", "--max-tokens", "800")
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"
    assert session_processes(process.pid) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("ask", "--endpoint", "http://127.0.0.1:9/v1", "Q?"), "127.0.0.1:9/v1 cannot be reached"),
        (("ask", "--model", "./nowhere", "Q?"), "--model ./nowhere: no such folder"),
        (("ask", *MODEL, "--image", "gone.jpg", "Q?"), "--image gone.jpg"),
        (("ask", "Q?"), "give --model, or --endpoint"),
        (("eval", *MODEL, "--out", "x", "--data", "gone.tsv"), "gone.tsv cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(argv: tuple[str, ...], words: str) -> None:
    run = run_program(python_program(*THYME, *argv))
    assert run.returncode == 1
    assert words in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on_and_reports_the_same(
    tmp_path: Path, tsvs: TsvPaths
) -> None:
    common = ("--engine", "transformers", *MODEL, "--prompt", "question", "--tools", "all")
    data = ("--data", str(tsvs.vstar), "--temperature", "0.6", "--max-tokens", "150")

    def command(out: Path) -> tuple[str, ...]:
        return ("eval", *data, *common, "--out", str(out), "--concurrency", "4", "--limit", "16")

    whole = run_program(python_program(*THYME, *command(tmp_path / "whole")))
    assert whole.returncode == 0, whole.stderr
    killed = start(*command(tmp_path / "killed"))
    lines = tmp_path / "killed" / "trajectories.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        if lines.exists() and lines.read_bytes().count(b"\n") >= 8:
            break
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    before = lines.read_bytes().count(b"\n")
    assert 8 <= before < 48
    again = run_program(python_program(*THYME, *command(tmp_path / "killed")))
    assert again.returncode == 0, again.stderr
    first, second = report_of(tmp_path / "whole"), report_of(tmp_path / "killed")
    assert first["results"] == second["results"]
    results = first["results"]
    assert results["tools"]["trajectories"] == results["no-tools"]["trajectories"] == 16
    assert results["tools"]["accuracy"]["mean"] > 0.6
    assert results["no-tools"]["accuracy"]["mean"] < 0.3
    assert results["tools"]["tool_use_rate"] > 0.9
    assert results["no-tools"]["tool_use_rate"] == 0
    assert results["plain"]["trajectories"] == 16
    assert results["plain"]["tool_use_rate"] == 0
    effect = results["effects"]["no-tools"]
    assert effect["answers_that_change"]["mean"] > 0.6
    assert effect["difference"]["low"] > 0
    assert results["effects"]["plain"]["difference"]["n"] == 16
    for words in ("with the tool", "plain prompt", "tool refused", "only with the tool"):
        assert words in whole.stdout
    page = (tmp_path / "whole" / "results.html").read_text(encoding="utf-8")
    assert page.count('"id":"') == page.count("/run1/") == 48
    check_predictions(tmp_path / "whole", tsvs, results["tools"]["accuracy"]["mean"])
    other = run_program(python_program(*THYME, *command(tmp_path / "killed"), "--seed", "1"))
    assert other.returncode == 1
    assert "another configuration (sampling.seed was 0, is 1; seed was 0, is 1)" in other.stderr


def check_predictions(out: Path, tsvs: TsvPaths, accuracy: float) -> None:
    """The prediction file is the data without images, and its letters give the same accuracy."""
    (path,) = out.glob("vlmeval/model/model_plates_vstar.tsv")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert set(rows[0]) == {
        *("index", "question", "A", "B", "C", "D", "answer", "category", "prediction")
    }
    assert len(rows) == 16
    assert sum(row["prediction"] == row["answer"] for row in rows) / 16 == pytest.approx(accuracy)


class Server:
    """A running ``thyme serve``."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=30).json()
        return health


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    process = start("serve", "--engine", "vllm", *MODEL, "--port", "0", THYME_API_KEY="s3cret")
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        if " at http://" in line:
            url = line.rpartition(" at ")[2].strip().removesuffix("/v1")
            break
    assert url, "the server did not start"
    try:
        yield Server(process, url)
    finally:
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert session_processes(process.pid) == []


def plate_messages(row: dict[str, str]) -> list[dict[str, Any]]:
    url = f"data:image/jpeg;base64,{row['image']}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": row["question"]},
    ]
    return [{"role": "user", "content": content}]


@pytest.mark.slow
def test_the_openai_client_gets_answers_from_the_vllm_engine(
    server: Server, tsvs: TsvPaths
) -> None:
    openai = pytest.importorskip("openai")
    csv.field_size_limit(1 << 30)
    with open(tsvs.vstar, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="s3cret") as client:
        name = client.models.list().data[0].id
        plain = client.chat.completions.create(
            model=name, messages=plate_messages(rows[0]), extra_body={"thyme": {"images": True}}
        )
        assert plain.thyme["end_reason"] == "answer"
        returned = [i for s in plain.thyme["segments"] for i in s["images"]]
        assert base64.b64decode(returned[0]["url"].partition(",")[2]).startswith(b"\x89PNG")
        assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
        stream = client.chat.completions.create(
            model=name, messages=plate_messages(rows[0]), stream=True
        )
        deltas = [chunk.choices[0].delta for chunk in stream]
        message = plain.choices[0].message
        assert "".join(d.content or "" for d in deltas) == message.content
        reasoning = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
        assert reasoning == message.reasoning_content
        assert len(deltas) > 40

        def answer(row: dict[str, str]) -> bool:
            reply = client.chat.completions.create(model=name, messages=plate_messages(row))
            return bool(reply.choices[0].message.content == row[row["answer"]])

        clients = [*rows, *rows[:8]]
        with concurrent.futures.ThreadPoolExecutor(32) as threads:
            right = list(threads.map(answer, clients))
        assert len(right) == 32
        assert sum(right) >= 20
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong").models.list()
        leaving = client.chat.completions.create(
            model=name, messages=plate_messages(rows[0]), stream=True, temperature=5
        )
        next(iter(leaving))
        leaving.close()
    for _ in range(100):
        if not server.health()["running"]:
            break
        time.sleep(0.05)
    assert server.health() == {"status": "ok", "running": 0, "waiting": 0}
