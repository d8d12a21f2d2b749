"""Programs that look for what another session, the trainer or the host left in their sight."""
# ruff: noqa: E501 - lines of programs

from tests.sandbox.rule_programs.row import Row

# The words are put together at run time, so that a program does not find itself.
_WORDS = """
        import os, re
        mark = b"-".join([b"CANARY", b"OTHER", b""])
        secret = b"-".join([b"CANARY", b"FILE", b""])
        seen = set()
        def look(data):
            for word in (mark, secret):
                for found in re.finditer(re.escape(word) + rb"[A-Z]{4,}", bytes(data)):
                    if found.group(0) not in seen:
                        seen.add(found.group(0))
                        print("LEAK", found.group(0))
        """

ROWS = {
    "objects_of_the_interpreter": Row(
        _WORDS
        + """
        import gc, sys
        done, pending = set(), [*gc.get_objects(), *sys.modules.values()]
        while pending and len(done) < 900000:
            item = pending.pop()
            if id(item) in done: continue
            done.add(id(item))
            if isinstance(item, str): look(item.encode("utf-8", "replace"))
            elif isinstance(item, (bytes, bytearray)): look(item)
            else:
                try: pending += gc.get_referents(item)
                except Exception: pass
        print(len(done) > 1000)
        """,
        ends=("ok",),
        limit_s=60.0,
    ),
    "memory_through_proc": Row(
        _WORDS
        + """
        for pid in ("self", *range(1, 200)):
            try:
                spans = [line.split()[:2] for line in open(f"/proc/{pid}/maps")]
                memory = open(f"/proc/{pid}/mem", "rb", 0)
            except OSError: continue
            for span, rights in spans:
                start, end = (int(x, 16) for x in span.split("-"))
                for at in range(start, end if "w" in rights else start, 1 << 20):
                    try:
                        memory.seek(at)
                        look(memory.read(min(1 << 20, end - at)))
                    except (OSError, ValueError): break
        """,
        limit_s=60.0,
    ),
    "memory_by_address": Row(
        _WORDS
        + """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.sbrk.restype = ctypes.c_size_t
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        top = libc.sbrk(ctypes.c_ssize_t(0))
        spans = [(top - (160 << 20), top)]
        for item in (b"a" * 40, bytearray(600), object(), {}, "x" * 99, np.empty(9), bytearray(1 << 21)):
            at = id(item) & -(1 << 20)
            spans.append((at - (64 << 20), at + (64 << 20)))
        libc.write.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t]
        looked = set()
        for start, end in spans:
            for at in range(start & -65536, end, 65536):
                if at in looked or at < 0: continue
                looked.add(at)
                # The kernel says whether an address can be read, where reading it would be the end.
                size = libc.write(write_end, at, 65536)
                if size > 0: look(os.read(read_end, 65536))
        print(len(looked) > 100)
        """,
        ends=("ok",),
        limit_s=60.0,
    ),
    "memory_that_was_used_before": Row(
        _WORDS
        + """
        kept = []
        for size in (24, 56, 120, 250, 504, 1000, 4000, 16000, 65000, 260000, 1 << 20):
            for _ in range(max(20, (8 << 20) // size // 8)):
                kept.append(np.empty(size, np.uint8))
                look(kept[-1].tobytes())
        """,
        ends=("ok",),
        limit_s=60.0,
    ),
    "environment_and_command_line": Row(
        _WORDS
        + """
        import ctypes, sys
        environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
        at = 0
        while environ and environ[at]: look(environ[at]); at += 1
        # The strings of the first process's stack lie above what `environ` points to now.
        for pid in ("self", "thread-self", *range(1, 300)):
            for name in ("environ", "cmdline", "comm", "status", "auxv", "wchan", "stack"):
                try: look(open(f"/proc/{pid}/{name}", "rb").read())
                except OSError: pass
        look(repr((sys.argv, sys.orig_argv, sys.path, dict(os.environ))).encode())
        """,
        ends=("ok",),
    ),
    "mounts_and_open_files": Row(
        _WORDS
        + """
        names = ("mountinfo", "mounts", "mountstats", "cgroup", "maps", "smaps", "net/unix", "limits")
        for pid in ("self", *range(1, 300)):
            for name in names:
                try: look(open(f"/proc/{pid}/{name}", "rb").read())
                except OSError: pass
            for folder in ("fd", "fdinfo", "cwd", "root", "map_files", "task", "ns"):
                try:
                    for name in os.listdir(f"/proc/{pid}/{folder}"):
                        path = f"/proc/{pid}/{folder}/{name}"
                        look(os.fsencode(os.readlink(path)) if os.path.islink(path) else b"")
                        if folder == "fd": look(os.pread(os.open(path, os.O_RDONLY), 99999, 0))
                except OSError: pass
        """,
        ends=("ok|error",),
    ),
    "folders_of_other_sessions": Row(
        _WORDS
        + """
        for at in (os.getcwd(), os.path.realpath("."), "/dev/shm", "/tmp", "/data", "/", "/mnt", "/run"):
            for up in ("", "/..", "/../..", "/../../.."):
                for folder, folders, files in os.walk(at + up):
                    look(os.fsencode(folder))
                    if folder.count("/") > 12 or folder.startswith(("/usr", "/proc")): folders.clear()
                    for name in files[:50]:
                        try: look(open(f"{folder}/{name}", "rb").read(1 << 16))
                        except OSError: pass
        os.chdir("/")
        for folder in ("/data/CANARY-" + "OTHER-PATH", "CANARY_DIR"):
            try: print("LEAK", os.listdir(folder))
            except OSError: pass
        """,
        limit_s=60.0,
    ),
    "descriptors_that_came_along": Row(
        _WORDS
        + """
        import socket, stat
        for f in range(256):
            try: info = os.fstat(f)
            except OSError: continue
            for at in (0, 4096):
                try: look(os.pread(f, 1 << 20, at))
                except OSError: pass
            if stat.S_ISDIR(info.st_mode):
                for name in (".", "..", "../..", "../../.."):
                    try: look(repr(os.listdir(os.open(name, os.O_RDONLY, dir_fd=f))).encode())
                    except OSError: pass
            if stat.S_ISSOCK(info.st_mode):
                one = socket.socket(fileno=os.dup(f))
                try: look(one.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT))
                except OSError: pass
        """,
        ends=("ok",),
    ),
    "pages_of_forgotten_pictures": Row(
        _WORDS
        + """
        import io
        for size in range(28, 600, 4):
            for mode in ("RGB", "L", "RGBA"):
                fresh = Image.frombuffer(mode, (size, size), bytes(size * size * len(mode)))
                look(fresh.copy().tobytes())
        for _ in range(50):
            data = np.empty((64, 64, 3), np.uint8)
            look(cv2.imencode(".png", data)[1].tobytes())
        """,
        ends=("ok",),
        limit_s=60.0,
    ),
}
