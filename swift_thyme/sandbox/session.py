"""One session as the worker sees it: its processes, its blocks, its results.

The worker trusts the keeper and nothing else in a session. A block is over when its process says
so, ends, or is over a limit; whichever it is, every other process of the block is killed before
its output is read, and what goes back is measured or checked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from swift_thyme.core.execution import ExecutionResult, ExecutionStatus
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.encoder_client import EncoderBroken, EncoderClient, EncoderGone
from swift_thyme.sandbox.keeper_client import KeeperClient, KeeperRefused, SessionLost
from swift_thyme.sandbox.layers import write_maps
from swift_thyme.sandbox.memory_group import MemoryGroups
from swift_thyme.sandbox.mending import Mending
from swift_thyme.sandbox.message_codec import encode_datagram
from swift_thyme.sandbox.messages import (
    Attach,
    ChangedFiles,
    FindImages,
    Finished,
    FoundImage,
    ImagesFound,
    KeeperAction,
    ListChanged,
    MakeSession,
    RunProgram,
)
from swift_thyme.sandbox.output import (
    CappedOutput,
    assemble,
    changed_limit,
    find_paths,
    hints_from,
    shown_name,
    tidy_error,
)
from swift_thyme.sandbox.processes import (
    kill_quietly,
    kill_tree,
    looks,
    prefer_for_oom,
    resident_bytes,
)
from swift_thyme.sandbox.runner import MAX_REQUEST_BYTES
from swift_thyme.sandbox.runner_chain import RunnerChain
from swift_thyme.sandbox.session_config import ImageInfo, SessionConfig
from swift_thyme.sandbox.supervision import Ending, Supervisor
from swift_thyme.sandbox.template_client import Templates

__all__ = ["Session"]

MIB = 1024 * 1024
_MAX_CODE_BYTES = 96 * 1024
_MAX_MENDING_BYTES = 48 * 1024
_ENCODER_TRIES = 4
_OK, _KILLED = ExecutionStatus.OK, ExecutionStatus.KILLED
_MORE_RUNS = 2
"""Runs of a block besides the first one."""
_LEAST_FOR_RUN_S = 0.1
_LEAST_FOR_IMAGES_S = 0.2
"""Seconds that the images of a block get that used up its time."""


class _Unsettled(NamedTuple):
    """A block that is neither committed nor undone yet."""

    succeeded: bool
    maps_files: bool
    """Whether it has, or may have, files mapped into its memory."""


@dataclass
class _Block:
    """A block that runs, once or more often."""

    program: bytes
    timeout_s: float
    began: float = field(default_factory=time.monotonic)
    spent_s: float = 0.0
    """Seconds in which it ran."""

    @property
    def left_s(self) -> float:
        """Seconds of its limit that are left, those of its images and of undoing it counted."""
        return self.timeout_s - (time.monotonic() - self.began)


class _Attempt(NamedTuple):
    """One run of a block."""

    ending: Ending
    output: CappedOutput
    budget_s: float
    """Seconds that its images get."""
    spent_s: float


class Session:
    """The processes of one trajectory.

    Args:
        config: Its surroundings.
        groups: Where its memory is counted.

    Attributes:
        turn: Held while a block runs and while it is committed or undone, which is after its
            result is out: the next block may be asked for before that.
        is_running: Whether a block runs.
    """

    def __init__(self, config: SessionConfig, groups: MemoryGroups) -> None:
        self._config = config
        self._groups = groups
        self._group = groups.make()
        self._keeper = KeeperClient()
        settings = config.settings
        most = (settings.returned_mb + 1) * MIB
        self._encoder = EncoderClient(self._keeper, most)
        self._chain = RunnerChain(config.confinement, self._keeper, self._encoder, self._group)
        self._supervisor = Supervisor(config, self._keeper, self._encoder, self._chain, self._group)
        self._images: tuple[ImageInfo, ...] = ()
        self.turn = asyncio.Lock()
        self.is_running = False
        self._unsettled: _Unsettled | None = None
        self._closed = False

    # -- opening and closing -------------------------------------------------------------------

    async def start(self, templates: Templates) -> None:
        """Make the processes.

        Args:
            templates: Where they are forked from.

        Raises:
            SessionLost: They could not be made.
        """
        config, keeper, runner = self._config, self._keeper, self._chain.runner
        message = MakeSession(config.base, config.user_id, config.disk_bytes)
        keeper.pid = await templates.make_session(message, keeper.other.fileno())
        keeper.other.close()
        connections = (runner.channel.other, self._encoder.other)
        try:
            prefer_for_oom(keeper.pid)
            if self._group is not None:
                # The kernel lets all processes pass a point before it moves one: milliseconds.
                await asyncio.to_thread(self._group.add, keeper.pid)
            if config.confinement.namespaces:
                write_maps(keeper.pid, config.user_id)
            first, second = (connection.fileno() for connection in connections)
            descriptors = [first, self._supervisor.stdout, second]
            await keeper.order(KeeperAction.START, False, descriptors)
            runner.channel.other.close()
            self._supervisor.release()
            await self._chain.await_first()
            self._supervisor.base_resident = resident_bytes(runner.pid)
            self._encoder.listen(keeper.new_child({runner.pid}))
        except OSError as error:
            raise SessionLost(f"a session could not start: {error}") from error

    async def attach(self, images: list[tuple[ImageInfo, int]]) -> None:
        """Give the session its input images, as open descriptors that stay the caller's.

        Raises:
            SessionLost: The session is broken.
            ValueError: A path cannot be used.
        """
        message = Attach(tuple(info.path for info, _ in images))
        try:
            await self._keeper.ask(message, Finished, [descriptor for _, descriptor in images])
        except KeeperRefused as error:
            raise ValueError(f"an image cannot be placed in the sandbox: {error}") from error
        self._images = tuple(info for info, _ in images)

    def close(self) -> None:
        """Kill everything and release every descriptor; may be called twice."""
        if self._closed:
            return
        self._closed = True
        pid = self._keeper.pid
        if pid:
            if not self._config.confinement.namespaces:
                kill_tree(pid)
            kill_quietly(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._groups.remove(self._group)
        self._keeper.close()
        self._chain.close()
        self._encoder.close()
        self._supervisor.close()

    def real_path(self, path: str, index: int) -> str:
        """Return where the input image `index` is for the session's own processes."""
        base = self._config.base
        return path if base is None else f"{base}/inputs/{index}"

    def remove_folder(self) -> None:
        """Remove what is left on the host of a session without private mounts."""
        if self._config.base is not None:
            shutil.rmtree(self._config.base, ignore_errors=True)

    # -- running -------------------------------------------------------------------------------

    async def run(self, code: str, timeout_s: float) -> ExecutionResult:
        """Run one block and return its result; it is committed or undone by `settle`.

        The block before it has to be settled.

        Raises:
            SessionLost: The session is broken.
        """
        program = code.encode("utf-8", "surrogatepass")
        size = len(encode_datagram(RunProgram(program, self._images, timeout_s)))
        if len(program) > _MAX_CODE_BYTES or size > MAX_REQUEST_BYTES - _MAX_MENDING_BYTES:
            return ExecutionResult(ExecutionStatus.ERROR, error="the program is too long")
        block = _Block(program, timeout_s)
        lost, self._chain.lost = self._chain.lost, None
        attempt = await self._attempt(block, None, timeout_s)
        if lost is None:
            attempt, result = await self._repaired(block, attempt)
        else:
            # It ran without what it may have built on, so it counts as failed.
            result = replace(await self._collect(attempt), status=_KILLED, error=lost)
        self._unsettled = _Unsettled(result.ok, attempt.ending.report.maps)
        return replace(result, duration_s=block.spent_s)

    async def _attempt(self, block: _Block, mending: Mending | None, limit_s: float) -> _Attempt:
        """Run a block once, from the state that there is."""
        request = encode_datagram(RunProgram(block.program, self._images, block.timeout_s, mending))
        self._supervisor.drain()
        output = CappedOutput(self._config.settings.stdout_kb * 1024)
        began = time.monotonic()
        ending = await self._supervisor.run(request, limit_s, output)
        spent_s = time.monotonic() - began
        block.spent_s += spent_s
        if ending.status is _OK:
            problem = self._supervisor.over_disk_limit()
            ending = ending if problem is None else Ending(*problem, ending.report)
        await self._chain.end_processes(keep_runner=ending.status is _OK)
        self._supervisor.read_output(output)
        return _Attempt(ending, output, max(block.left_s, _LEAST_FOR_IMAGES_S), spent_s)

    async def _repaired(self, block: _Block, first: _Attempt) -> tuple[_Attempt, ExecutionResult]:
        """Run a block again where its report says that this could help.

        The repair counts only where the block then does better. What a report says is not to be
        trusted: a lie costs its session at most two more runs, in the time of the block.

        Returns:
            The last run, and the result of the one that counts.
        """
        mending = first.ending.report.mending
        ended = first.ending.status is _OK
        if ended and mending and first.spent_s < block.timeout_s / 4:
            return await self._repaired_success(block, first, mending)
        result = await self._collect(first)
        attempt = first
        for _ in range(_MORE_RUNS if not ended else 0):
            if attempt.ending.status is not ExecutionStatus.ERROR or not mending:
                break
            if block.left_s < max(attempt.spent_s, _LEAST_FOR_RUN_S):
                break
            await self._chain.roll_back(attempt.ending.report.maps)
            if self._chain.lost is not None or block.left_s < _LEAST_FOR_RUN_S:
                break
            attempt = await self._attempt(block, mending, block.left_s)
            mending = attempt.ending.report.mending
            if attempt.ending.status is _OK:
                better = await self._collect(attempt)
                return attempt, better if better.ok else result
        return attempt, result

    async def _repaired_success(
        self, block: _Block, first: _Attempt, mending: Mending
    ) -> tuple[_Attempt, ExecutionResult]:
        """Repair a block that ended well and made nothing of something; else run it as it is."""
        attempt = first
        for again in (mending, None):
            await self._chain.roll_back(attempt.ending.report.maps)
            lost, self._chain.lost = self._chain.lost, None
            if lost is not None:
                result = await self._collect(attempt)
                return attempt, replace(result, status=_KILLED, error=lost)
            # What is left in the end is enough to run it as it is.
            limit_s = block.left_s - 2 * first.spent_s if again else block.left_s
            attempt = await self._attempt(block, again, max(limit_s, 2 * first.spent_s, 0.1))
            if again and (attempt.ending.status is not _OK or attempt.ending.report.mending):
                continue
            result = await self._collect(attempt)
            if result.ok or not again:
                break
        return attempt, result

    @property
    def is_whole(self) -> bool:
        """Whether all of its processes live."""
        pids = (self._keeper.pid, self._chain.runner.pid, self._encoder.pid)
        return all(looks(pid) is not None for pid in pids)

    @property
    def is_unsettled(self) -> bool:
        """Whether the last block is neither committed nor undone."""
        return self._unsettled is not None

    def memory_in_use(self) -> int:
        """Return by how many bytes the last block's process is larger than the first one was."""
        return resident_bytes(self._chain.runner.pid) - self._supervisor.base_resident

    async def settle(self, hurry: bool = False) -> None:
        """Commit the block that just ran where it succeeded, undo it where it did not.

        Args:
            hurry: The next block waits for it already.

        Raises:
            SessionLost: The session is broken.
        """
        block, self._unsettled = self._unsettled, None
        if block is None:
            return
        if block.succeeded:
            hurry = hurry and self._config.settings.uses(Acceleration.HURRY)
            await self._chain.commit(hurry, block.maps_files)
        else:
            await self._chain.roll_back(block.maps_files)

    # -- results -------------------------------------------------------------------------------

    async def _collect(self, attempt: _Attempt) -> ExecutionResult:
        """Make the result: text, and images in order."""
        ending, output, budget_s = attempt.ending, attempt.output, attempt.budget_s
        text = tidy_error(output.text(), self._config)
        hints = hints_from(ending.report, output)
        request = FindImages(text, hints.saved, hints.aliases, self._images, budget_s)
        try:
            found = await self._find_images(request)
        except EncoderBroken:
            # A broken encoder costs the images, not the session.
            await self._encoder.replace()
            changed = list(await self._changed_files())
            paths = find_paths(text, hints, changed, self._images, self._config)
            refused = "it cannot be decoded in the time of the block"
            found = ImagesFound(
                tuple(FoundImage(s, e, shown_name(p), refused) for s, e, p in paths.places),
                tuple(paths.repairs),
                paths.left_out,
            )
        error = None if ending.error is None else tidy_error(ending.error, self._config)
        result = assemble(text, found, ending.report.repairs, ending.status, error)
        return replace(result, program=ending.report.program)

    async def _find_images(self, request: FindImages) -> ImagesFound:
        """Let the encoder find the images of a block.

        Where it ends, another one tries again: something else may have ended it, and an image that
        ends encoders ends those too.

        Raises:
            EncoderBroken: It cannot.
        """
        end = time.monotonic() + request.budget_s
        for _ in range(_ENCODER_TRIES - 1):
            try:
                return await self._encoder.find(request)
            except EncoderGone:
                await self._encoder.replace()
                # A new encoder does not know which files were there before.
                changed = await self._changed_files()
                left_s = max(end - time.monotonic(), _LEAST_FOR_IMAGES_S)
                request = replace(request, budget_s=left_s, changed=changed)
        return await self._encoder.find(request)

    async def _changed_files(self) -> tuple[str, ...]:
        limit = changed_limit(self._config.settings)
        return (await self._keeper.ask(ListChanged(limit), ChangedFiles)).paths
