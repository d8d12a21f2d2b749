"""The local judge as a program."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Coroutine
from typing import Any

import httpx

from swift_thyme.rewards.local_judge import LocalJudge
from tests.conftest import ROOT, cpu_environment, python_program


def test_it_goes_on_where_stdin_is_closed() -> None:
    process = subprocess.Popen(
        python_program("-m", "swift_thyme.rewards.local_judge"),
        cwd=ROOT,
        env=cpu_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        for _ in range(2):
            assert httpx.get(f"{url}/models", timeout=30).status_code == 200
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_a_connection_of_its_last_moment_is_closed() -> None:
    judge = LocalJudge()
    converse, writers = judge._converse, []

    def converse_and_stop(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Coroutine[Any, Any, None]:
        writers.append(writer)
        assert judge._stopping is not None
        judge._stopping.set()
        return converse(reader, writer)

    judge._converse = converse_and_stop  # type: ignore[method-assign]
    judge.start()
    with socket.create_connection((judge.host, judge.port), timeout=30) as client:
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert judge._thread is not None
    judge._thread.join(30)
    assert [writer.transport.is_closing() for writer in writers] == [True]
