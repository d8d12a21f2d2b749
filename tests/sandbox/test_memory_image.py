"""Memory of a worker that is mapped from a sealed file."""

import platform
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="made for Linux on x86-64"
)


def run(program: str) -> str:
    """Run a program in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_nothing_changes_but_what_a_fork_has_to_copy() -> None:
    said = run(
        """
        import hashlib, os, re
        from swift_thyme.sandbox.memory_image import freeze_memory

        def anonymous():
            text = open("/proc/self/smaps").read()
            return sum(map(int, re.findall(r"^Anonymous: +(\\d+)", text, re.M)))

        small = {i: str(i) * 3 for i in range(100_000)}
        large = os.urandom(40 << 20)
        digest = hashlib.sha256(large).hexdigest()
        before = anonymous()
        size = freeze_memory()
        after = anonymous()
        assert size > 40 << 20, size
        assert after < before / 4, (before, after)
        assert hashlib.sha256(large).hexdigest() == digest
        assert all(small[i] == str(i) * 3 for i in range(100_000))
        more = [bytes(1000) for _ in range(50_000)]
        print(len(more), after < 20_000)
        """
    )
    assert said == "50000 True\n"


def test_libraries_work_on_with_fewer_mappings() -> None:
    said = run(
        """
        import os
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        import cv2, numpy, PIL.Image
        from swift_thyme.sandbox.memory_image import freeze_memory

        cv2.setNumThreads(1)
        assert len(os.listdir("/proc/self/task")) == 1
        before = len(open("/proc/self/maps").readlines())
        freeze_memory()
        after = len(open("/proc/self/maps").readlines())
        assert after < 0.8 * before, (before, after)
        import decimal, sqlite3  # libraries that are loaded later
        assert numpy.allclose(numpy.linalg.inv(numpy.eye(3) * 4), numpy.eye(3) / 4)
        image = numpy.full((40, 60, 3), 7, numpy.uint8)
        assert PIL.Image.fromarray(image).resize((6, 4)).getpixel((0, 0)) == (7, 7, 7)
        try:
            cv2.resize(image, (0, 0))
        except cv2.error:
            print("raised")  # an exception of C++ finds its way through the stack
        """
    )
    assert said == "raised\n"


def test_a_fork_writes_to_memory_of_its_own() -> None:
    said = run(
        """
        import os
        from swift_thyme.sandbox.memory_image import freeze_memory

        values = list(range(200_000, 300_000))
        freeze_memory()
        pid = os.fork()
        if pid == 0:
            values[:] = [0] * len(values)
            os._exit(0 if set(values) == {0} else 1)
        status = os.waitpid(pid, 0)[1]
        values[0] = 7
        print(status, values[0], values[1:] == list(range(200_001, 300_000)))
        """
    )
    assert said == "0 7 True\n"


def test_nobody_can_write_to_the_file_behind_it() -> None:
    said = run(
        """
        import errno, os, re
        from swift_thyme.sandbox.memory_image import freeze_memory

        freeze_memory()
        line = next(l for l in open("/proc/self/maps") if "thyme-libraries" in l)
        low, high = (int(a, 16) for a in line.split()[0].split("-"))
        try:
            file = os.open(f"/proc/self/map_files/{low:x}-{high:x}", os.O_RDWR)
        except PermissionError:
            print("sealed")  # who is not root cannot even open it
        else:
            for change in (lambda: os.pwrite(file, b"x", 0), lambda: os.ftruncate(file, 0)):
                try:
                    change()
                except PermissionError:
                    continue
                print("changed")
            print("sealed")
        """
    )
    assert said == "sealed\n"


@pytest.mark.parametrize(
    "surroundings",
    [
        "import threading as t, time\nt.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))",
    ],
)
def test_where_it_would_not_be_safe_nothing_is_done(surroundings: str) -> None:
    program = f"{surroundings}\nfrom swift_thyme.sandbox.memory_image import freeze_memory\n"
    assert run(f"{program}print(freeze_memory())") == "0\n"


def test_what_was_written_to_since_is_known() -> None:
    said = run(
        """
        import ctypes
        from swift_thyme.sandbox.memory_image import freeze_memory, written_ranges

        page = 4096
        buffer = bytearray(b"x" * (64 * page))
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        freeze_memory()
        before = sum(size for _, size in written_ranges())
        buffer[20 * page] = buffer[21 * page] = 1
        first = (address + 20 * page) // page
        pages = {
            number
            for start, size in written_ranges()
            for number in range(start // page, (start + size) // page)
        }
        inside = [n for n in pages if address // page < n < (address + len(buffer)) // page]
        print(sorted(n - first for n in inside), before < 8 << 20)
        """
    )
    assert said == "[0, 1] True\n"
