"""Real sandbox servers, each in a process of its own on 127.0.0.1."""

import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import httpx

from swift_thyme.sandbox import SandboxSettings
from swift_thyme.sandbox.remote_pool import RemoteSandboxPool
from swift_thyme.sandbox.remote_settings import RemoteSettings
from tests.conftest import ROOT, python_program
from tests.sandbox.conftest import small_settings

PATIENCE_S = 60.0


def variables_of(settings: SandboxSettings) -> dict[str, str]:
    """Return the environment that stands for settings."""
    found = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        name = "THYME_SANDBOX" if field.name == "mode" else f"THYME_SANDBOX_{field.name.upper()}"
        found[name] = ",".join(value) if isinstance(value, tuple) else str(value)
    return found


def remote_pool(*urls: str, connect: object = None, **changes: object) -> RemoteSandboxPool:
    """Return a pool of servers, with small limits."""
    remote = RemoteSettings(urls, **changes)  # type: ignore[arg-type]
    more = {} if connect is None else {"connect": connect}
    return RemoteSandboxPool(small_settings(), remote, **more)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


class ServerProcess:
    """A `thyme sandbox-server`; entering it waits until it listens.

    Args:
        options: Of the command.
        port: Where it listens; 0 takes a free one.
        settings: Its limits.
        token: The bearer token that it asks for.
    """

    def __init__(
        self,
        *options: str,
        port: int = 0,
        settings: SandboxSettings | None = None,
        token: str | None = None,
    ) -> None:
        self._options = options
        self._port = port
        self._token = token
        self._settings = settings or small_settings(preload=("numpy", "PIL.Image"))
        self.url = ""
        self.log: list[str] = []

    def __enter__(self) -> "ServerProcess":
        environment = {**os.environ, **variables_of(self._settings)}
        if self._token is not None:
            environment["THYME_SANDBOX_TOKEN"] = self._token
        command = ["-m", "swift_thyme.commands.main", "sandbox-server", "--port", str(self._port)]
        self.process = subprocess.Popen(
            python_program(*command, *self._options),
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: bool(self.url) or self.process.poll() is not None)
        assert self.url, self.log
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(20)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def kill(self) -> None:
        """End it as a machine does that loses its power."""
        self.process.kill()
        self.process.wait()

    def sessions(self) -> int:
        """Return how many sessions are open."""
        reply = httpx.get(f"{self.url}/health", trust_env=False)
        count: int = reply.json()["sessions"]
        return count

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("sandbox at "):
                self.url = line.split()[-1]
