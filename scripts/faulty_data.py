"""A data set in the layout of the published one, with faults planted in it.

Three splits as in the published data (image, question, response): parquet with base64, parquet with
bytes in one large row group, JSONL with paths. Pictures come in many formats and modes; a share of
the rows is broken, each in one way, and :func:`make_published` returns which and why, so that a
conversion can be checked row by row. Everything is a function of the seed.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from swift_thyme.core.protocol import OUTPUT_DIR

__all__ = [
    "BROKEN_SHARE",
    "FAULTS",
    "PICTURE_KINDS",
    "Published",
    "make_published",
    "make_row",
    "mark_picture",
    "picture_bytes",
]

BROKEN_SHARE = 0.03
SPLITS = ("wo_thinking_thyme_single_round", "2round", "computation")
ROW_GROUP = 100

_Row = dict[str, Any]


class Published(NamedTuple):
    """What was written."""

    folder: Path
    rows: int
    planted: dict[tuple[str, int], str]
    """(file, number of the row from 1) of each broken row, and the code of its reason."""


# -- pictures --------------------------------------------------------------------------------------


def _pixels(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _rgba(image: Image.Image) -> Image.Image:
    layered = image.convert("RGBA")
    layered.putalpha(Image.linear_gradient("L").resize(image.size))
    return layered


def _sideways(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _save(image, "JPEG", quality=90, exif=exif)


def _grey_16_bit(image: Image.Image) -> bytes:
    values = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return _save(Image.fromarray(values), "PNG")


def _see_through_palette(image: Image.Image) -> bytes:
    return _save(image.quantize(16), "PNG", transparency=0)


def _frames(image: Image.Image, kind: str) -> bytes:
    others = [image.rotate(90 * turn) for turn in (1, 2)]
    return _save(image, kind, save_all=True, append_images=others, duration=50)


PICTURE_KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg": lambda i: _save(i, "JPEG", quality=90),
    "progressive jpeg": lambda i: _save(i, "JPEG", quality=85, progressive=True),
    "grey jpeg": lambda i: _save(i.convert("L"), "JPEG"),
    "cmyk jpeg": lambda i: _save(i.convert("CMYK"), "JPEG"),
    "sideways jpeg": _sideways,
    "png": lambda i: _save(i, "PNG", compress_level=1),
    "png with transparency": lambda i: _save(_rgba(i), "PNG", compress_level=1),
    "grey png with transparency": lambda i: _save(_rgba(i).convert("LA"), "PNG"),
    "palette png": lambda i: _save(i.quantize(64), "PNG"),
    "palette png with transparency": _see_through_palette,
    "two-colour png": lambda i: _save(i.convert("1"), "PNG"),
    "16-bit png": _grey_16_bit,
    "gif": lambda i: _save(i, "GIF"),
    "animated gif": lambda i: _frames(i, "GIF"),
    "animated webp": lambda i: _frames(i, "WEBP"),
    "webp with transparency": lambda i: _save(_rgba(i), "WEBP", quality=80),
    "bmp": lambda i: _save(i, "BMP"),
    "tiff": lambda i: _save(i, "TIFF"),
}
"""How a picture can be stored; each function encodes an RGB image."""

_SIZES = ((320, 240), (240, 320), (448, 448), (640, 360), (100, 30))


def picture_bytes(kind: str, rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Return a random picture of one kind.

    Args:
        kind: A key of ``PICTURE_KINDS``.
        rng: Source of everything that varies.
        size: (width, height) in pixels.
    """
    return PICTURE_KINDS[kind](_pixels(rng, size))


