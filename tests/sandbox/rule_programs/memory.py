"""Programs that keep memory where nobody may count it."""
# ruff: noqa: E501 - lines of programs

from tests.sandbox.rule_programs.row import Row

ROWS = {
    "memory_in_pipes": Row(
        """
        import fcntl
        kept = []
        try:
            while True:
                pair = os.pipe()
                kept.append(pair)
                try: fcntl.fcntl(pair[1], 1031, 1 << 20)
                except OSError: pass
                os.set_blocking(pair[1], False)
                try:
                    while True: os.write(pair[1], bytes(1 << 16))
                except BlockingIOError: pass
        except OSError: print(len(kept))
        # ----- next block
        for _ in range(30):
            if os.fork() == 0:
                try:
                    while True: os.pipe()
                except OSError: pass
                import time
                time.sleep(60)
        """,
        pause_s=0.5,
    ),
    "memory_in_files_without_a_name": Row(
        """
        kept = []
        try:
            for i in range(60):
                kept.append(open(f"/tmp/{i}", "wb"))
                os.unlink(f"/tmp/{i}")
                for _ in range(30): kept[-1].write(bytes(1 << 20))
        except OSError as error: print(error)
        # ----- next block
        print(len(kept))
        """,
        pause_s=0.5,
    ),
    "memory_in_files_of_open_folders": Row(
        """
        os.mkdir("/dev/shm/d"); os.chdir("/dev/shm/d")
        os.makedirs("/tmp/a/b/c/d/e/f" * 4)
        try:
            for folder in ("/tmp", "/dev/shm", "/mnt/data/temp_processed_images"):
                for i in range(40): open(f"{folder}/{i}", "wb").write(os.urandom(1 << 20) * 60)
        except OSError as error: print(error)
        # ----- next block
        1 / 0
        """,
        pause_s=0.5,
    ),
    "memory_in_many_small_processes": Row(
        """
        import time
        for i in range(40):
            if os.fork() == 0:
                time.sleep(0.3)
                kept = np.ones((150 << 20) // 8)
                time.sleep(60)
        time.sleep(1.5)
        """,
        pause_s=0.5,
    ),
    "memory_shared_without_a_name": Row(
        """
        import mmap, time
        for i in range(12):
            if os.fork() == 0:
                kept = mmap.mmap(-1, 180 << 20)
                for at in range(0, 180 << 20, 4096): kept[at] = 1
                if os.fork():
                    time.sleep(60)
                time.sleep(60)
        time.sleep(1.5)
        """,
        pause_s=0.5,
    ),
    "memory_of_a_stream": Row(
        """
        import socket
        kept, sent = [], 0
        try:
            while True:
                pair = socket.socketpair()
                kept += pair
                for end in pair:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
                    end.setblocking(False)
                    try:
                        while True: sent += end.send(bytes(1 << 20))
                    except BlockingIOError: pass
        except OSError as error: print(error, sent >> 20)
        # ----- next block
        1 / 0
        """,
        pause_s=0.5,
    ),
    "memory_of_rights_in_flight": Row(
        """
        import array, socket
        files, kept = [open("/dev/null") for _ in range(100)], []
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [f.fileno() for f in files]))
        try:
            while True:
                pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                kept += pair
                for end in pair:
                    end.setblocking(False)
                    try:
                        while True: end.sendmsg([bytes(20000)], [rights])
                    except BlockingIOError: pass
        except OSError as error: print(error)
        """,
        pause_s=0.5,
    ),
    "memory_in_event_queues": Row(
        """
        import select, time
        for _ in range(40):
            if os.fork() == 0: break
        queues, watched = [], []
        try:
            while len(queues) < 110: queues.append(select.epoll())
            while True: watched.append(os.pipe())
        except OSError: pass
        for queue in queues:
            for pair in watched:
                for end in pair:
                    try: queue.register(end)
                    except OSError: pass
        time.sleep(60)
        """,
        pause_s=0.5,
    ),
    "memory_in_page_tables": Row(
        """
        import mmap, time
        open("/tmp/a", "wb").truncate(50 << 20)
        for _ in range(40):
            if os.fork() == 0: break
        file, kept = open("/tmp/a", "r+b"), []
        try:
            while True:
                kept.append(mmap.mmap(file.fileno(), 50 << 20, prot=mmap.PROT_READ))
                for at in range(0, 50 << 20, 4096): kept[-1][at]
        except (OSError, ValueError, MemoryError): pass
        time.sleep(60)
        """,
        pause_s=0.5,
    ),
    "memory_while_the_program_is_read": Row(
        """
        for _ in range(20): compile("\\n".join(f"v{i} = {{}}" for i in range(90000)), "x", "exec")
        """,
    ),
    "half_of_the_limit_twice": Row(
        """
        kept = np.ones((200 << 20) // 8)
        # ----- next block
        kept += 1
        1 / 0
        # ----- next block
        kept += 1
        # ----- next block
        kept += 1
        1 / 0
        """,
        pause_s=0.5,
    ),
    "one_file_under_many_open_descriptors": Row(
        """
        import time
        open("/tmp/a", "wb").write(bytes(50 << 20))
        for i in range(30):
            if os.fork() == 0:
                kept = [open("/tmp/a", "rb") for _ in range(200)]
                time.sleep(60)
        for i in range(50): os.link("/tmp/a", f"/tmp/l{i}"); os.symlink("/tmp/a", f"{i}.png")
        1 / 0
        """,
        pause_s=0.5,
    ),
}
