"""Programs that take hold of the state to go back to, or of the moment when it is made."""

from tests.sandbox.rule_programs.row import Row

_GO_BACK = """
        # ----- next block
        1 / 0
        # ----- next block
        print("third")
        """


def _gone_back_to(act: str) -> str:
    """Return a program whose former runner does something of its own when it is gone back to."""
    lines = "\n".join(f"            {line}" for line in act.strip().splitlines())
    return f"""
        large = bytearray(20 << 20)
        def act():
{lines}
        inside.when_gone_back_to(act)
        {_GO_BACK.lstrip()}"""


_TIMER = """
        import ctypes, struct
        libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
        event = ctypes.create_string_buffer(struct.pack("qii", 0, {signal}, 0), 64)
        libc.timer_create(1, event, ctypes.byref(timer))
        libc.timer_settime(timer, 0, struct.pack("4l", 0, 100000000, 0, 200000000), None)
        """
_BEATS = """
        import ctypes, os, signal, threading, time
        beats = []
        def beat():
            while True:
                beats.append(0)
                time.sleep(0.01)
        threading.Thread(target=beat, daemon=True).start()
        """
_BEATS_ON = """
        # ----- next block
        1 / 0
        # ----- next block
        print("RAN ON" if len(beats) > 12 else "nothing ran")
        """
"""A thread lives on in the process to go back to alone, where it must not run."""

ROWS = {
    "state_that_loops_when_gone_back_to": Row(
        _gone_back_to("while True: pass"), ends=("ok", "error"), pause_s=0.4
    ),
    "state_that_sleeps_when_gone_back_to": Row(
        _gone_back_to("while True: time.sleep(1)"), ends=("ok", "error"), pause_s=0.4
    ),
    "state_that_ends_when_gone_back_to": Row(
        _gone_back_to("os._exit(0)"), ends=("ok", "error"), pause_s=0.4
    ),
    "state_that_forges_when_gone_back_to": Row(
        _gone_back_to('for _ in range(9): inside.send(inside.report("LEAK"))\ntime.sleep(60)'),
        ends=("ok", "error"),
        pause_s=0.4,
    ),
    "state_that_multiplies_when_gone_back_to": Row(
        _gone_back_to(
            "for _ in range(60):\n"
            "    try: pid = os.fork()\n"
            "    except OSError: break\n"
            "    if pid == 0: break\n"
            "while True: inside.send(inside.ready())"
        ),
        ends=("ok", "error"),
        pause_s=0.4,
    ),
    "state_that_eats_memory_when_gone_back_to": Row(
        _gone_back_to(
            "for _ in range(9):\n"
            "    if os.fork() == 0: break\n"
            "kept = np.ones((200 << 20) // 8)\n"
            "time.sleep(60)"
        ),
        ends=("ok", "error"),
        pause_s=1.5,
    ),
    "state_that_prints_when_gone_back_to": Row(
        _gone_back_to('while True: os.write(1, b"RAN ON" * 1000)'),
        ends=("ok", "error"),
        pause_s=0.4,
    ),
    "state_killed_by_a_timer_of_the_kernel": Row(
        """
        import ctypes, signal, struct
        libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        libc.timer_create(1, None, ctypes.byref(timer))
        libc.timer_settime(timer, 0, struct.pack("4l", 0, 0, 0, 300000000), None)
        # ----- next block
        1 / 0
        # ----- next block
        print("third")
        """,
        pause_s=0.6,
    ),
    "state_killed_by_its_own_watchdog": Row(
        """
        import faulthandler
        faulthandler.dump_traceback_later(0.4, exit=True, file=open("/dev/null", "w"))
        # ----- next block
        1 / 0
        # ----- next block
        print("third")
        """,
        pause_s=0.7,
    ),
    "state_whose_handler_raises_when_a_child_ends": Row(
        """
        import signal
        def handler(*_): raise KeyboardInterrupt
        signal.signal(signal.SIGCHLD, handler)
        # ----- next block
        1 / 0
        # ----- next block
        print("third")
        """,
        pause_s=0.4,
    ),
    "state_that_cannot_wait": Row(
        """
        os.waitpid = lambda *_: os._exit(0)
        # ----- next block
        1 / 0
        # ----- next block
        print("third")
        """,
        pause_s=0.4,
    ),
    "state_that_cannot_fork": Row(
        """
        import resource
        for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
            resource.setrlimit(kind, (0, 0))
        """,
        pause_s=0.4,
    ),
    "state_without_address_space": Row(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
        """,
        pause_s=0.4,
    ),
    "state_out_of_processor_time": Row(
        """
        import resource, signal, time
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        most = int(time.process_time()) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        while time.process_time() < most - 0.03: pass
        # ----- next block
        while time.process_time() < 0.97: pass
        1 / 0
        """,
        pause_s=0.4,
    ),
    "state_killed_by_a_timer_with_a_signal_of_choice": Row(
        _TIMER.format(signal=9)
        + """
        # ----- next block
        1 / 0
        # ----- next block
        print("third")
        """,
        ends=("ok", "error", "ok"),
        pause_s=0.6,
    ),
    "state_woken_by_a_timer_with_a_signal_of_choice": Row(
        _BEATS + _TIMER.format(signal=18) + _BEATS_ON, pause_s=0.8
    ),
    "state_killed_by_the_end_of_a_child": Row(
        """
        import ctypes, time
        if ctypes.CDLL(None).syscall(56, 9, 0, 0, 0, 0) == 0:
            time.sleep(60)
        # ----- next block
        1 / 0
        # ----- next block
        print("third")
        """,
        ends=("ok", "error", "ok"),
        pause_s=0.4,
    ),
    "state_woken_by_the_end_of_a_child": Row(
        _BEATS
        + """
        def fork():
            if ctypes.CDLL(None).syscall(56, 18, 0, 0, 0, 0) == 0: time.sleep(60)
        inside.end_and(fork)
        """
        + _BEATS_ON,
        pause_s=0.8,
    ),
    "state_woken_as_an_orphan": Row(
        """
        import os
        try: os.setsid()
        except OSError: pass
        # ----- next block
        """
        + _BEATS
        + """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try: os.setpgid(0, 0)
        except OSError: pass
        """
        + _BEATS_ON,
        pause_s=0.8,
    ),
    "state_woken_by_a_lease": Row(
        _BEATS
        + """
        import fcntl
        open("/tmp/a", "w").write("a")
        kept = open("/tmp/a")
        for order, value in ((10, 18), (1024, 0)):
            try: fcntl.fcntl(kept, order, value)
            except OSError: pass
        """
        + _BEATS_ON,
        pause_s=0.8,
    ),
    "child_handler_ends_every_fork": Row(
        """
        import threading, time
        os.register_at_fork(after_in_child=lambda: os._exit(0))
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        large = bytearray(20 << 20)
        """,
        pause_s=0.5,
    ),
    "fork_handler_waits_for_ever": Row(
        """
        import threading, time
        def wait():
            while True: time.sleep(1)
        os.register_at_fork(before=wait)
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        large = bytearray(20 << 20)
        """,
        pause_s=0.5,
    ),
}
