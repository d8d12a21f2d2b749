"""Comparing expressions with sympy, from any thread and within a time limit."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

from swift_thyme.answers.verdict import Verdict
from swift_thyme.core.environment import passed_on

__all__ = ["MathsChecker"]

logger = logging.getLogger(__name__)

_START_LIMIT_S = 60.0
_REMEMBERED = 4096
_REST_S = 300.0
_REPLIES = {verdict.value: verdict for verdict in Verdict}
# What the child needs to find its packages, and nothing else: no key, no proxy, no rank.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class MathsChecker:
    """A child process that compares expressions, started when first needed.

    A pair that takes too long is UNDECIDED; its process is killed and the next pair gets a new one.
    Safe to call from any thread; calls take turns. Verdicts are remembered.

    Args:
        timeout_s: Longest time (in seconds) for one pair.
    """

    def __init__(self, timeout_s: float = 2.0) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._rest_until = 0.0

    def __enter__(self) -> MathsChecker:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, answer: str, reference: str) -> Verdict:
        """Compare an answer with a reference; UNDECIDED where it cannot be read in time."""
        key = (answer, reference)
        with self._lock:
            if key in self._known:
                return self._known[key]
            verdict = self._ask(answer, reference)
            self._known[key] = verdict
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return verdict

    def close(self) -> None:
        """End the child process, if there is one."""
        with self._lock:
            self._stop()

    def _ask(self, answer: str, reference: str) -> Verdict:
        process = self._running()
        if process is None or process.stdin is None:
            return Verdict.UNDECIDED
        try:
            process.stdin.write(json.dumps([answer, reference]).encode() + b"\n")
            process.stdin.flush()
            reply = self._read_line(process, self._timeout_s)
        except BrokenPipeError:
            reply = None
        verdict = _REPLIES.get(reply) if reply is not None else None
        if verdict is None:
            logger.debug("maths comparison stopped after %.1f s", self._timeout_s)
            self._stop()
            return Verdict.UNDECIDED
        return verdict

    def _running(self) -> subprocess.Popen[bytes] | None:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        if time.monotonic() < self._rest_until:
            return None
        env = passed_on(*_PASSED_ON)
        # The package may be importable here only because of the working directory.
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (_PACKAGE_ROOT, env.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "swift_thyme.answers.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=env,
        )
        if self._read_line(self._process, _START_LIMIT_S) != "ready":
            logger.warning(
                "the maths process did not start; expressions stay undecided for %.0f s", _REST_S
            )
            self._rest_until = time.monotonic() + _REST_S
            self._stop()
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes], limit_s: float) -> str | None:
        """Return one JSON string from the child; None on a timeout, an end, or anything else."""
        assert process.stdout is not None
        deadline = time.monotonic() + limit_s
        line = b""
        while not line.endswith(b"\n") and len(line) < 64:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([process.stdout], [], [], left)
            if not ready:
                return None
            piece = os.read(process.stdout.fileno(), 64)
            if not piece:
                return None
            line += piece
        try:
            reply = json.loads(line)
        except ValueError:
            return None
        return reply if isinstance(reply, str) else None

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        process.wait()
