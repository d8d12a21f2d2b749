"""Programs that trick whoever copies, restores, lists or opens the session's files."""
# ruff: noqa: E501 - lines of programs

from tests.sandbox.rule_programs.row import Row

ROWS = {
    "folder_becomes_a_link_in_a_failed_block": Row(
        """
        os.makedirs("/tmp/a/b/c")
        for folder in ("/tmp/a", "/tmp/a/b", "/tmp/a/b/c"): open(folder + "/f", "w").write("old")
        # ----- next block
        import shutil
        shutil.rmtree("/tmp/a/b")
        os.symlink("CANARY_DIR", "/tmp/a/b")
        os.symlink("CANARY_DIR", "/tmp/canary")
        1 / 0
        # ----- next block
        print("as it was" if open("/tmp/a/b/c/f").read() == "old" else "CHANGED")
        try: print(open("/tmp/canary/canary.txt").read())
        except OSError: print("nothing")
        """,
        ends=("ok", "error", "ok"),
        pause_s=0.3,
    ),
    "folders_are_swapped_while_they_are_restored": Row(
        """
        import ctypes
        for i in range(20):
            os.makedirs(f"/tmp/d{i}")
            open(f"/tmp/d{i}/canary.txt", "w").write("HACKED")
            os.symlink("CANARY_DIR", f"/tmp/l{i}")
        # ----- next block
        def swap():
            for _ in range(6):
                if os.fork() == 0:
                    libc, end = ctypes.CDLL(None), time.monotonic() + 3
                    folder = b"/tmp"
                    while time.monotonic() < end:
                        for i in range(20):
                            libc.renameat2(-100, b"/tmp/d%d" % i, -100, b"/tmp/l%d" % i, 2)
                    os._exit(0)
        for i in range(20): open(f"/tmp/d{i}/pwned", "w").write("HACKED")
        inside.end_and(swap)
        # ----- next block
        for i in range(20):
            for name in ("d", "l"):
                try: text = open(f"/tmp/{name}{i}/canary.txt").read()
                except OSError: continue
                if text != "HACKED": print(text)
        1 / 0
        """,
        pause_s=0.8,
    ),
    "names_swapped_in_a_failed_block": Row(
        """
        for name in "abc": open(f"/tmp/{name}", "w").write(name)
        # ----- next block
        os.rename("/tmp/a", "/tmp/x"); os.rename("/tmp/b", "/tmp/a"); os.rename("/tmp/x", "/tmp/b")
        os.unlink("/tmp/c"); os.link("/tmp/a", "/tmp/c")
        1 / 0
        # ----- next block
        found = "".join(open(f"/tmp/{name}").read() for name in "abc")
        print("as it was" if found == "abc" and not os.listdir(".") else f"CHANGED {found}")
        """,
        ends=("ok", "error", "ok"),
        pause_s=0.3,
    ),
    "open_file_across_an_undo": Row(
        """
        file = open("/tmp/a", "w+"); file.write("old"); file.flush()
        # ----- next block
        file.seek(0); file.write("new"); file.flush(); os.rename("/tmp/a", "/tmp/b")
        1 / 0
        # ----- next block
        file.seek(0)
        found = (open("/tmp/a").read(), file.read())
        print("as it was" if found == ("old", "old") else f"CHANGED {found}")
        """,
        ends=("ok", "error", "ok"),
        pause_s=0.3,
    ),
    "two_names_of_one_file_across_an_undo": Row(
        """
        open("/tmp/a", "w").write("old"); os.link("/tmp/a", "/tmp/b")
        # ----- next block
        open("/tmp/b", "w").write("new")
        1 / 0
        # ----- next block
        open("/tmp/a", "w").write("both")
        found = open("/tmp/b").read()
        print("as it was" if found == "both" else f"CHANGED {found}")
        """,
        ends=("ok", "error", "ok"),
        pause_s=0.3,
    ),
    "folder_that_cannot_be_read": Row(
        """
        os.makedirs("/tmp/d/e"); open("/tmp/d/e/f", "w").write("old")
        os.chmod("/tmp/d/e/f", 0); os.chmod("/tmp/d/e", 0); os.chmod("/tmp/d", 0)
        # ----- next block
        for path in ("/tmp/d", "/tmp/d/e", "/tmp/d/e/f"): os.chmod(path, 0o700)
        open("/tmp/d/e/f", "w").write("new")
        1 / 0
        # ----- next block
        for path in ("/tmp/d", "/tmp/d/e", "/tmp/d/e/f"): os.chmod(path, 0o700)
        print("as it was" if open("/tmp/d/e/f").read() == "old" else "CHANGED")
        """,
        ends=("ok", "error", "ok"),
        pause_s=0.3,
    ),
    "folders_thousands_deep": Row(
        """
        os.chdir("/tmp")
        for _ in range(2500):
            os.mkdir("d" * 200); os.chdir("d" * 200)
        open("end", "w").write("x")
        # ----- next block
        os.chdir("/tmp"); os.rename("d" * 200, "moved")
        1 / 0
        """,
        settings={"inodes": 8192},
        pause_s=0.5,
    ),
    "more_files_than_are_looked_at": Row(
        """
        for i in range(12000): open(f"/tmp/{i:05}", "w").close()
        open("/tmp/zz", "w").write("old")
        # ----- next block
        open("/tmp/zz", "w").write("newer")
        1 / 0
        # ----- next block
        print("as it was" if open("/tmp/zz").read() == "old" else "CHANGED")
        """,
        ends=("ok|killed|error",),
        settings={"inodes": 16384},
        pause_s=1.0,
    ),
    "names_that_fool_a_reader": Row(
        """
        names = ["a\\u202egnp.png", "b\\x1b[31m.png", "c\\u2066.png", "d\\x07.png", "e\\n</x>.png"]
        names += ["f\\u200b.png", "<image>.png", "g\\x00\\u2028.png".replace("\\x00", ""), "h\\x85.png"]
        for name in names: Image.new("RGB", (40, 40)).save(name)
        data = open(names[0], "rb").read()
        open(b"i\\xff\\xfe.png", "wb").write(data)
        for name in (*names, "i\\udcff\\udcfe.png"): os.write(1, os.fsencode(name) + b"\\n")
        """,
    ),
    "endless_files_named_as_pictures": Row(
        """
        for i, target in enumerate(("/dev/zero", "/dev/urandom", "/proc/self/mem", "/dev/stdin")):
            try: os.symlink(target, f"{i}.png")
            except OSError: pass
            print(f"{i}.png")
        for path in ("/dev/zero", "/dev/fd/0", "/proc/self/fd/0", "/dev/full"): print(path + ".png")
        """,
    ),
    "large_holes_in_many_files": Row(
        """
        for i in range(200):
            with open(f"/tmp/{i}", "wb") as f:
                f.truncate(60 << 20)
                f.seek(30 << 20); f.write(b"x")
        # ----- next block
        1 / 0
        """,
        pause_s=1.0,
    ),
    "attributes_and_times_to_the_limit": Row(
        """
        open("/tmp/a", "w").write("old")
        # ----- next block
        for n in (-2**62, 0, 2**62):
            try: os.utime("/tmp/a", ns=(n, n))
            except (OSError, OverflowError): pass
        for i in range(99):
            try: os.setxattr("/tmp/a", f"user.{i}", b"x" * 60000)
            except OSError: pass
        # ----- next block
        open("/tmp/a", "w").write("new")
        os.chmod("/tmp/a", 0o7777)
        1 / 0
        # ----- next block
        print("as it was" if open("/tmp/a").read() == "old" else "CHANGED")
        """,
        ends=("ok", "", "error", "ok"),
        pause_s=0.3,
    ),
}
