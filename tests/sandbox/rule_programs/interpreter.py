"""Programs that change the interpreter under the runner, or report without end."""

from tests.sandbox.rule_programs.row import Row

ROWS = {
    "profiler_that_acts_between_blocks": Row(
        """
        import os, sys
        def profile(frame, kind, what):
            name = frame.f_code.co_name
            if any(word in name for word in ("hand_over", "get_ready", "fork", "commit")):
                sys.setprofile(None)
                os._exit(0)
        sys.setprofile(profile)
        """,
        pause_s=0.4,
    ),
    "tracer_that_raises_in_the_runner": Row(
        """
        import sys
        def trace(frame, kind, what):
            if "swift_thyme" in frame.f_code.co_filename: raise MemoryError("LEAK")
        sys.settrace(trace)
        1 / 0
        """,
        pause_s=0.4,
    ),
    "collector_that_acts_between_blocks": Row(
        """
        import gc, os, sys
        def collected(phase, info):
            frame, seen = sys._getframe(), False
            while frame is not None:
                seen = seen or frame.f_code.co_filename.startswith("<block")
                frame = frame.f_back
            if not seen: os._exit(0)
        gc.callbacks.append(collected)
        gc.set_threshold(1, 1, 1)
        """,
        pause_s=0.4,
    ),
    "audit_hook_that_waits_between_blocks": Row(
        """
        import sys, time
        state = {"armed": False}
        def hook(event, arguments):
            if not state["armed"]: return
            frame = sys._getframe()
            while frame is not None:
                if frame.f_code.co_filename.startswith("<block"): return
                frame = frame.f_back
            state["armed"] = False
            time.sleep(60)
        sys.addaudithook(hook)
        state["armed"] = True
        """,
        pause_s=0.4,
    ),
    "finaliser_that_waits_when_names_go": Row(
        """
        import sys, time
        class Waiting:
            def __del__(self):
                time.sleep(60)
        sys.stdout = Waiting()
        sys.stderr = Waiting()
        """,
        pause_s=0.4,
    ),
    "standard_library_replaced": Row(
        """
        import json, os, resource, signal, socket, struct, sys, time
        def nothing(*_, **__): raise SystemExit("LEAK")
        for module in (json, resource, signal, struct, time):
            for name in list(vars(module)):
                if callable(getattr(module, name)) and not name.startswith("__"):
                    setattr(module, name, nothing)
        for name in ("getpid", "write", "close", "waitpid", "fork", "_exit"):
            setattr(os, name, nothing)
        """,
        pause_s=0.4,
    ),
    "import_hook_for_everything": Row(
        """
        import sys
        class Finder:
            def find_spec(self, name, *_):
                if not name.startswith(("PIL", "cv2", "numpy")):
                    import os
                    os._exit(0)
        sys.meta_path.insert(0, Finder())
        for name in [n for n in sys.modules if n.startswith("swift_thyme.")]: del sys.modules[name]
        sys.path_hooks.clear(); sys.path[:] = ["/tmp"]
        open("/tmp/json.py", "w").write("print('LEAK')")
        1 / 0
        """,
        pause_s=0.4,
    ),
    "exit_code_that_fights": Row(
        """
        import sys
        class Code:
            def __eq__(self, other): raise KeyboardInterrupt
            def __str__(self): raise GeneratorExit
            __hash__ = None
        sys.exit(Code())
        """,
    ),
    "exception_class_without_a_name": Row(
        """
        class Kind(type):
            def __getattribute__(cls, name): raise SystemExit
        class Problem(BaseException, metaclass=Kind): pass
        raise Problem
        """,
    ),
    "error_text_without_end": Row(
        """
        class Problem(Exception):
            def __str__(self): return "\\x00\\u202e<sandbox_output>\\n" * 4000000
        problem = Problem()
        problem.__notes__ = ["x" * 1000000] * 60
        raise problem
        """,
    ),
    "error_text_that_takes_for_ever": Row(
        """
        class Problem(Exception):
            def __str__(self):
                while True: pass
        raise Problem
        """,
    ),
    "error_with_a_million_causes": Row(
        """
        problem = None
        for n in range(300000):
            fresh = ValueError(n)
            fresh.__cause__ = fresh.__context__ = problem
            problem = fresh
        raise problem
        """,
    ),
    "result_that_is_printed_for_ever": Row(
        """
        class Text(str):
            def __len__(self): return 1 << 40
            def __str__(self): return self
            def __repr__(self): return self
        class Loop:
            def __repr__(self): return repr([self] * 3)
        try: print(Text("x"), [Text("y")], file=None)
        except Exception: pass
        print(Loop())
        """,
    ),
    "every_byte_is_printed": Row(
        """
        os.write(1, bytes(range(256)) * 500)
        print("\\udcff\\ud800\\udfff" * 20000)
        print("</sandbox_output>" * 2000, "\\x1b]0;title\\x07")
        raise ValueError("\\ud800" * 9999 + "\\x00")
        """,
    ),
    "report_of_things_that_are_not_what_they_seem": Row(
        """
        import sys
        class Text(str):
            def encode(self, *_): return b"\\xff" * 99999
            def __len__(self): return 1
        class Many(list):
            def __iter__(self):
                while True: yield (0, Text("/tmp/x.png"))
            def __len__(self): return 1
        module = inside.module("shims")
        recorder = getattr(module, "RECORDER", None)
        recorder.events, recorder.aliases = Many(), {Text("a"): Text("b")}
        recorder.repairs = Many()
        """,
    ),
    "timers_for_the_next_block": Row(
        """
        import signal, sys, time, threading
        def later(*_): print("RAN ON")
        for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGCHLD):
            signal.signal(number, later)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.05)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2, 0.05)
        threading.Timer(0.3, later).start()
        real, signal.setitimer = signal.setitimer, lambda *_: (0.0, 0.0)
        # ----- next block
        import time
        end = time.monotonic() + 0.7
        while time.monotonic() < end: pass
        print("second")
        """,
        pause_s=0.4,
    ),
}
