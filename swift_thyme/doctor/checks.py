"""Is this machine ready? One finding per line: ok, or what to do.

Every check runs in a thread of its own with a deadline, and whatever could hang or crash (CUDA,
vLLM, the sandbox) in a process of its own, so the report always comes. Nothing here needs ms-swift,
torch or vLLM to be installed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import SettingsError, ThymeError
from swift_thyme.core.finding import Finding, State
from swift_thyme.doctor.host import host_contract
from swift_thyme.doctor.sandbox_backend import is_remote, sandbox_backend
from swift_thyme.doctor.threads import threads

__all__ = ["CHECKS", "Check", "ProbeFailedError", "findings", "probe"]

TESTED_VERSIONS = {
    "ms-swift": "4.6.0",
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "transformers": "5.19.0",
    "vllm": "0.23.0",
    "trl": "0.29.1",
    "qwen_vl_utils": "0.0.14",
}
"""Versions that this package was run with."""

NEEDED_MODULES = (
    *("cv2", "httpx", "latex2sympy2_extended", "numpy", "PIL", "pygments", "rich", "sympy"),
    "typer",
)

DEADLINE_S = 60.0
"""Longest wait for one check, in seconds."""
JUDGE_DEADLINE_S = 10.0
"""Longest wait for one judge endpoint, in seconds."""
LEAST_FREE_GIB = 10
LEAST_USABLE_GIB = 1
LEAST_SHARED_MEMORY_GIB = 1


class Check(NamedTuple):
    """A part of the report."""

    section: str
    run: Callable[[float], Iterable[Finding]]
    """Takes the longest wait in seconds for whatever it waits for."""


class ProbeFailedError(ThymeError):
    """A program that looks at something ended badly; the message says how."""


def probe(program: str, deadline_s: float) -> dict[str, Any]:
    """Run a Python program in a process of its own and return the JSON object it prints last.

    Raises:
        ProbeFailedError: It failed, was killed, or took too long.
    """
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, log = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired as error:
            raise ProbeFailedError(f"no answer within {deadline_s:.0f} s") from error
        finally:
            # The probe may have left children behind, in its own group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode < 0:
        raise ProbeFailedError(f"killed by {signal.Signals(-process.returncode).name}")
    lines = output.strip().splitlines()
    if process.returncode != 0 or not lines:
        last = [line for line in log.strip().splitlines() if line.strip()][-1:]
        raise ProbeFailedError(last[0].strip()[:300] if last else "it ended without a word")
    value: dict[str, Any] = json.loads(lines[-1])
    return value


# ---- versions ---------------------------------------------------------------------------------


def _installed(name: str) -> str | None:
    # The CPU build of vLLM is a distribution of its own that provides the same package.
    for distribution in (name, f"{name}-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def versions(deadline_s: float) -> Iterator[Finding]:
    """Compare what is installed with what this package was run with."""
    python = platform.python_version()
    supported = (3, 10) <= sys.version_info[:2] < (3, 13)
    state = State.OK if supported else State.BROKEN
    yield Finding("python", state, python, "" if supported else "use Python 3.10, 3.11 or 3.12")
    missing = [name for name in NEEDED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        text = f"missing: {', '.join(missing)}"
        yield Finding("needed packages", State.BROKEN, text, "pip install swift_thyme")
    else:
        yield Finding("needed packages", State.OK, "all there")
    for name, tested in TESTED_VERSIONS.items():
        version = _installed(name)
        if version is None:
            extra = "vllm" if name == "vllm" else "swift"
            advice = f'for training and local models: pip install "swift_thyme[{extra}]"'
            yield Finding(name, State.LOOK, "not installed", advice)
        elif version.partition("+")[0] == tested:
            yield Finding(name, State.OK, version)
        else:
            advice = f'tested with {tested}: pip install "{name}=={tested}"'
            yield Finding(name, State.LOOK, version, advice)


# ---- engines ----------------------------------------------------------------------------------

_GPU_PROGRAM = """
import json, torch
found = []
if torch.cuda.is_available():
    for index in range(torch.cuda.device_count()):
        torch.zeros(1, device=f"cuda:{index}").add_(1).item()
        properties = torch.cuda.get_device_properties(index)
        found.append([properties.name, properties.total_memory / 2**30])
