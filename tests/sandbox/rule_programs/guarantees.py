"""What is promised in every surrounding, each promise with the programs that try to break it."""
# ruff: noqa: E501 - lines of programs

from tests.sandbox.rule_programs import memory, processes, secrets, states
from tests.sandbox.rule_programs.row import Row

_TRY = """
        import os, shutil
        def attempt(act):
            try: found = act()
            except Exception: return
            if isinstance(found, bytes): found = found.decode("latin-1")
            if found is not None: print(found)
        """

FILES_READ = Row(
    _TRY
    + """
        file, photo = "CANARY_DIR/canary.txt", "CANARY_DIR/canary.png"
        import ctypes, mmap
        attempt(lambda: open(file).read())
        attempt(lambda: os.listdir("CANARY_DIR") and "LEAK folder")
        attempt(lambda: os.pread(os.open(file, os.O_RDONLY), 99, 0))
        attempt(lambda: open(f"/proc/self/fd/{os.open(file, os.O_PATH)}").read())
        for pid in ("CANARY_PID", os.getppid(), 1):
            for way in ("root", "cwd"):
                attempt(lambda: open(f"/proc/{pid}/{way}{file}").read())
        for way in ("/../..", "/tmp/../..", "/proc/self/root", "/dev/fd/../.."):
            attempt(lambda: open(way + file).read())
        attempt(lambda: os.symlink(file, "link") or open("link").read())
        attempt(lambda: os.link(file, "hard") or open("hard").read())
        attempt(lambda: np.fromfile(file, np.uint8).tobytes())
        attempt(lambda: "LEAK picture" if list(cv2.imread(photo)[9, 9]) == [30, 200, 10] else None)
        attempt(lambda: "LEAK picture" if Image.open(photo).getpixel((9, 9)) == (10, 200, 30) else None)
        attempt(lambda: ctypes.CDLL(file))
        attempt(lambda: shutil.copy(file, "copy") and open("copy").read())
        for name in ("a.png", "b.png"): attempt(lambda: os.symlink(photo, name))
        attempt(lambda: os.link(photo, "c.png"))
        print("a.png"); print(photo); print("b.png c.png")
        # ----- next block
        for name in os.listdir("."):
            try: print(open(name).read())
            except (OSError, UnicodeDecodeError): continue
        1 / 0
        """,
    pause_s=0.3,
)

FILES_WRITTEN = Row(
    _TRY
    + """
        file, folder = "CANARY_DIR/canary.txt", "CANARY_DIR"
        for mode in ("w", "a", "r+", "x"):
            attempt(lambda: open(file, mode).write("HACKED") and None)
        attempt(lambda: open(folder + "/new", "w").write("HACKED") and None)
        attempt(lambda: os.truncate(file, 0))
        attempt(lambda: os.unlink(file))
        attempt(lambda: os.rename(file, folder + "/moved"))
        attempt(lambda: os.rename(file, "moved"))
        open("mine", "w").write("HACKED")
        attempt(lambda: os.replace("mine", file))
        attempt(lambda: os.link("mine", folder + "/hard"))
        attempt(lambda: os.symlink("mine", folder + "/soft"))
        attempt(lambda: os.mkdir(folder + "/inner"))
        attempt(lambda: os.mknod(folder + "/node"))
        attempt(lambda: os.chmod(file, 0o777))
        attempt(lambda: os.chmod(folder, 0o777))
        attempt(lambda: os.chown(file, os.getuid(), os.getgid()))
        attempt(lambda: os.utime(file, (1, 1)))
        attempt(lambda: os.setxattr(file, "user.x", b"x"))
        attempt(lambda: shutil.rmtree(folder))
        attempt(lambda: cv2.imwrite(folder + "/new.png", np.zeros((40, 40, 3), np.uint8)) and None)
        attempt(lambda: Image.new("RGB", (40, 40)).save(folder + "/other.png"))
        for number in range(3, 99):
            attempt(lambda: os.open("canary.txt", os.O_WRONLY, dir_fd=number) and None)
        # ----- next block
        os.symlink("CANARY_DIR", "/tmp/d")
        os.symlink("CANARY_DIR/canary.txt", "/tmp/f")
        # ----- next block
        for path in ("/tmp/d", "/tmp/f"): os.unlink(path)
        1 / 0
        """,
    pause_s=0.3,
)

