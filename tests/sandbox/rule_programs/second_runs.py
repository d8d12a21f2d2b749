"""Programs that lie about what a second run could repair, or are another program in it."""

from tests.sandbox.rule_programs.row import Row

_MENDING = """
        Mending = sys.modules["swift_thyme.sandbox.mending"].Mending
        Place = sys.modules["swift_thyme.sandbox.mending"].CropPlace
"""

ROWS = {
    "failure_that_is_always_to_be_repaired": Row(
        _MENDING
        + """
        inside.send(inside.report("no", mending=Mending(names=(str(time.time()),), calls=True)))
        while True: time.sleep(1)
        """,
        ends=("error",),
    ),
    "success_that_is_always_to_be_repaired": Row(
        _MENDING
        + """
        inside.send(inside.report(mending=Mending(crops=(Place(1, 1, 1, 1),))))
        while True: time.sleep(1)
        """,
        ends=("ok",),
        pause_s=0.5,
    ),
    "more_to_repair_than_there_can_be": Row(
        _MENDING
        + """
        many = tuple(Place(n, n, n, n) for n in range(65))
        inside.send(inside.report("no", mending=Mending(crops=many)))
        while True: time.sleep(1)
        """,
        ends=("killed",),
    ),
    "program_of_megabytes_reported": Row(
        """
        inside.send(inside.report("no", program="x" * 90000))
        while True: time.sleep(1)
        """,
        ends=("error",),
    ),
    "second_run_without_end": Row(
        """
        if "plt" in globals():
            while True: pass
        plt
        """,
        ends=("error",),
    ),
    "second_run_ends_itself": Row(
        """
        import os
        if "plt" in globals(): os._exit(0)
        plt
        """,
        ends=("error",),
    ),
    "second_run_takes_all_memory": Row(
        """
        if "plt" in globals():
            held = [bytearray(32 << 20) for _ in range(100)]
        plt
        """,
        ends=("error",),
    ),
    "second_run_floods_the_output": Row(
        """
        if "plt" in globals():
            while True: print("x" * 100000)
        plt
        """,
        ends=("error",),
    ),
    "second_run_leaves_processes": Row(
        """
        import os, time
        if "plt" in globals():
            for _ in range(5):
                if os.fork() == 0:
                    while True: os.write(1, b"RAN ON")
            1 / 0
        plt
        # ----- next block
        print("second")
        """,
        ends=("error", "ok"),
    ),
    "second_run_of_a_success_fails": Row(
        """
        import numpy as np
        picture = np.ones((100, 100, 3), np.uint8)
        if picture[90:10, 0:50].sum():
            while True: pass
        print("as it is")
        """,
        ends=("ok",),
    ),
    "every_run_is_to_be_repaired_and_long": Row(
        _MENDING
        + """
        time.sleep(0.45)
        inside.send(inside.report(mending=Mending(crops=(Place(1, 1, 1, 1),))))
        while True: time.sleep(1)
        """,
        ends=("ok|timeout",),
        pause_s=0.5,
    ),
}
