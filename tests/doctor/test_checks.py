"""The report on this machine: real probes, real servers, and what happens when they hang."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from swift_thyme.commands.main import app
from swift_thyme.core.finding import Finding, State
from swift_thyme.doctor import checks as doctor
from swift_thyme.doctor.checks import Check, findings
from swift_thyme.doctor.host import host_contract
from swift_thyme.host.contract_table import Group
from swift_thyme.rewards.local_judge import LocalJudge
from tests.conftest import python_program, run_program
from tests.host.hosts import HostCopy, host, host_files
from tests.sandbox.servers import ServerProcess

__all__ = ["host", "host_files"]


def look(*parts: Any, deadline_s: float = 30) -> dict[str, Finding]:
    """Run parts of the report and return its findings by subject."""
    sections = findings(deadline_s, [Check("Part", part) for part in parts])
    return {finding.subject: finding for finding in sections["Part"]}


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, dict[str, str]]]:
    """The whole report of this machine, as a program reads it."""
    run = run_program(
        python_program("-m", "swift_thyme.commands.main", "doctor", "--json"), timeout_s=120
    )
    value = json.loads(run.stdout)
    assert value["ok"] is (run.returncode == 0), run.stdout
    yield {finding["subject"]: finding for finding in value["findings"]}


def test_every_sandbox_layer_is_named_and_a_program_runs(
    report: dict[str, dict[str, str]],
) -> None:
    from swift_thyme.sandbox.layers import probe_layers

    for layer in probe_layers():
        finding = report[f"sandbox: {layer.name}"]
        assert finding["text"].startswith("on: " if layer.on else "off: ")
        assert finding["state"] == "ok" or finding["advice"] or layer.required
    assert report["sandbox: a program"]["state"] == "ok"


def test_our_logits_processor_fits_the_installed_vllm(report: dict[str, dict[str, str]]) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    assert report["vLLM sampling hook"]["state"] == "ok", report["vLLM sampling hook"]
    assert "loads" in report["vLLM sampling hook"]["text"]


def test_versions_gpu_disk_and_shared_memory_are_looked_at(
    report: dict[str, dict[str, str]],
) -> None:
    subjects = {"python", "ms-swift", "torch", "vllm", "gpu", "shared memory: /dev/shm", "judge"}
    assert subjects <= report.keys()
    assert any(subject.startswith("disk: ") for subject in report)


def test_the_contract_with_ms_swift_is_a_line_per_feature(
    report: dict[str, dict[str, str]],
) -> None:
    if importlib.util.find_spec("swift") is None:
        pytest.skip("ms-swift is not installed")
    for group in Group:
        finding = report[f"ms-swift: {group.value}"]
        assert finding["state"] == "ok"
        assert finding["section"] == "ms-swift"


def test_a_name_that_ms_swift_lacks_is_broken_and_named(host: HostCopy) -> None:
    with host.renamed("swift.rlhf_trainers.grpo_trainer", "_metrics"):
        found = look(host_contract)
    broken = [subject for subject, finding in found.items() if finding.state is State.BROKEN]
    assert broken == [f"ms-swift: {Group.CALLBACK.value}"]
    finding = found[broken[0]]
    assert finding.text == (
        "4.6.0 lacks any use of _metrics in swift.rlhf_trainers.grpo_trainer.GRPOTrainer"
    )
    assert "pip install 'ms-swift" in finding.advice


def test_without_ms_swift_there_is_no_contract_to_look_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swift_thyme.doctor.host.package_folder", lambda package: None)
    (finding,) = look(host_contract).values()
    assert finding.state is State.LOOK
    assert "not installed" in finding.text


def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = importlib.util.find_spec
    heavy = {"torch", "vllm", "swift", "transformers"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in heavy else find_spec(name)
    )

    def no_version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_version)
    found = look(doctor.versions, doctor.gpu, doctor.vllm_hook)
    assert found["ms-swift"].state is State.LOOK
    assert 'pip install "swift_thyme[swift]"' in found["ms-swift"].advice
    assert 'pip install "swift_thyme[vllm]"' in found["vllm"].advice
    assert "not installed" in found["gpu"].text
    assert "not installed" in found["vLLM sampling hook"].text
    assert not any(finding.state is State.BROKEN for finding in found.values())


def test_another_version_and_a_missing_need_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    monkeypatch.setattr(doctor, "NEEDED_MODULES", ("json", "no_such_module"))
    found = look(doctor.versions)
    assert found["torch"].state is State.LOOK
    assert "tested with 2.11.0" in found["torch"].advice
    assert found["needed packages"].state is State.BROKEN
    assert "no_such_module" in found["needed packages"].text


def test_a_layer_that_is_off_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THYME_SANDBOX_DISABLE", "landlock,namespaces")
    found = look(doctor.sandbox_layers)
    assert found["sandbox: landlock"].state is State.LOOK
    assert "Linux 5.13" in found["sandbox: landlock"].advice
    assert "user namespaces" in found["sandbox: pid namespace"].advice
    monkeypatch.setenv("THYME_SANDBOX", "perhaps")
    (finding,) = look(doctor.sandbox_layers).values()
    assert finding.state is State.BROKEN
    assert "THYME_SANDBOX" in finding.text


def test_code_runs_on_this_host_unless_servers_are_named() -> None:
    (finding,) = look(doctor.sandbox_backend).values()
    assert finding.state is State.OK
    assert finding.text.startswith("local")


def test_a_sandbox_server_that_answers_is_ok_and_its_layers_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ServerProcess(token="secret") as server:
        monkeypatch.setenv("THYME_SANDBOX_URL", server.url)
        monkeypatch.setenv("THYME_SANDBOX_TOKEN", "secret")
        found = look(doctor.sandbox_backend, doctor.sandbox_layers, doctor.sandbox_program)
        assert found["sandbox: backend"].text == "remote: 1 of THYME_SANDBOX_URL"
        assert "0 of 256 sessions" in found[f"sandbox: {server.url}"].text
        assert found["sandbox: layers"].text.startswith("those of the servers")
        assert "ran" in found["sandbox: a program"].text
        assert {finding.state for finding in found.values()} == {State.OK}
        monkeypatch.setenv("THYME_SANDBOX_TOKEN", "wrong")
        finding = look(doctor.sandbox_backend)[f"sandbox: {server.url}"]
        assert finding.state is State.BROKEN
        assert "401" in finding.text
        assert "THYME_SANDBOX_TOKEN" in finding.advice


def test_sandbox_servers_that_are_none_are_broken(
    monkeypatch: pytest.MonkeyPatch, server: Any
) -> None:
    page = server(200, b"<html>welcome</html>")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}", "http://127.0.0.1:9", page]
        monkeypatch.setenv("THYME_SANDBOX_URL", ",".join(urls))
        found = look(doctor.sandbox_backend, deadline_s=2)
    assert all(found[f"sandbox: {url}"].state is State.BROKEN for url in urls)
    assert "no answer" in found[f"sandbox: {urls[0]}"].text
    assert "cannot be asked" in found[f"sandbox: {urls[1]}"].text
    assert "is no sandbox server" in found[f"sandbox: {page}"].text
    monkeypatch.setenv("THYME_SANDBOX_URL", "ftp://a")
    (finding,) = look(doctor.sandbox_backend).values()
    assert finding.state is State.BROKEN
    assert "THYME_SANDBOX_URL" in finding.text


class Answers(BaseHTTPRequestHandler):
    """Answers every request with the status and body of its server."""

    def do_GET(self) -> None:
        status, body = self.server.reply  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    servers = []

    def start(status: int, body: bytes) -> str:
        http = HTTPServer(("127.0.0.1", 0), Answers)
        http.reply = (status, body)  # type: ignore[attr-defined]
        threading.Thread(target=http.serve_forever, daemon=True).start()
        servers.append(http)
        return f"http://127.0.0.1:{http.server_port}/v1"

    yield start
    for http in servers:
        http.shutdown()
        http.server_close()


def test_a_judge_that_answers_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalJudge() as judge:
        monkeypatch.setenv("THYME_JUDGE_URLS", judge.url)
        monkeypatch.setenv("THYME_JUDGE_MODEL", "local")
        found = look(doctor.judge)
    assert found[f"judge: {judge.url}"].state is State.OK
    assert "local answers" in found[f"judge: {judge.url}"].text


@pytest.mark.parametrize(
    ("status", "body", "text", "advice"),
    [
        (401, b"{}", "401", "THYME_JUDGE_API_KEY"),
        (404, b"{}", "404", "THYME_JUDGE_MODEL"),
        (500, b"{}", "500", "log"),
        (200, b"<html>welcome</html>", "OpenAI-compatible", "/v1"),
        (200, b'{"data": []}', "OpenAI-compatible", "/v1"),
    ],
)
def test_a_judge_that_answers_badly_is_broken_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, server: Any, status: int, body: bytes, text: str, advice: str
) -> None:
    url = server(status, body)
    monkeypatch.setenv("THYME_JUDGE_URLS", url)
    finding = look(doctor.judge)[f"judge: {url}"]
    assert finding.state is State.BROKEN
    assert text in finding.text
    assert advice in finding.advice


def test_silent_and_absent_judges_do_not_hold_the_report_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}/v1", "http://127.0.0.1:9/v1"]
        monkeypatch.setenv("THYME_JUDGE_URLS", ",".join(urls))
        found = look(doctor.judge, deadline_s=2)
    assert all(found[f"judge: {url}"].state is State.BROKEN for url in urls)
    assert "cannot be asked" in found[f"judge: {urls[1]}"].text


def test_unusable_reward_settings_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQA_WEIGHT", "much")
    (finding,) = look(doctor.judge).values()
    assert finding.state is State.BROKEN
    assert "VQA_WEIGHT" in finding.text


@pytest.mark.parametrize(
    ("free_gib", "state"), [(100.0, State.OK), (5.0, State.LOOK), (0.5, State.BROKEN)]
)
def test_a_full_disk_is_broken_and_a_filling_one_worth_a_look(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, state: State
) -> None:
    usage = SimpleNamespace(total=0, used=0, free=int(free_gib * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = look(doctor.disk)
    assert {finding.state for finding in found.values()} == {state}
    assert all(bool(finding.advice) is (state is not State.OK) for finding in found.values())


def test_small_shared_memory_is_worth_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20))
    (finding,) = look(doctor.shared_memory).values()
    assert finding.state is State.LOOK
    assert "--shm-size" in finding.advice


def test_a_check_that_never_ends_is_a_finding() -> None:
    release = threading.Event()

    def waits_forever(deadline_s: float) -> list[Finding]:
        release.wait()
        return []

    def crashes(deadline_s: float) -> list[Finding]:
        raise RuntimeError("no [way]")

    found = look(waits_forever, crashes, doctor.shared_memory, deadline_s=0.5)
    release.set()
    assert found["Part: waits forever"].state is State.BROKEN
    assert "no answer within 0.5 s" in found["Part: waits forever"].text
    assert found["Part: crashes"].text == "RuntimeError: no [way]"
    assert "shared memory: /dev/shm" in found


def test_a_probe_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(doctor.ProbeFailedError, match="no answer within 2 s"):
        doctor.probe(program, 2)
    pid = int(note.read_text())
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("raise ImportError('libcuda')", "ImportError: libcuda"),
        ("pass", "without a word"),
    ],
)
def test_a_probe_that_fails_says_how(program: str, message: str) -> None:
    with pytest.raises(doctor.ProbeFailedError, match=message):
        doctor.probe(program, 30)


def give(*found: Finding) -> Any:
    return lambda deadline_s: {"Part": list(found)}


GOOD = Finding("a", State.OK, "fine")
OTHER = Finding("b", State.LOOK, "version [1]", "use [bold]2[/]")
BAD = Finding("c", State.BROKEN, "no", "repair it")


@pytest.mark.parametrize(
    ("found", "status", "verdict"),
    [
        ([GOOD], 0, "ready"),
        ([GOOD, OTHER], 0, "ready; 1 to look at"),
        ([GOOD, OTHER, BAD], 1, "1 broken, 1 to look at"),
    ],
)
def test_the_exit_status_says_whether_something_is_broken(
    monkeypatch: pytest.MonkeyPatch, found: list[Finding], status: int, verdict: str
) -> None:
    monkeypatch.setattr("swift_thyme.commands.doctor.findings", give(*found))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == status
    lines = result.output.strip().splitlines()
    assert lines[-1] == verdict
    assert lines[0] == "ok     a: fine"
    if OTHER in found:
        assert lines[1] == "look   b: version [1] -> use [bold]2[/]"
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == status
    assert json.loads(result.output)["ok"] is (status == 0)


def test_in_a_terminal_a_table_is_drawn() -> None:
    import pty

    script = (
        "import swift_thyme.commands.doctor as d\n"
        "from swift_thyme.core.finding import Finding, State\n"
        "one = Finding('b', State.LOOK, 'version [1]', 'use [x]2[/]')\n"
        "d.findings = lambda s: {'Part': [one]}\n"
        "from types import SimpleNamespace\n"
        "d.doctor_command(SimpleNamespace(args=[]), as_json=False, timeout_s=1)"
    )
    written = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        written.extend(data)
        return data

    status = pty.spawn(python_program("-c", script), read)
    assert status == 0, written
    text = written.decode()
    assert "version [1]" in text
    assert "\u2192 use [x]2[/]" in text
    assert "ready; 1 to look at" in text
