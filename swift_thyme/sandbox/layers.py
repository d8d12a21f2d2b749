"""Which isolation layers this host offers: each is tried once, in a process of its own.

A probe makes the same calls as a session does and reports why they failed, so `auto` can go on
without a layer, `strict` can refuse, and `thyme doctor` can say what to change.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from swift_thyme.sandbox import landlock, linux, memory_group, rootfs, seccomp
from swift_thyme.sandbox.process_environment import worker_environment
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session_config import Confinement

__all__ = ["Layer", "confinement_from", "probe_here", "probe_layers", "refusal"]

NAMESPACE_FLAGS = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
)
_KINDS = (
    ("user", linux.CLONE_NEWUSER),
    ("mount", linux.CLONE_NEWNS),
    ("pid", linux.CLONE_NEWPID),
    ("network", linux.CLONE_NEWNET),
    ("ipc", linux.CLONE_NEWIPC),
    ("uts", linux.CLONE_NEWUTS),
)


class Layer(NamedTuple):
    """One isolation layer on this host."""

    name: str
    """`processes`, `user namespace`, ..., `user id`, `seccomp`, `landlock`, `rlimits`."""
    on: bool
    """Whether sessions get it."""
    reason: str
    """What was found, or why it is missing."""
    required: bool = True
    """Whether `THYME_SANDBOX=strict` insists on it."""


@dataclass(frozen=True)
class _Outcome:
    ok: bool
    reason: str


def _in_child(body: Callable[[], str]) -> _Outcome:
    """Run `body` in a fork and return its text or its error."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_end)
            text = body()
            status = 0
        except Exception as error:  # noqa: BLE001 - whatever fails is the finding
            text = str(error) or type(error).__name__
        try:
            os.write(write_end, text.encode()[:4000])
        finally:
            os._exit(status)
    os.close(write_end)
    with open(read_end, "rb") as file:
        text = file.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if not os.WIFEXITED(status):
        return _Outcome(False, f"the probe was killed by signal {os.WTERMSIG(status)}")
    return _Outcome(os.WEXITSTATUS(status) == 0, text)


