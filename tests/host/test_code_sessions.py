"""When a job goes on without one sandbox session, and when it stops."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.errors import SandboxDeadError, SandboxUnavailableError
from swift_thyme.core.execution import ExecutionResult, ExecutionStatus
from swift_thyme.core.summary import EndReason, TrajectorySummary
from swift_thyme.host import code_sessions
from swift_thyme.host.code_sessions import CodeSessions, SandboxSteps
from swift_thyme.sandbox import SandboxPool
from swift_thyme.sandbox.self_check import make_sure
from tests.conftest import python_program, run_program
from tests.sandbox.conftest import small_settings

LOST = "a sandbox worker was lost: the worker ended"
NO_LIBRARY = (
    "the sandbox cannot start: the worker ended: Traceback (most recent call last):\n"
    '  File "worker.py", line 131, in _warm_up\n'
    "ModuleNotFoundError: No module named 'PIL'\n"
)


class ScriptedPool:
    """Stands in for the pool: each call takes the next entry of its script; None is success."""

    def __init__(self, *, opens: str = "", checks: str = "", reason: str = LOST) -> None:
        self.opens, self.checks, self.reason = iter(opens), iter(checks), reason
        self.calls: list[str] = []
        self.started = threading.Event()

    def _take(self, call: str, script: Iterator[str]) -> None:
        self.calls.append(call)
        if next(script, "+") == "-":
            raise SandboxUnavailableError(self.reason)

    def start(self) -> None:
        self._take("start", self.checks)
        self.started.set()

    async def check(self) -> None:
        self._take("check", self.checks)

    async def open(self, images: Any) -> str:
        self._take("open", self.opens)
        return "session"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_sessions, "_PAUSE_S", 0.0)


def sessions_of(pool: ScriptedPool) -> CodeSessions:
    return CodeSessions(cast("SandboxPool", pool))


def open_one(sessions: CodeSessions) -> Any:
    return asyncio.run(sessions.open(()))


def test_the_sandbox_is_tried_once_at_the_start() -> None:
    pool = ScriptedPool()
    sessions = sessions_of(pool)
    for _ in range(2):
        asyncio.run(sessions.start())
    assert pool.calls == ["check"]


def test_a_sandbox_that_starts_beside_the_model_is_tried_all_the_same() -> None:
    pool = ScriptedPool()
    sessions = sessions_of(pool)
    sessions.warm_up()
    assert pool.started.wait(60)
    asyncio.run(sessions.start())
    assert pool.calls == ["start", "check"]


def test_a_sandbox_that_cannot_start_beside_the_model_says_so_later() -> None:
    pool = ScriptedPool(checks="----")
    sessions = sessions_of(pool)
    # In this thread, where an error would end the test.
    sessions._warm_up()
    with pytest.raises(SandboxDeadError):
        asyncio.run(sessions.start())


def test_a_start_that_failed_is_tried_again_by_the_next_rollout() -> None:
    pool = ScriptedPool(checks="---+")
    sessions = sessions_of(pool)
    with pytest.raises(SandboxDeadError):
        asyncio.run(sessions.start())
    asyncio.run(sessions.start())
    assert pool.calls == ["check"] * 4


def test_a_sandbox_that_answers_at_last_is_not_dead() -> None:
    pool = ScriptedPool(checks="--+")
    asyncio.run(sessions_of(pool).confirm())
    assert pool.calls == ["check"] * 3


def test_a_dead_sandbox_stops_the_job_with_one_line_that_names_the_reason() -> None:
    pool = ScriptedPool(checks="---", reason=NO_LIBRARY)
    with pytest.raises(SandboxDeadError) as caught:
        asyncio.run(sessions_of(pool).start())
    assert str(caught.value) == (
        "the job stops because no code can be run: the sandbox cannot start: the worker ended: "
        "ModuleNotFoundError: No module named 'PIL'; `thyme doctor` says what to do"
    )


def test_a_worker_that_is_lost_while_a_session_opens_costs_nothing() -> None:
    pool = ScriptedPool(opens="-+")
    assert open_one(sessions_of(pool)) == "session"
    assert pool.calls == ["open", "check", "open"]


def test_a_session_cannot_be_opened_in_a_dead_sandbox() -> None:
    pool = ScriptedPool(opens="-", checks="---")
    with pytest.raises(SandboxDeadError):
        open_one(sessions_of(pool))
    assert pool.calls == ["open"] + ["check"] * 3


def test_one_session_that_fails_leaves_the_job_running() -> None:
    pool = ScriptedPool(opens="--+")
    sessions = sessions_of(pool)
    with pytest.raises(SandboxUnavailableError):
        open_one(sessions)
    assert open_one(sessions) == "session"


def test_many_failed_sessions_in_a_row_stop_the_job_and_one_good_one_starts_the_count_again() -> (
    None
):
    most = code_sessions._MOST_FAILED_OPENINGS
    pool = ScriptedPool(opens="--" * (most - 1) + "+" + "--" * most)
    sessions = sessions_of(pool)
    for _ in range(most - 1):
        with pytest.raises(SandboxUnavailableError):
            open_one(sessions)
    open_one(sessions)
    for _ in range(most - 1):
        with pytest.raises(SandboxUnavailableError):
            open_one(sessions)
    with pytest.raises(SandboxDeadError, match=f"{most} trajectories in a row"):
        open_one(sessions)


def over(*statuses: str, end: EndReason = EndReason.ANSWER) -> TrajectorySummary:
    blocks = [BlockRecord(status) for status in statuses]
    return TrajectorySummary(blocks=blocks, end_reason=end)


FAILED = over(end=EndReason.SANDBOX_FAILURE)


def test_a_lost_session_makes_the_sandbox_run_a_program() -> None:
    pool = ScriptedPool()
    asyncio.run(sessions_of(pool).ended(FAILED))
    assert pool.calls == ["check"]


def test_many_trajectories_without_a_success_make_the_sandbox_run_a_program() -> None:
    most = code_sessions._MOST_WITHOUT_SUCCESS
    pool = ScriptedPool(checks="+---")
    sessions = sessions_of(pool)

    async def end(*summaries: TrajectorySummary) -> None:
        for summary in summaries:
            await sessions.ended(summary)

    wrong = over("error", "timeout")
    asyncio.run(end(*[wrong] * (most - 1), over("error", "ok"), *[wrong] * (most - 1), over()))
    assert pool.calls == []
    asyncio.run(end(wrong))
    assert pool.calls == ["check"]
    with pytest.raises(SandboxDeadError):
        asyncio.run(end(*[wrong] * most))
    assert pool.calls == ["check"] * 4


def test_steps_without_a_working_sandbox_stop_the_job() -> None:
    steps = SandboxSteps(2)
    steps.settle([FAILED, over("error")])
    steps.settle([FAILED, over("ok")])
    steps.settle([FAILED, over()])
    with pytest.raises(SandboxDeadError) as caught:
        steps.settle([FAILED])
    assert "ran no block for 2 steps in a row" in str(caught.value)
    assert "THYME_SANDBOX_MAX_FAILED_STEPS" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_steps_without_code_or_with_wrong_code_say_nothing_about_the_sandbox() -> None:
    steps = SandboxSteps(2)
    for _ in range(3):
        steps.settle([over(), over("error")])
        steps.settle([])
    steps.settle([FAILED])
    steps.settle([over("error")])
    with pytest.raises(SandboxDeadError):
        steps.settle([FAILED])


def test_the_number_of_such_steps_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THYME_SANDBOX_MAX_FAILED_STEPS", "1")
    with pytest.raises(SandboxDeadError, match="for 1 steps in a row"):
        SandboxSteps().settle([FAILED])


BROKEN = """
import asyncio, resource
from swift_thyme.host.code_sessions import CodeSessions
from swift_thyme.sandbox import SandboxPool, SandboxSettings
resource.setrlimit(resource.{limit}, ({value}, resource.RLIM_INFINITY))
pool = SandboxPool(SandboxSettings(workers=1))
try:
    asyncio.run(CodeSessions(pool).start())
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
pool.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        # As a full disk: files can be made, and nothing can be written into them.
        ("RLIMIT_FSIZE", 0, "File too large"),
        # As a machine without memory: the libraries do not fit.
        ("RLIMIT_AS", 400 << 20, ""),
    ],
)
def test_a_sandbox_without_disk_or_memory_stops_the_job_with_one_line(
    limit: str, value: int, reason: str
) -> None:
    program = BROKEN.format(limit=limit, value=value)
    run = run_program(python_program("-c", program), timeout_s=300)
    (line,) = run.stdout.splitlines()
    assert line.startswith("SandboxDeadError: the job stops because no code can be run: ")
    assert reason in line
    assert line.endswith("`thyme doctor` says what to do")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (ExecutionResult(ExecutionStatus.OK, "2\n"), "returned no such picture"),
        (ExecutionResult(ExecutionStatus.MEMORY), "ended with memory"),
        (ExecutionResult(ExecutionStatus.MEMORY), "raise THYME_SANDBOX_MEMORY_MB"),
        (ExecutionResult(ExecutionStatus.ERROR, error="No space left"), "sandbox: No space left"),
    ],
)
def test_a_program_that_returns_no_picture_says_what_is_missing(
    result: ExecutionResult, said: str
) -> None:
    with pytest.raises(SandboxUnavailableError) as caught:
        make_sure(result)
    assert said in str(caught.value)


def worker_pids() -> list[int]:
    """Return the worker processes that this process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
            if parent == os.getpid() and b"swift_thyme.sandbox.worker" in command:
                found.append(int(stat.parent.name))
    return found


def test_a_real_worker_that_is_killed_costs_no_session() -> None:
    async def run() -> str:
        async with SandboxPool(small_settings(preload=())) as pool:
            sessions = CodeSessions(pool)
            await sessions.start()
            (pid,) = set(worker_pids()) - before
            os.kill(pid, signal.SIGKILL)
            async with await sessions.open(()) as session:
                return (await session.run("print('back')")).stdout

    before = set(worker_pids())
    assert asyncio.run(run()) == "back\n"
