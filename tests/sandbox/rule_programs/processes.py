"""Programs that reach for other processes, or leave their own behind."""

from tests.sandbox.rule_programs.row import Row

_CALL = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        def call(number, *values): return libc.syscall(number, *map(ctypes.c_long, values))
        pids = [p for p in range(1, 400) if p != os.getpid()]
        """

ROWS = {
    "everything_is_killed_at_commit": Row(
        """
        def kill():
            if os.fork() == 0:
                end = time.monotonic() + 2
                while time.monotonic() < end:
                    for pid in (-1, 0, *range(1, 60)):
                        if pid != os.getpid():
                            try: os.kill(pid, 9)
                            except OSError: pass
                os._exit(0)
        inside.end_and(kill)
        # ----- next block
        print("second")
        """,
        pause_s=0.5,
    ),
    "everything_is_stopped_at_commit": Row(
        """
        def stop():
            if os.fork() == 0:
                end = time.monotonic() + 2
                while time.monotonic() < end:
                    for pid in (-1, *range(1, 60)):
                        if pid != os.getpid():
                            try: os.kill(pid, 19)
                            except OSError: pass
                os._exit(0)
        inside.end_and(stop)
        # ----- next block
        print("second")
        """,
        pause_s=0.5,
    ),
    "relatives_are_stopped": Row(
        """
        for pid in (os.getppid(), *range(1, 200)):
            if pid != os.getpid():
                try: os.kill(pid, 19)
                except OSError: pass
        Image.new("RGB", (40, 40)).save("a.png")
        print("a.png")
        """,
        pause_s=0.5,
    ),
    "relatives_are_killed": Row(
        """
        kept = 1
        # ----- next block
        for pid in (os.getppid(), *range(1, 200)):
            if pid != os.getpid():
                try: os.kill(pid, 9)
                except OSError: pass
        Image.new("RGB", (40, 40)).save("a.png")
        print("a.png")
        1 / 0
        """,
        pause_s=0.5,
    ),
    "signals_by_every_call": Row(
        _CALL
        + """
        for pid in [*pids, -1]:
            for signal in (10, 12, 15):
                for number, values in (
                    (62, (pid, signal)), (200, (pid, signal)), (234, (pid, pid, signal)),
                    (129, (pid, signal, 0)), (424, (pid, signal, 0, 0)),
                ): call(number, *values)
        """,
    ),
    "signals_by_ownership_of_a_pipe": Row(
        """
        import fcntl
        read_end, write_end = os.pipe()
        sent = []
        for pid in range(1, 400):
            if pid == os.getpid(): continue
            try:
                fcntl.fcntl(read_end, fcntl.F_SETOWN, pid)
                fcntl.fcntl(read_end, 10, 10)
                fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_ASYNC)
                os.write(write_end, b"x")
                sent.append(pid)
            except OSError: pass
        """,
    ),
    "priorities_of_others": Row(
        _CALL
        + """
        for pid in [0, *pids]:
            for kind in (0, 1, 2):
                call(141, kind, pid, 19)
                call(251, kind + 1, pid, 3 << 13)
            parameters = (ctypes.c_int * 1)(0)
            for policy in (3, 5):
                call(144, pid, policy, ctypes.addressof(parameters))
            mask = (ctypes.c_ulong * 1)(1)
            if pid: call(203, pid, 8, ctypes.addressof(mask))
            attributes = (ctypes.c_uint32 * 12)(48, 5)
            call(314, pid, ctypes.addressof(attributes), 0)
        """,
    ),
    "limits_of_others": Row(
        _CALL
        + """
        nothing = (ctypes.c_ulong * 2)(0, 0)
        for pid in pids:
            for kind in (0, 1, 6, 7, 9): call(302, pid, kind, ctypes.addressof(nothing), 0)
            for name in ("oom_score_adj", "coredump_filter", "timerslack_ns", "comm"):
                try: open(f"/proc/{pid}/{name}", "w").write("999")
                except OSError: pass
        """,
    ),
    "stopped_and_dead_children_are_left": Row(
        """
        for i in range(12):
            pid = os.fork()
            if pid == 0:
                if i % 2: os._exit(0)
                while True: pass
            if i % 2 == 0: os.kill(pid, 19)
        print("parent")
        # ----- next block
        print("second")
        """,
        pause_s=0.4,
    ),
    "chain_of_forks_through_the_commit": Row(
        """
        def chain():
            if os.fork() == 0:
                end = time.monotonic() + 8
                while time.monotonic() < end:
                    try:
                        if os.fork(): os._exit(0)
                    except OSError: pass
                    with open("/tmp/beat", "a") as f: f.write(f"{time.monotonic()}\\n")
                os._exit(0)
        inside.end_and(chain)
        # ----- next block
        print("second")
        # ----- next block
        import os
        beats = []
        if os.path.exists("/tmp/beat"):
            beats = [float(x) for x in open("/tmp/beat").read().split() if x.count(".") == 1]
        print("RAN ON" if beats and max(beats) - min(beats) > 2 else "nothing ran")
        """,
        pause_s=1.2,
    ),
    "session_of_its_own_in_a_failed_block": Row(
        """
        import time
        for _ in range(10):
            if os.fork() == 0:
                os.setsid()
                end = time.monotonic() + 6
                while time.monotonic() < end:
                    with open("/tmp/beat", "a") as f: f.write(f"{time.monotonic()}\\n")
                    time.sleep(0.02)
                os._exit(0)
        time.sleep(0.3)
        1 / 0
        # ----- next block
        print("RAN ON" if os.path.exists("/tmp/beat") else "nothing ran")
        """,
        ends=("error", "ok"),
        pause_s=1.0,
    ),
}