def write_maps(pid: int, user_id: int | None) -> None:
    """Map the inner user and group of a new user namespace to ours, or to `user_id` for root.

    Raises:
        OSError: The kernel refused a mapping.
    """
    outer_user = os.geteuid() if user_id is None else user_id
    outer_group = os.getegid() if user_id is None else user_id
    inner = 1000
    if user_id is None:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"{inner} {outer_user} 1")
    _write(f"/proc/{pid}/gid_map", f"{inner} {outer_group} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def pick_user_id() -> int | None:
    """Return a user id for one session that nothing on the host uses; None unless we are root."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map") as file:
        spans = [(int(a), int(n)) for a, _, n in (line.split() for line in file)]
    start, length = max(spans, key=lambda span: span[1])
    if start + length > 0x7FFF0000:
        return random.SystemRandom().randrange(0x40000000, 0x7FFF0000)
    # A rootless container: stay clear of the low ids that its own accounts use.
    low = start + length * 3 // 4
    return random.SystemRandom().randrange(low, start + length - 1) if length > 1000 else None


def _try_namespaces(flags: int, sources: list[str], with_root: bool) -> str:
    go_read, go_write = os.pipe()
    out_read, out_write = os.pipe()
    user_id = pick_user_id()
    pid = linux.clone(flags)
    if pid == 0:
        status = 1
        text = ""
        try:
            os.close(go_write)
            os.read(go_read, 1)
            opened = rootfs.open_sources(sources)
            if flags & linux.CLONE_NEWUSER:
                if user_id is not None:
                    os.setgroups([])
                os.setresgid(1000, 1000, 1000)
                os.setresuid(1000, 1000, 1000)
            if with_root:
                rootfs.build(opened, 1 << 20, 128)
                rootfs.seal()
            status = 0
        except Exception as error:  # noqa: BLE001 - the finding
            text = str(error)
        try:
            os.write(out_write, text.encode()[:4000])
        finally:
            os._exit(status)
    os.close(out_write)
    try:
        if flags & linux.CLONE_NEWUSER:
            write_maps(pid, user_id)
    finally:
        os.close(go_write)
        os.close(go_read)
        with open(out_read, "rb") as file:
            text = file.read().decode(errors="replace")
        _, status = os.waitpid(pid, 0)
    if status != 0:
        raise OSError(text or "the probe died")
    return text


def _try_landlock() -> str:
    abi = linux.landlock_abi()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict_paths(["/usr"], ["/tmp"], abi)
    return str(abi)


def _try_seccomp() -> str:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.install_seccomp(seccomp.build_filter(True, False))
    os.getpid()
    try:
        os.execv("/bin/true", ["true"])
    except PermissionError:
        return "system call allow list"
    except OSError as error:
        raise OSError("the filter does not hold") from error


def probe_here(settings: SandboxSettings) -> tuple[Layer, ...]:
    """Probe from this process, which must have one thread; see `probe_layers`."""
    found = [Layer("processes", True, "own process tree, clean environment, no descriptors")]
    disabled = "switched off by THYME_SANDBOX_DISABLE"
    supported = linux.SUPPORTED
    unsupported = f"system calls are not known for {linux.MACHINE}"
    sources = rootfs.readable_paths()
    for name, flag in _KINDS:
        if "namespaces" in settings.disable:
            outcome = _Outcome(False, disabled)
        elif not supported:
            outcome = _Outcome(False, unsupported)
        else:
            flags = flag | linux.CLONE_NEWUSER
            outcome = _in_child(lambda flags=flags: _try_namespaces(flags, [], False))  # type: ignore[misc]
        found.append(Layer(f"{name} namespace", outcome.ok, outcome.reason or "own namespace"))
    if all(layer.on for layer in found):
        outcome = _in_child(lambda: _try_namespaces(NAMESPACE_FLAGS, sources, True))
        reason = outcome.reason or "read-only system, private folders, no /proc"
    else:
        outcome, reason = _Outcome(False, ""), "needs all namespaces"
    found.append(Layer("private root", outcome.ok, reason))
    found.append(_probe_user(settings, outcome.ok))
    for name, body in (("seccomp", _try_seccomp), ("landlock", _try_landlock)):
        if name in settings.disable:
            outcome = _Outcome(False, disabled)
        elif not supported:
            outcome = _Outcome(False, unsupported)
        else:
            outcome = _in_child(body)
        reason = (
            f"version {outcome.reason}" if name == "landlock" and outcome.ok else outcome.reason
        )
        found.append(Layer(name, outcome.ok, reason))
    found.append(_probe_memory_group(settings))
    found.append(Layer("rlimits", True, "CPU, memory, processes, file size, open files"))
    return tuple(found)


def _probe_memory_group(settings: SandboxSettings) -> Layer:
    """Report whether the kernel counts the memory of a session; it is measured without, too."""
    name = "memory group"
    if "cgroup" in settings.disable:
        return Layer(name, False, "switched off by THYME_SANDBOX_DISABLE", required=False)
    try:
        memory_group.find_place()
    except OSError as error:
        return Layer(name, False, f"no control group can be made: {error}", required=False)
    return Layer(name, True, "a control group per session")


def _probe_user(settings: SandboxSettings, namespaces: bool) -> Layer:
    """Report whether sessions run under a user id that owns nothing."""
    name = "user id"
    if "uid" in settings.disable:
        return Layer(name, False, "switched off by THYME_SANDBOX_DISABLE", required=False)
    if os.geteuid() != 0:
        return Layer(name, False, "not root: sessions keep the user's own id", required=False)
    user_id = pick_user_id()
    if user_id is None:
        return Layer(name, False, "no spare user ids are mapped here")
    if namespaces:
        return Layer(name, True, "an unused id per session")

    def change() -> str:
        os.setgroups([])
        os.setresgid(user_id, user_id, user_id)
        os.setresuid(user_id, user_id, user_id)
        for prefix in (sys.prefix, sys.base_prefix):
            os.listdir(prefix)
        return ""

    outcome = _in_child(change)
    return Layer(name, outcome.ok, outcome.reason or "an unused id per session")


def confinement_from(layers: tuple[Layer, ...]) -> Confinement:
    """Return what a worker applies, given what the probe found."""
    by_name = {layer.name: layer for layer in layers}
    abi = by_name["landlock"]
    return Confinement(
        namespaces=by_name["private root"].on,
        change_user=by_name["user id"].on,
        seccomp=by_name["seccomp"].on,
        landlock_abi=int(abi.reason.split()[-1]) if abi.on else 0,
    )


def refusal(mode: str, layers: tuple[Layer, ...]) -> str | None:
    """Return why the sandbox must not start with these layers, or None where it may.

    Args:
        mode: That of the settings.
        layers: What `probe_here` found.
    """
    missing = [layer for layer in layers if not layer.on and layer.required]
    if mode == "strict" and missing:
        names = "; ".join(f"{layer.name}: {layer.reason}" for layer in missing)
        return f"THYME_SANDBOX=strict, but layers are missing: {names}"
    by_name = {layer.name: layer for layer in layers}
    guards = ("private root", "landlock")
    if mode == "unguarded" or any(by_name[name].on for name in guards):
        return None
    cause = next((x for x in layers if x.name.endswith("namespace") and not x.on), layers[0])
    return (
        "nothing here keeps generated code from the files of this host: no private root "
        f"({cause.name}: {cause.reason}) and no Landlock ({by_name['landlock'].reason}). "
        "Allow user namespaces or Landlock (docs/sandbox.md, Surroundings), run code on another "
        "host (THYME_SANDBOX_URL), or, where all that can be read and written here may be lost "
        "and seen, set THYME_SANDBOX=unguarded"
    )


def probe_layers(settings: SandboxSettings | None = None) -> tuple[Layer, ...]:
    """Return each isolation layer of this host as on or off, with the reason.

    The probe runs in a fresh Python process, so it may be called from a process with threads or
    CUDA. Takes about 0.3 s.

    Raises:
        SettingsError: The environment holds unusable sandbox settings.
        OSError: The probe process could not be run.
    """
    settings = SandboxSettings.from_env() if settings is None else settings
    program = (
        "import json,sys\n"
        "from swift_thyme.sandbox.layers import probe_here\n"
        "from swift_thyme.sandbox.sandbox_settings import SandboxSettings\n"
        "print(json.dumps(probe_here(SandboxSettings(disable=tuple(sys.argv[1:])))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *settings.disable],
        env=worker_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"the layer probe failed: {done.stderr.strip()[-500:]}")
    return tuple(Layer(*item) for item in json.loads(done.stdout))