print(json.dumps({"devices": found, "cuda": torch.version.cuda}))
"""

_VLLM_PROGRAM = """
import dataclasses, json
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from swift_thyme.sampling.vllm_hook import ThymeLogitsProcessor
problems = []
if not issubclass(ThymeLogitsProcessor, LogitsProcessor):
    problems.append("is no LogitsProcessor")
for name in sorted(ThymeLogitsProcessor.__abstractmethods__):
    problems.append(f"lacks the method {name}")
fields = {field.name for field in dataclasses.fields(BatchUpdate)}
for name in sorted({"added", "removed", "moved"} - fields):
    problems.append(f"BatchUpdate has no {name}")
print(json.dumps({"problems": problems}))
"""


def gpu(deadline_s: float) -> Iterator[Finding]:
    """Let torch use each GPU once."""
    if importlib.util.find_spec("torch") is None:
        yield Finding("gpu", State.LOOK, "not looked for: torch is not installed")
        return
    try:
        found = probe(_GPU_PROGRAM, deadline_s)
    except ProbeFailedError as error:
        yield Finding("gpu", State.BROKEN, str(error), "compare nvidia-smi with the torch build")
        return
    devices = [f"{name} ({memory:.0f} GiB)" for name, memory in found["devices"]]
    hidden = Reader().raw("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if devices:
        yield Finding("gpu", State.OK, ", ".join(devices))
    elif hidden or shutil.which("nvidia-smi") is None:
        yield Finding("gpu", State.OK, "none: jobs need --use_cpu true, see scripts/quickstart.sh")
    else:
        cuda = found["cuda"] or "none"
        yield Finding(
            "gpu",
            State.BROKEN,
            f"nvidia-smi is here, but torch (built for CUDA {cuda}) sees no GPU",
            "run nvidia-smi; install a torch build that fits the driver",
        )


def vllm_hook(deadline_s: float) -> Iterator[Finding]:
    """Load the logits processor against the installed vLLM."""
    subject = "vLLM sampling hook"
    if importlib.util.find_spec("vllm") is None:
        yield Finding(subject, State.LOOK, "not looked for: vLLM is not installed")
        return
    advice = f'pip install "vllm=={TESTED_VERSIONS["vllm"]}", or train with --use_vllm false'
    try:
        problems = probe(_VLLM_PROGRAM, deadline_s)["problems"]
    except ProbeFailedError as error:
        yield Finding(subject, State.BROKEN, f"does not load: {error}", advice)
        return
    if problems:
        yield Finding(subject, State.BROKEN, "; ".join(problems), advice)
    else:
        yield Finding(subject, State.OK, "loads, and has every method that this vLLM asks for")


# ---- sandbox ----------------------------------------------------------------------------------

_SANDBOX_PROGRAM = """
import asyncio, json, time
from dataclasses import replace
from swift_thyme.sandbox import open_pool
from swift_thyme.sandbox.remote_settings import RemoteSettings
# Sooner than the report's deadline, so that a server that is not there is named.
remote = replace(RemoteSettings.from_env(), open_s=10.0)
with open_pool(None, remote) as pool:
    start = time.perf_counter()
    asyncio.run(pool.check())
    seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds}))