class _Album:
    """Hands out pictures that all differ in their bytes, from a small stock of drawn ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._stock: list[tuple[bytes, tuple[int, int]]] = []
        for kind in PICTURE_KINDS:
            # Most published pictures are plain JPEGs.
            for size in _SIZES * (6 if kind == "jpeg" else 1):
                self._stock.append((picture_bytes(kind, rng, size), size))

    def draw(self, rng: np.random.Generator, serial: int) -> tuple[bytes, tuple[int, int]]:
        data, size = self._stock[int(rng.integers(len(self._stock)))]
        return mark_picture(data, serial), size


def mark_picture(data: bytes, serial: int) -> bytes:
    """Return the picture with a comment in it, so that its bytes are its own."""
    text = f"picture {serial}".encode()
    if data.startswith(b"\xff\xd8"):
        return data[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + data[2:]
    if data.startswith(b"\x89PNG"):
        chunk = b"tEXtComment\0" + text
        crc = struct.pack(">I", zlib.crc32(chunk))
        return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + crc + data[33:]
    return data


# -- texts -----------------------------------------------------------------------------------------


def _question(index: int, size: tuple[int, int]) -> str:
    return (
        f"<image>\nWhat is in picture {index}?\n\n"
        f'### User Image Path:** "/mnt/data/published/img_{index}.jpg"\n'
        f'### User Image Size:** "{size[0]}x{size[1]}"\n'
    )


def _code(body: str) -> str:
    return f"<code>\n```python\n{body}\n```\n</code>"


def _crop_code(index: int, size: tuple[int, int]) -> str:
    return _code(
        "from PIL import Image\n"
        f'image_path = "/home/other/images/img_{index}.jpg"\n'
        f"crop = Image.open(image_path).crop((0, 0, {size[0] // 2}, {size[1] // 2}))\n"
        f'processed_path = "{OUTPUT_DIR}crop_{index}.jpg"\n'
        'crop.resize((64, 64)).convert("RGB").save(processed_path)\n'
        "print(processed_path)"
    )


def make_row(
    split: str, index: int, rng: np.random.Generator, draw: Callable[[], tuple[bytes, Any]]
) -> _Row:
    """Return a good row; its images are bytes.

    Args:
        split: One of ``SPLITS``.
        index: Its number in the data set.
        rng: Source of everything that varies.
        draw: Returns the bytes and the size of another picture.
    """
    a, b = (int(v) for v in rng.integers(2, 1000, 2))
    calculation = _code(f"print({a} * {b})") + f"<sandbox_output>{a * b}</sandbox_output>"
    if split == SPLITS[2] and rng.random() < 0.5:
        response = f"<think>I compute. {calculation}</think>\n<answer>{a * b}</answer>"
        return {"image": [], "question": f"How much is {a} * {b}?", "response": response}
    data, size = draw()
    if split == SPLITS[2]:
        response = f"<think>I compute. {calculation}</think>\n<answer>{a * b}</answer>"
        return {"image": [data], "question": _question(index, size), "response": response}
    look = _crop_code(index, size) + "<sandbox_output><image></sandbox_output>"
    images = [data, draw()[0]]
    if split == SPLITS[1]:
        look += f" Now I count. {calculation}"
    response = f"<think>I look closer. {look} I see.</think>\n<answer>item {a}</answer>"
    return {"image": images, "question": _question(index, size), "response": response}


# -- faults ----------------------------------------------------------------------------------------


def _set(name: str, change: Callable[[Any], Any]) -> Callable[[_Row], None]:
    def apply(row: _Row) -> None:
        row[name] = change(row[name])

    return apply


def _swap(old: str, new: str) -> Callable[[_Row], None]:
    return _set("response", lambda text: text.replace(old, new, 1))


def _first_image(change: Callable[[bytes], Any]) -> Callable[[_Row], None]:
    return _set("image", lambda images: [change(images[0]), *images[1:]])


def _bomb(_: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b""
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + body))
        chunks += struct.pack(">I", len(body)) + name + body + crc
    return b"\x89PNG\r\n\x1a\n" + chunks


def _long(_: bytes) -> bytes:
    return _save(Image.new("RGB", (2010, 10)), "JPEG")


def _truncated(data: bytes) -> bytes:
    return _save(Image.open(io.BytesIO(data)).convert("RGB"), "JPEG")[:-200]


FAULTS: dict[str, tuple[str, Callable[[_Row], None], str]] = {
    # name: (reason, change, where it can be planted: any, image, jsonl)
    "code not closed": ("unbalanced_tag", _swap("</code>", ""), "any"),
    "think not closed": ("unbalanced_tag", _swap("</think>", ""), "any"),
    "output closed twice": (
        "unbalanced_tag",
        _swap("</sandbox_output>", "</sandbox_output></sandbox_output>"),
        "any",
    ),
    "answer inside think": (
        "tag_order",
        _set("response", lambda t: t.replace("</think>\n", "") + "</think>"),
        "any",
    ),
    "no answer": ("no_answer", _set("response", lambda t: t.partition("<answer>")[0]), "any"),
    "empty answer": (
        "empty_answer",
        _set("response", lambda t: t.partition("<answer>")[0] + "<answer> </answer>"),
        "any",
    ),
    "text after the answer": (
        "text_after_answer",
        _set("response", lambda t: t + " That is all."),
        "any",
    ),
    "output lost": (
        "code_without_output",
        _set("response", lambda t: t.partition("<sandbox_output>")[0] + _tail(t)),
        "any",
    ),
    "code lost": (
        "output_without_code",
        _set("response", lambda t: "<think>" + t[t.index("<sandbox_output>") :]),
        "any",
    ),
    "code cut off": ("code_syntax", _swap("print(", "print(("), "any"),
    "code of comments": (
        "empty_code",
        _set("response", lambda t: _with_code(t, "# nothing to do")),
        "any",
    ),
    "control token": ("special_token", _swap("I ", "<|im_end|>I "), "any"),
    "no response": ("missing_column", _set("response", lambda _: None), "any"),
    "blank response": ("empty_response", _set("response", lambda _: " \n"), "any"),
    "blank question": ("empty_question", _set("question", lambda _: "<image>"), "any"),
    "image lost": ("image_count", _set("image", lambda images: images[:-1]), "image"),
    "image tag in prose": ("image_outside_output", _swap("</think>", "<image></think>"), "image"),
    "image cut off": ("image_broken", _first_image(_truncated), "image"),
    "no image at all": ("image_format", _first_image(lambda _: b"<html>404</html>"), "image"),
    "pixel bomb": ("image_too_large", _first_image(_bomb), "image"),
    "endless strip": ("image_aspect", _first_image(_long), "image"),
    "empty image": ("image_empty", _first_image(lambda _: b""), "image"),
    "image not base64": ("image_base64", _first_image(lambda _: "§" * 5000), "text image"),
    "image file missing": ("image_file", _first_image(lambda _: "/no/such.png"), "text image"),
    "image address": ("image_url", _first_image(lambda _: "https://a.b/c.png"), "text image"),
    "image of a number": ("wrong_type", _first_image(lambda _: 7), "jsonl image"),
    "half a surrogate": ("bad_unicode", _swap("I ", "\ud800I "), "jsonl"),
    "question of a list": ("wrong_type", _set("question", lambda q: [q]), "jsonl"),
}
"""Name of each fault, the reason it must be rejected for, what it does, and where it fits."""

_BAD_JSON = "bad_json"


def _tail(text: str) -> str:
    return text.rpartition("</sandbox_output>")[2]


def _with_code(text: str, body: str) -> str:
    head, _, rest = text.partition("<code>")
    return head + _code(body) + rest.partition("</code>")[2]


# -- files -----------------------------------------------------------------------------------------


def _rows(
    split: str, count: int, rng: np.random.Generator, album: _Album, faults: list[str], share: float
) -> Iterator[tuple[_Row, str | None]]:
    serial = 0

    def draw() -> tuple[bytes, tuple[int, int]]:
        nonlocal serial
        serial += 1
        return album.draw(rng, serial + 10_000_000 * SPLITS.index(split))

    n_faults = 0
    for index in range(count):
        row = make_row(split, index, rng, draw)
        reason = None
        # The kinds take turns, so that each occurs.
        if rng.random() < share:
            name = faults[n_faults % len(faults)]
            reason, change, where = FAULTS[name]
            if "image" in where:
                while not row["image"]:
                    row = make_row(split, index, rng, draw)
            change(row)
            n_faults += 1
        yield row, reason


def _base64(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def make_published(
    out: Path, n_rows: int, seed: int = 0, broken_share: float = BROKEN_SHARE
) -> Published:
    """Write the data set.

    Args:
        out: Folder to write to.
        n_rows: Rows in all; half in the first split, a quarter in each of the others.
        seed: Everything that varies is a function of it.
        broken_share: Share of broken rows, 0 to 1.
    """
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    album = _Album(rng)
    planted: dict[tuple[str, int], str] = {}
    counts = (n_rows - 2 * (n_rows // 4), n_rows // 4, n_rows // 4)
    fitting = {
        "text": [n for n, f in FAULTS.items() if "jsonl" not in f[2]],
        "bytes": [n for n, f in FAULTS.items() if f[2] in ("any", "image")],
        "jsonl": list(FAULTS),
    }
    half = counts[0] // 2
    rows = _rows(SPLITS[0], counts[0], rng, album, fitting["text"], broken_share)
    for part, size in enumerate((half, counts[0] - half)):
        path = out / f"{SPLITS[0]}-{part:05d}-of-00002.parquet"
        _write_parquet(path, rows, size, planted, in_base64=True)
    rows = _rows(SPLITS[1], counts[1], rng, album, fitting["bytes"], broken_share)
    path = out / f"{SPLITS[1]}-00000-of-00001.parquet"
    _write_parquet(path, rows, counts[1], planted, in_base64=False)
    rows = _rows(SPLITS[2], counts[2], rng, album, fitting["jsonl"], broken_share)
    _write_jsonl(out / f"{SPLITS[2]}.jsonl", rows, out / "pictures", planted)
    listing = [[file, row, reason] for (file, row), reason in planted.items()]
    (out / "planted.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
    return Published(out, n_rows, planted)


def _write_parquet(
    path: Path,
    rows: Iterator[tuple[_Row, str | None]],
    count: int,
    planted: dict[tuple[str, int], str],
    *,
    in_base64: bool,
) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    image = pa.string() if in_base64 else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", pa.list_(image)), ("question", pa.string()), ("response", pa.string())]
    )

    def convert(value: Any) -> Any:
        return _base64(value) if in_base64 else {"bytes": value, "path": None}

    with ParquetWriter(path, schema, compression="snappy") as writer:
        batch: list[_Row] = []
        for number in range(1, count + 1):
            row, reason = next(rows)
            if reason is not None:
                planted[str(path), number] = reason
            batch.append({**row, "image": [convert(value) for value in row["image"]]})
            # The bytes are written as one large row group, as pandas would.
            if (in_base64 and len(batch) == ROW_GROUP) or number == count:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch.clear()


def _write_jsonl(
    path: Path,
    rows: Iterator[tuple[_Row, str | None]],
    pictures: Path,
    planted: dict[tuple[str, int], str],
) -> None:
    pictures.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number, (row, reason) in enumerate(rows, 1):
            if reason is not None:
                planted[str(path), number] = reason
            images = []
            for index, value in enumerate(row["image"]):
                if isinstance(value, bytes) and reason is None:
                    # Relative and absolute paths take turns.
                    picture = pictures / f"{number}_{index}"
                    picture.write_bytes(value)
                    images.append(
                        str(picture) if number % 2 else str(picture.relative_to(path.parent))
                    )
                else:
                    images.append(_base64(value))
            line = json.dumps({**row, "image": images})
            if number % 1500 == 700 and reason is None:
                planted[str(path), number] = _BAD_JSON
                line = line[:-20]
            file.write(line + "\n")
