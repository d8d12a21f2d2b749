"""Programs that forge, flood, steal or block what goes between runner and worker."""

from tests.sandbox.rule_programs.row import Row

ROWS = {
    "success_reported_twice": Row(
        """
        inside.send(inside.report())
        inside.send(inside.report())
        1 / 0
        """,
    ),
    "ready_before_it_is_asked_for": Row(
        """
        inside.send(inside.report())
        inside.send(inside.ready())
        while True: time.sleep(1)
        """,
    ),
    "two_processes_take_over": Row(
        """
        def split():
            for _ in range(5):
                if os.fork() == 0: break
        inside.end_and(lambda: None, back=split)
        # ----- next block
        print("second")
        """,
        pause_s=0.5,
    ),
    "takeover_by_the_thousand": Row(
        """
        def flood():
            if os.fork() == 0:
                data, end = inside.ready(), time.monotonic() + 8
                while time.monotonic() < end: inside.send(data)
                os._exit(0)
        inside.end_and(flood)
        # ----- next block
        print("second")
        """,
        pause_s=1.0,
    ),
    "reports_from_a_process_left_at_commit": Row(
        """
        def flood():
            if os.fork() == 0:
                data, end = inside.report("RAN ON"), time.monotonic() + 8
                while time.monotonic() < end:
                    inside.send(data)
                    time.sleep(0.001)
                os._exit(0)
        inside.end_and(flood)
        # ----- next block
        print("second")
        """,
        pause_s=0.5,
    ),
    "program_stolen_by_a_process_left_at_commit": Row(
        """
        def steal():
            if os.fork() == 0:
                end = time.monotonic() + 8
                ends = [socket.socket(fileno=os.dup(f)) for f in inside.sockets()]
                while time.monotonic() < end:
                    for one in ends: one.recv(1 << 18)
                os._exit(0)
        inside.end_and(steal)
        # ----- next block
        print("second")
        """,
        pause_s=0.5,
    ),
    "printing_left_at_commit": Row(
        """
        def flood():
            if os.fork() == 0:
                end = time.monotonic() + 8
                while time.monotonic() < end: os.write(1, b"RAN ON" * 1000)
                os._exit(0)
        inside.end_and(flood)
        # ----- next block
        print("second")
        """,
        pause_s=1.0,
    ),
    "report_over_every_cap": Row(
        """
        for f in inside.sockets():
            one = socket.socket(fileno=os.dup(f))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
            try: one.sendall(inside.report(repairs=("x" * 60,) * 100000))
            except OSError: pass
        while True: pass
        """,
    ),
    "datagrams_of_nothing": Row(
        """
        end = time.monotonic() + 1
        while time.monotonic() < end:
            for f in inside.sockets():
                try: socket.socket(fileno=os.dup(f)).send(b"")
                except OSError: pass
        1 / 0
        """,
    ),
    "descriptors_sent_to_the_worker": Row(
        """
        import array
        inside.sockets()
        kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", kept))
        for _ in range(3000):
            for f in inside.sockets()[:4]:
                one = socket.socket(fileno=os.dup(f))
                one.setblocking(False)
                try: one.sendmsg([b"x"], [rights])
                except OSError: pass
        """,
    ),
    "socket_sent_through_itself": Row(
        """
        import array
        for f in inside.sockets():
            one = socket.socket(fileno=os.dup(f))
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [f]))
            try: one.sendmsg([inside.report()], [rights])
            except OSError: pass
        while True: pass
        """,
    ),
    "channel_and_output_set_to_never_wait": Row(
        """
        kept = 1
        # ----- next block
        for f in (1, *inside.sockets()): os.set_blocking(f, False)
        1 / 0
        # ----- next block
        for _ in range(30): print("y" * 9999)
        # ----- next block
        for f in (1, *inside.sockets()): os.set_blocking(f, False)
        # ----- next block
        print("fifth")
        """,
        ends=("ok", "error", "ok", "ok"),
        pause_s=0.4,
    ),
    "writing_side_shut_at_commit": Row(
        """
        def shut():
            for f in inside.sockets():
                try: socket.socket(fileno=os.dup(f)).shutdown(socket.SHUT_WR)
                except OSError: pass
        inside.end_and(shut)
        # ----- next block
        print("second")
        """,
        pause_s=0.5,
    ),
    "everything_closed_at_commit": Row(
        """
        inside.end_and(lambda: os.closerange(0, 250))
        # ----- next block
        print("second")
        """,
        pause_s=0.5,
    ),
    "both_sides_shut_in_a_kept_state": Row(
        """
        kept = 1
        # ----- next block
        def shut():
            for f in inside.sockets():
                try: socket.socket(fileno=os.dup(f)).shutdown(socket.SHUT_RDWR)
                except OSError: pass
        inside.end_and(lambda: None, back=shut)
        # ----- next block
        1 / 0
        """,
        pause_s=0.5,
    ),
    "other_pipes_in_their_place": Row(
        """
        read_end, write_end = os.pipe()
        os.dup2(write_end, 1)
        for f in inside.sockets(): os.dup2(read_end, f)
        """,
        ends=("killed|error|timeout",),
    ),
    "output_pipe_made_small_and_full": Row(
        """
        import fcntl
        fcntl.fcntl(1, 1031, 4096)
        os.set_blocking(1, False)
        try:
            while True: os.write(1, b"z" * 4096)
        except OSError: pass
        1 / 0
        # ----- next block
        print("as it was")
        """,
    ),
}
