"""Copies of a session's files, and undoing a block by them."""

import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swift_thyme.sandbox.file_walk import disk_use, walk
from swift_thyme.sandbox.files import FileKeeper, copy_file
from swift_thyme.sandbox.session_folders import WorkerFolder, _place, remove_stale_folders


class Place:
    """The private folders of a session, and their keeper."""

    def __init__(self, base: Path) -> None:
        self.out, self.tmp, self.undo = (base / name for name in ("out", "tmp", "undo"))
        for folder in (self.out, self.tmp, self.undo):
            folder.mkdir(parents=True)
        self.store = os.open(self.undo, os.O_RDONLY)
        self.keeper = FileKeeper((str(self.out), str(self.tmp)), self.store)

    def state(self) -> dict[str, object]:
        """Return everything there is, by path."""
        found: dict[str, object] = {}
        for root in (self.out, self.tmp):
            for folder, folders, files in os.walk(root):
                for name in folders + files:
                    path = Path(folder, name)
                    info = path.lstat()
                    held: object = os.readlink(path) if path.is_symlink() else None
                    if held is None and path.is_file():
                        held = (path.read_bytes(), info.st_nlink, info.st_mtime_ns)
                    found[str(path)] = (oct(info.st_mode), held)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "session")
    (place.out / "a").write_text("A" * 10)
    os.link(place.out / "a", place.out / "b")
    (place.out / "link").symlink_to("/etc/passwd")
    (place.tmp / "folder").mkdir(0o755)
    (place.tmp / "folder" / "inner").write_text("x")
    (place.tmp / "mode").write_text("m")
    (place.tmp / "mode").chmod(0o400)
    place.keeper.commit(mapped=False)
    yield place
    os.close(place.store)
    for folder, _, _ in os.walk(tmp_path):
        os.chmod(folder, 0o700)


def _shut_folder(place: Place) -> None:
    (place.tmp / "folder" / "inner").write_text("changed")
    (place.tmp / "folder" / "more").write_text("more")
    (place.tmp / "folder").chmod(0)


def _many_folders(place: Place) -> None:
    deepest = place.tmp
    for _ in range(40):
        deepest /= "deep"
    deepest.mkdir(parents=True)
    (deepest / "f").write_text("f")
    deepest.parent.chmod(0)


CHANGES: dict[str, Callable[[Place], object]] = {
    "nothing": lambda p: None,
    "written": lambda p: (p.out / "a").write_text("B" * 10),
    "longer": lambda p: (p.out / "b").write_text("B" * 99999),
    "removed": lambda p: (p.out / "a").unlink(),
    "renamed": lambda p: (p.out / "a").rename(p.out / "c"),
    "renamed into another folder": lambda p: (p.out / "a").rename(p.tmp / "folder" / "c"),
    "replaced by a folder": lambda p: [
        (p.out / "a").unlink(),
        (p.out / "a" / "x").mkdir(parents=True),
    ],
    "folder replaced by a file": lambda p: [
        shutil.rmtree(p.tmp / "folder"),
        (p.tmp / "folder").write_text("no folder"),
    ],
    "folder replaced by a link": lambda p: [
        shutil.rmtree(p.tmp / "folder"),
        (p.tmp / "folder").symlink_to("/etc"),
    ],
    "link turned": lambda p: [(p.out / "link").unlink(), (p.out / "link").symlink_to("/")],
    "new files": lambda p: [(p.tmp / f"{i}").write_text("new") for i in range(50)],
    "mode": lambda p: (p.tmp / "mode").chmod(0o666),
    "times": lambda p: os.utime(p.out / "a", (1, 1)),
    "emptied": lambda p: os.truncate(p.out / "a", 0),
    "everything gone": lambda p: [
        [shutil.rmtree(x) if x.is_dir() and not x.is_symlink() else x.unlink() for x in f.iterdir()]
        for f in (p.out, p.tmp)
    ],
    "shut folder": _shut_folder,
    "many folders in each other": _many_folders,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_undone_and_undone_again(place: Place, change: str) -> None:
    before = place.state()
    for _ in range(2):
        CHANGES[change](place)
        place.keeper.restore(mapped=False)
        assert place.state() == before
    assert set(os.listdir(place.undo)) == {"1", "2", "3"}


def test_a_file_that_is_open_or_mapped_stays_the_same_file(place: Place) -> None:
    (place.out / "m").write_bytes(b"old" + bytes(4093))
    place.keeper.commit(mapped=True)
    with open(place.out / "m", "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
        memory[:3] = b"new"
        place.keeper.restore(mapped=True)
        assert memory[:3] == b"old"
        assert (place.out / "m").read_bytes()[:3] == b"old"
        file.write(b"now")
        file.flush()
        assert (place.out / "m").read_bytes()[:3] == b"now"


def test_copies_are_of_files_and_not_of_names_and_holes_stay_holes(place: Place) -> None:
    with open(place.out / "large", "wb") as file:
        file.seek(200 << 20)
        file.write(b"end")
    for number in range(20):
        os.link(place.out / "large", place.out / f"link{number}")
    place.keeper.commit(mapped=False)
    copies = list(place.undo.iterdir())
    assert len(copies) == 4
    assert sum(copy.stat().st_blocks for copy in copies) * 512 < 1 << 20
    assert disk_use(str(place.out), 1 << 30, 1000)[0] < 1 << 20
    (place.out / "large").write_text("")
    place.keeper.restore(mapped=False)
    assert (place.out / "link7").stat().st_size == (200 << 20) + 3


def test_a_copy_holds_data_between_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        for place in (1 << 20, 3 << 20, 7 << 20):
            file.seek(place)
            file.write(os.urandom(5000))
        file.truncate(9 << 20)
    target.write_bytes(os.urandom(12 << 20))
    with open(source, "rb") as read, open(target, "r+b") as write:
        copy_file(read.fileno(), write.fileno())
    assert target.read_bytes() == source.read_bytes()


def test_a_walk_enters_no_link_and_comes_back_only_the_way_it_went(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "z").mkdir()
    outside.mkdir()
    (outside / "secret").write_text("s")
    (inside / "link").symlink_to(outside)
    seen = []
    for found in walk(str(inside)):
        seen.append(found.path.removeprefix(str(tmp_path)))
        if found.name == "b":
            (inside / "a").rename(outside / "a")  # the way up leads elsewhere now
    assert not any("secret" in path for path in seen)


def test_a_folder_of_a_living_worker_is_not_stale_and_one_of_a_dead_one_is() -> None:
    folder = WorkerFolder()
    dead = Path(_place()) / "swift-thyme-sandbox-of-nobody"
    dead.mkdir()
    remove_stale_folders()
    assert Path(folder.path).is_dir()
    assert not dead.exists()
    folder.remove()
    assert not Path(folder.path).exists()
