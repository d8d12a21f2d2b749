"""Pictures that are slow to decode, decode to much, or are many."""
# ruff: noqa: E501 - lines of programs

from tests.sandbox.rule_programs.row import Row

_CHUNKS = """
        import zlib, struct
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        def png(width, height, depth, kind, *chunks):
            head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
            parts = [chunk(b"IHDR", head), *chunks, chunk(b"IEND", b"")]
            return b"\\x89PNG\\r\\n\\x1a\\n" + b"".join(parts)
        """

ROWS = {
    "plain_bitmap_full_of_remarks": Row(
        """
        line = b"1 0\\n# a remark\\n" * 4
        open("p.ppm", "wb").write(b"P1 3000 3000\\n" + line * 500000)
        open("q.ppm", "wb").write(b"P2 2000 2000 65535\\n" + b"65535 " * 4000000)
        print("p.ppm"); print("q.ppm")
        """,
    ),
    "tiff_of_a_million_strips": Row(
        """
        import struct
        n, width = 100000, 600
        strips = 8 + n * 8
        tags = [(256, 4, 1, width), (257, 4, 1, n), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
        tags += [(273, 4, n, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, n, 8 + n * 4)]
        body = np.full(n, strips, "<u4").tobytes() + np.full(n, width, "<u4").tobytes() + bytes(width)
        at = 8 + len(body)
        data = b"II*\\0" + struct.pack("<I", at) + body + struct.pack("<H", len(tags))
        data += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
        for i in range(12): open(f"{i}.tiff", "wb").write(data); print(f"{i}.tiff")
        """,
    ),
    "tiff_whose_folders_go_round": Row(
        """
        import struct
        tags = [(256, 4, 1, 40), (257, 4, 1, 40), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
        tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 40), (279, 4, 1, 1600)]
        tags += [(330, 4, 1, 1608), (34665, 4, 1, 1608)]
        data = b"II*\\0" + struct.pack("<I", 1608) + bytes(1600) + struct.pack("<H", len(tags))
        data += b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 1608)
        open("a.tiff", "wb").write(data); print("a.tiff")
        """,
    ),
    "jpeg_of_a_thousand_scans": Row(
        """
        import io
        file = io.BytesIO()
        Image.new("L", (6000, 6000)).save(file, "JPEG", progressive=True)
        data = file.getvalue()
        first = data.index(b"\\xff\\xda")
        second = data.index(b"\\xff\\xc4", first)
        second = min(second, data.index(b"\\xff\\xda", first + 2))
        scan = data[first:second]
        data = data[:second] + scan * 1500 + data[second:]
        for i in range(6): open(f"{i}.jpg", "wb").write(data[:60 << 20]); print(f"{i}.jpg")
        """,
    ),
    "zeros_of_a_hundred_megapixels": Row(
        _CHUNKS
        + """
        zeros = zlib.compressobj(9)
        packed = b"".join(zeros.compress(bytes(10501)) for _ in range(10500)) + zeros.flush()
        data = png(10500, 10500, 8, 0, chunk(b"IDAT", packed))
        for i in range(16): open(f"{i}.png", "wb").write(data); print(f"{i}.png")
        """,
    ),
    "remarks_that_unpack_to_gigabytes": Row(
        _CHUNKS
        + """
        big = zlib.compressobj(9)
        packed = b"".join(big.compress(bytes(1 << 20)) for _ in range(200)) + big.flush()
        text = chunk(b"zTXt", b"k\\0\\0" + packed)
        profile = chunk(b"iCCP", b"k\\0\\0" + packed)
        pixels = chunk(b"IDAT", zlib.compress(bytes(41 * 40)))
        for i in range(16):
            open(f"{i}.png", "wb").write(png(40, 40, 8, 0, profile, *[text] * 60, pixels))
            print(f"{i}.png")
        """,
    ),
    "animation_of_ten_thousand_frames": Row(
        _CHUNKS
        + """
        pixels = zlib.compress(bytes(2001 * 2000))
        control = lambda n: chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, 2000, 2000, 0, 0, 1, 10, 0, 0))
        frames, n = [], 1
        for _ in range(10000):
            frames += [control(n), chunk(b"fdAT", struct.pack(">I", n + 1) + pixels)]
            n += 2
        head = chunk(b"acTL", struct.pack(">II", 10001, 0)) + control(0)
        data = png(2000, 2000, 8, 0, head, chunk(b"IDAT", pixels), *frames)
        for i in range(3): open(f"{i}.png", "wb").write(data[:60 << 20]); print(f"{i}.png")
        first = [Image.new("RGB", (600, 600), (n, 0, 0)) for n in range(60)]
        first[0].save("a.webp", save_all=True, append_images=first[1:]); print("a.webp")
        """,
    ),
    "wavelets_of_noise": Row(
        """
        import io
        file = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
        try: Image.fromarray(noise).save(file, "JPEG2000")
        except (OSError, KeyError, ValueError): Image.fromarray(noise).save(file, "PNG")
        for i in range(16): open(f"{i}.png", "wb").write(file.getvalue()); print(f"{i}.png")
        """,
    ),
    "icons_in_an_icon": Row(
        """
        import io, struct
        file = io.BytesIO(); Image.new("RGBA", (3000, 3000)).save(file, "PNG")
        data, n = file.getvalue(), 60000
        entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(data), 6 + 16 * n)
        for i in range(6):
            open(f"{i}.png", "wb").write(struct.pack("<HHH", 0, 1, n) + entry * n + data)
            print(f"{i}.png")
        """,
    ),
    "hundreds_of_names_of_pictures": Row(
        """
        picture = Image.new("RGB", (28, 28))
        for i in range(240): picture.save(f"{'n' * 180}{i}.png")
        for _ in range(90):
            for i in range(240): print(f"{'n' * 180}{i}.png")
        """,
    ),
    "pictures_changed_while_they_are_read": Row(
        """
        picture = Image.new("RGB", (900, 900))
        for i in range(16): picture.save(f"{i}.png"); print(f"{i}.png")
        import time
        for _ in range(3):
            if os.fork() == 0:
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    for i in range(16):
                        try:
                            os.truncate(f"{i}.png", 60)
                            os.unlink(f"{i}.png"); os.symlink("CANARY_DIR/canary.png", f"{i}.png")
                            os.unlink(f"{i}.png"); picture.save(f"{i}.png")
                        except OSError: pass
                os._exit(0)
        """,
        pause_s=0.5,
    ),
    "picture_beside_a_frozen_encoder": Row(
        """
        for pid in range(1, 400):
            if pid != os.getpid():
                try: os.kill(pid, 19)
                except OSError: pass
        Image.new("RGB", (50, 50)).save("a.png"); print("a.png")
        # ----- next block
        Image.new("RGB", (50, 50)).save("b.png"); print("b.png")
        """,
        ends=("", "ok"),
    ),
}
