"""The line that names the full disk, on file systems of stated sizes."""

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from swift_thyme.host.full_disks import explain_full_disks, full_disk_line

MIB = 1 << 20
NO_ROOM = OSError(errno.ENOSPC, "No space left on device")


def disks(monkeypatch: pytest.MonkeyPatch, full: str = "", no_files: str = "") -> None:
    """Let file systems have 100 MiB, half of them free, except for the ones named."""

    def statvfs(folder: str) -> SimpleNamespace:
        free = 0 if folder == full else 50 * MIB
        files = 0 if folder == no_files else 7
        counts = {"f_blocks": 100 * MIB, "f_files": 9, "f_ffree": files}
        return SimpleNamespace(f_frsize=1, f_bfree=free, f_bavail=free, **counts)

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_a_full_output_folder_is_named_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disks(monkeypatch, full=str(tmp_path))
    line = full_disk_line(NO_ROOM, str(tmp_path / "runs" / "v0"))
    assert line == (
        f"error: the job ended because a disk is full: --output_dir {tmp_path}/runs/v0 has 0 of "
        "100 MiB free: make room, or give another --output_dir"
    )


def test_a_file_system_without_room_for_files_is_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disks(monkeypatch, no_files=str(tmp_path))
    line = full_disk_line(NO_ROOM, str(tmp_path))
    assert line is not None and "50 of 100 MiB free and room for no more files" in line


def test_an_error_that_does_not_speak_of_disks_is_no_proof(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disks(monkeypatch, full=str(tmp_path))
    line = full_disk_line(RuntimeError("unexpected pos 64 vs 0"), str(tmp_path))
    assert line is not None and line.startswith("error: a disk is full: --output_dir")


def test_a_reason_below_the_error_is_found_and_room_that_came_back_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disks(monkeypatch)
    outer = RuntimeError("the checkpoint cannot be written")
    outer.__cause__ = ValueError("I/O error: No space left on device (os error 28)")
    line = full_disk_line(outer, str(tmp_path))
    assert line is not None and f"--output_dir {tmp_path} 50 of 100 MiB free" in line


def test_other_errors_get_no_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disks(monkeypatch)
    assert full_disk_line(ValueError("no such flag"), str(tmp_path)) is None


def test_the_line_is_the_last_one_of_the_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disks(monkeypatch, full=str(tmp_path))
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    explain_full_disks(lambda: str(tmp_path))
    sys.excepthook(OSError, NO_ROOM, None)
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "OSError: [Errno 28] No space left on device"
    assert said[-1].startswith(
        f"error: the job ended because a disk is full: --output_dir {tmp_path}"
    )
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "disk" not in capsys.readouterr().err