"""

_LAYER_ADVICE = {
    "namespace": "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns, user.max_user_namespaces); in a container also "
    "its seccomp profile",
    "private root": "follows from the namespaces",
    "user id": "map spare user ids into the container, or do not run as root",
    "seccomp": "needs a kernel with seccomp filters, on x86_64 or aarch64",
    "memory group": "memory is measured from outside then; for a group, let this process write to "
    "the control group that it is in",
    "landlock": "needs Linux 5.13 or later with landlock among the active security modules",
}


def sandbox_layers(deadline_s: float) -> Iterator[Finding]:
    """List the isolation layers of this host."""
    from swift_thyme.sandbox.layers import probe_layers
    from swift_thyme.sandbox.sandbox_settings import SandboxSettings

    try:
        settings = SandboxSettings.from_env()
    except SettingsError as error:
        yield Finding("sandbox settings", State.BROKEN, str(error), "correct the variable")
        return
    if is_remote():
        yield Finding("sandbox: layers", State.OK, "those of the servers: run thyme doctor there")
        return
    strict = settings.mode == "strict"
    for layer in probe_layers(settings):
        subject = f"sandbox: {layer.name}"
        if layer.on:
            yield Finding(subject, State.OK, f"on: {layer.reason}")
        elif not layer.required:
            yield Finding(subject, State.OK, f"off: {layer.reason}")
        else:
            advice = next((a for name, a in _LAYER_ADVICE.items() if name in layer.name), "")
            state = State.BROKEN if strict else State.LOOK
            yield Finding(subject, state, f"off: {layer.reason}", advice)


def sandbox_program(deadline_s: float) -> Iterator[Finding]:
    """Run a program that returns a picture, as a training job does before its first step."""
    subject = "sandbox: a program"
    advice = "run `thyme sandbox` on a file for the whole error"
    try:
        result = probe(_SANDBOX_PROGRAM, deadline_s)
    except ProbeFailedError as error:
        yield Finding(subject, State.BROKEN, str(error), advice)
        return
    text = f"ran and returned a picture, {result['seconds'] * 1000:.0f} ms"
    yield Finding(subject, State.OK, text)


# ---- rewards ----------------------------------------------------------------------------------


def judge(deadline_s: float) -> Iterator[Finding]:
    """Ask every configured judge endpoint for a word."""
    from swift_thyme.rewards.reward_settings import RewardSettings

    try:
        settings = RewardSettings.from_env()
    except SettingsError as error:
        yield Finding("reward settings", State.BROKEN, str(error), "correct the variable")
        return
    yield Finding("reward settings", State.OK, "valid")
    endpoints = settings.judge
    if not endpoints.enabled:
        yield Finding("judge", State.OK, "none configured: rules alone decide")
        return
    checks = [
        Check(url, functools.partial(_ask_judge, url, endpoints.model, endpoints.api_key))
        for url in endpoints.urls
    ]
    for section in findings(min(deadline_s, JUDGE_DEADLINE_S), checks).values():
        yield from section


def _ask_judge(
    url: str, model: str | None, api_key: str | None, deadline_s: float
) -> list[Finding]:
    """Ask one endpoint for a word, as a training run would ask it for a verdict."""
    import httpx

    subject = f"judge: {url}"
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    start = time.monotonic()
    try:
        with httpx.Client(headers=headers, timeout=deadline_s / 2) as client:
            if model is None:
                reply = client.get(f"{url}/models")
                reply.raise_for_status()
                model = str(reply.json()["data"][0]["id"])
            question = {"role": "user", "content": "Reply with the word ready."}
            body = {"model": model, "messages": [question], "max_tokens": 4, "temperature": 0}
            reply = client.post(f"{url}/chat/completions", json=body)
            reply.raise_for_status()
            reply.json()["choices"][0]["message"]
    except httpx.HTTPStatusError as error:
        advice = {
            401: "set THYME_JUDGE_API_KEY",
            403: "set THYME_JUDGE_API_KEY",
            404: "check the path (usually /v1) and THYME_JUDGE_MODEL",
        }.get(error.response.status_code, "read the server's log")
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        return [Finding(subject, State.BROKEN, f"answers {status}", advice)]
    except httpx.HTTPError as error:
        text = f"cannot be asked: {str(error) or type(error).__name__}"
        return [Finding(subject, State.BROKEN, text, "start the server, or correct the address")]
    except (ValueError, LookupError, TypeError) as error:
        text = f"does not answer like an OpenAI-compatible server: {error!r}"
        return [Finding(subject, State.BROKEN, text, "correct the address (usually ends in /v1)")]
    return [Finding(subject, State.OK, f"{model} answers, {time.monotonic() - start:.1f} s")]


# ---- machine ----------------------------------------------------------------------------------


def disk(deadline_s: float) -> Iterator[Finding]:
    """Look at the room for outputs and for temporary files."""
    temporary = Reader().text("TMPDIR") or "/tmp"
    places = {Path.cwd(): "", Path(temporary): "set TMPDIR elsewhere"}
    for folder, other in places.items():
        subject = f"disk: {folder}"
        try:
            free_gib = shutil.disk_usage(folder).free / 2**30
        except OSError as error:
            yield Finding(subject, State.BROKEN, str(error), other or "use another folder")
            continue
        state = State.OK if free_gib >= LEAST_FREE_GIB else State.LOOK
        if free_gib < LEAST_USABLE_GIB:
            state = State.BROKEN
        advice = "" if state is State.OK else " or ".join(filter(None, ["make room", other]))
        yield Finding(subject, state, f"{free_gib:.1f} GiB free", advice)


def shared_memory(deadline_s: float) -> Iterator[Finding]:
    """Look at the size of /dev/shm."""
    subject = "shared memory: /dev/shm"
    try:
        size_gib = shutil.disk_usage("/dev/shm").total / 2**30
    except OSError as error:
        yield Finding(subject, State.LOOK, str(error), "mount a tmpfs at /dev/shm")
        return
    enough = size_gib >= LEAST_SHARED_MEMORY_GIB
    advice = "" if enough else "several GPUs and data workers need it: docker run --shm-size 16g"
    yield Finding(subject, State.OK if enough else State.LOOK, f"{size_gib:.1f} GiB", advice)


# ---- all of it --------------------------------------------------------------------------------

CHECKS = (
    Check("Versions", versions),
    Check("ms-swift", host_contract),
    Check("Engines", gpu),
    Check("Engines", vllm_hook),
    Check("Sandbox", sandbox_backend),
    Check("Sandbox", sandbox_layers),
    Check("Sandbox", sandbox_program),
    Check("Rewards", judge),
    Check("Machine", disk),
    Check("Machine", shared_memory),
    Check("Machine", threads),
)


def findings(
    deadline_s: float = DEADLINE_S, checks: Sequence[Check] = CHECKS
) -> Mapping[str, list[Finding]]:
    """Return everything that was found, by section, in the order of the report.

    The checks run at the same time. A check that has not ended after the deadline is a finding, and
    nobody waits for it any longer.

    Args:
        deadline_s: Longest wait in seconds.
        checks: What to look at.
    """
    running: list[tuple[Check, list[Finding], threading.Thread]] = []
    for check in checks:
        found: list[Finding] = []
        # What a check waits for gets a little less, so that it can still say what was wrong.
        arguments = (check, 0.9 * deadline_s, found)
        thread = threading.Thread(target=_collect, args=arguments, daemon=True)
        thread.start()
        running.append((check, found, thread))
    end = time.monotonic() + deadline_s
    sections: dict[str, list[Finding]] = {}
    for check, found, thread in running:
        thread.join(max(0.0, end - time.monotonic()))
        section = sections.setdefault(check.section, [])
        section.extend(list(found))
        if thread.is_alive():
            text = f"no answer within {deadline_s:g} s"
            section.append(Finding(_name(check), State.BROKEN, text, "see what it waits for"))
    return sections


def _name(check: Check) -> str:
    function = getattr(check.run, "__name__", "")
    return f"{check.section}: {function.replace('_', ' ')}" if function else check.section


def _collect(check: Check, deadline_s: float, found: list[Finding]) -> None:
    try:
        found.extend(check.run(deadline_s))
    except Exception as error:  # noqa: BLE001 - whatever fails is the finding
        text = f"{type(error).__name__}: {error}"
        found.append(Finding(_name(check), State.BROKEN, text, "report this as a bug"))
