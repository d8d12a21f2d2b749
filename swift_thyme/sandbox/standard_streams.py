"""`sys.stdout` and `sys.stderr` of the code: one pipe, in the order in which things are written.

A program may wrap, close, detach or replace them, as programs do to set an encoding. None of it
loses output or reaches the next block: what stands here has a descriptor of its own, and closing it
or taking its parts away only flushes it. Not covered: descriptor 2. What C code writes there, such
as warnings of OpenCV and libpng with times and places in their source, is thrown away.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from typing import Any

__all__ = ["CountedPipe", "StandardStreams", "show_warnings"]

_UNSEEN_WARNINGS = (
    DeprecationWarning,
    PendingDeprecationWarning,
    ImportWarning,
    ResourceWarning,
    SyntaxWarning,
)


def show_warnings() -> None:
    """Let the warnings of a program be seen, but those that are meant for authors of libraries.

    Python shows no deprecations either but those of the main module, which a model that wrote it
    a moment ago cannot do anything with. A program can ask for them.
    """
    warnings.resetwarnings()
    for category in _UNSEEN_WARNINGS:
        warnings.simplefilter("ignore", category, append=True)


class CountedPipe(io.RawIOBase):
    """Writes to a pipe and counts, so that an image has its place between the prints.

    Args:
        descriptor: Where to write. The code is told that it is descriptor 1, which it may close.

    Attributes:
        count: Bytes of the block.
        of_errors: How many of them were written to `sys.stderr`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.count = 0
        self.of_errors = 0

    @property
    def printed(self) -> bool:
        """Whether anything of the block was written to `sys.stdout`."""
        return self.count > self.of_errors

    def writable(self) -> bool:
        """Say that it takes bytes."""
        return True

    def fileno(self) -> int:
        """Return the number by which the code knows the pipe."""
        return 1

    def close(self) -> None:
        """Stay open: the next block needs it."""

    def mend(self) -> None:
        """Make descriptor 1 the pipe again, and let writing wait, whatever the code changed."""
        os.dup2(self._descriptor, 1)
        os.set_blocking(1, True)

    def write(self, data: Any) -> int:
        """Write bytes and return how many were taken."""
        written = os.write(self._descriptor, data)
        self.count += written
        return written


class _Buffer(io.BufferedWriter):
    """Flushes where another one would close or come apart."""

    def close(self) -> None:
        self.flush()

    def detach(self) -> Any:
        self.flush()
        return self.raw


class _Text(io.TextIOWrapper):
    def close(self) -> None:
        self.flush()

    def detach(self) -> Any:
        self.flush()
        return self.buffer


class _ErrorText(_Text):
    """Writes behind everything that was printed before; the two have one buffer."""

    def __init__(self, pipe: CountedPipe, stdout: io.TextIOWrapper) -> None:
        super().__init__(
            stdout.buffer,
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
            write_through=True,
        )
        self._pipe = pipe
        self._stdout = stdout

    def write(self, text: str) -> int:
        self._stdout.flush()
        before = self._pipe.count
        written = super().write(text)
        self.buffer.flush()
        self._pipe.of_errors += self._pipe.count - before
        return written


for _class, _like in ((_Buffer, io.BufferedWriter), (_Text, io.TextIOWrapper)):
    _class.__name__ = _class.__qualname__ = _like.__name__
_ErrorText.__name__ = _ErrorText.__qualname__ = io.TextIOWrapper.__name__


class StandardStreams:
    """The streams of one process, and of those that it forks.

    Args:
        descriptor: The pipe, or a copy of it that the code does not know.

    Attributes:
        pipe: Where both end.
        stdout: What `sys.stdout` is at the start of each block.
        stderr: The same for `sys.stderr`.
    """

    def __init__(self, descriptor: int) -> None:
        self.pipe = CountedPipe(descriptor)
        self.stdout = _Text(
            _Buffer(self.pipe, 1 << 16), encoding="utf-8", errors="replace", line_buffering=True
        )
        self.stderr = _ErrorText(self.pipe, self.stdout)

    def begin(self) -> None:
        """Put them in their places for a block, and count from 0."""
        sys.stdout = sys.__stdout__ = self.stdout  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self.stderr  # type: ignore[misc]
        # What stood there closes the descriptor when it goes, where it was made of its number.
        self.pipe.mend()
        self.pipe.count = self.pipe.of_errors = 0

    def finish(self) -> None:
        """Write out what a block left, also in streams of its own making.

        Where it printed into a text in memory to its end, and nothing else, that is its output.

        Raises:
            OSError: The pipe was closed.
        """
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name, None)
            if stream in (self.stdout, self.stderr) or stream is None:
                continue
            with contextlib.suppress(Exception):  # an object of the code can do anything
                stream.flush()
                if isinstance(stream, io.StringIO) and not self._has_printed():
                    self.stdout.write(stream.getvalue())
        self.stdout.flush()
        self.stderr.flush()
        self.pipe.mend()  # or the next descriptor that this process gets has its number

    def _has_printed(self) -> bool:
        self.stdout.flush()
        return self.pipe.printed