NETWORK = Row(
    """
        import os, socket, urllib.request
        kinds = [(socket.AF_INET, k) for k in (1, 2, 3)] + [(socket.AF_INET6, 1), (socket.AF_INET6, 2)]
        kinds += [(socket.AF_NETLINK, 3), (socket.AF_PACKET, 3), (socket.AF_VSOCK, 1), (38, 5)]
        for kind in kinds:
            try: print("LEAK", socket.socket(*kind))
            except OSError: pass
        try: socket.create_connection(("127.0.0.1", CANARY_PORT), 1)
        except OSError: pass
        try: urllib.request.urlopen("http://127.0.0.1:CANARY_PORT/", timeout=1)
        except OSError: pass
        ends = []
        try: ends += [socket.socket(socket.AF_UNIX)]
        except OSError: pass
        try: ends += socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError: pass
        for end in ends:
            for place in ("CANARY_DIR/listener", "\\0CANARY_SOCKET"):
                for act in (lambda: end.connect(place), lambda: end.sendto(b"x", place)):
                    try: act()
                    except OSError: pass
        """,
    ends=("ok",),
)

SIGNALS = Row(
    """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        def call(number, *values): return libc.syscall(number, *map(ctypes.c_long, values))
        for pid in (CANARY_PID, -CANARY_PID, os.getppid(), -1, *range(2, 200)):
            if pid == os.getpid(): continue
            for signal in (10, 12, 15):
                call(62, pid, signal); call(200, pid, signal); call(234, pid, pid, signal)
                call(129, pid, signal, 0); call(297, pid, pid, signal, 0)
            descriptor = call(434, pid, 0)
            if descriptor >= 0: call(424, descriptor, 10, 0, 0)
        """,
)

LIMITS = {
    "memory of one program": Row(
        "x = []\nwhile True: x.append(np.ones(1 << 17))", ends=("memory|error",)
    ),
    "processes without end": Row(
        """
        while True:
            try: os.fork()
            except OSError: pass
        """,
        ends=("timeout|killed|memory",),
    ),
    "disk without end": Row(
        """
        for i in range(100): open(f"/tmp/{i}", "wb").write(bytes(20 << 20))
        print("HACKED")
        """,
        ends=("error|killed",),
        settings={"disk_mb": 16},
    ),
    "time without end": Row("while True: pass", ends=("timeout",), limit_s=1.0),
    "printing without end": Row("while True: os.write(1, bytes(1 << 16))", ends=("output_limit",)),
}

GUARANTEES: dict[str, dict[str, Row]] = {
    "host files not read": {"guarantee: files read": FILES_READ},
    "not written": {"guarantee: files written": FILES_WRITTEN},
    "other sessions not seen": {
        name: secrets.ROWS[name]
        for name in (
            "objects_of_the_interpreter",
            "memory_through_proc",
            "memory_by_address",
            "environment_and_command_line",
            "mounts_and_open_files",
            "folders_of_other_sessions",
            "descriptors_that_came_along",
        )
    },
    "no network": {"guarantee: network": NETWORK},
    "no signals": {
        "guarantee: signals": SIGNALS,
        "signals_by_ownership_of_a_pipe": processes.ROWS["signals_by_ownership_of_a_pipe"],
    },
    "limits hold": {
        **{f"guarantee: {name}": row for name, row in LIMITS.items()},
        "memory_in_many_small_processes": memory.ROWS["memory_in_many_small_processes"],
        "state_that_sleeps_when_gone_back_to": states.ROWS["state_that_sleeps_when_gone_back_to"],
    },
    "trainer's priority unchanged": {
        name: processes.ROWS[name] for name in ("priorities_of_others", "limits_of_others")
    },
}
"""What must hold -> its programs."""
