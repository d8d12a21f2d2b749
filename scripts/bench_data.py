#!/usr/bin/env python
"""Images per second of `thyme data sft` and of a plain thread-pool script, on the same rows.

The plain script reads the same parquet file, decodes base64 and saves JPEGs of quality 95 with
Pillow, in a pool of threads, as a preparation is usually written. Both are whole processes, start
included, and take turns; the best run of each counts. "stages" is what one picture costs in
thyme data, measured in this process one picture after the other. With --check the exit status is 1
when the ratio for the mixed rows is under 2.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from faulty_data import mark_picture
from PIL import Image

from swift_thyme.data.pictures import ImageStore, normalise, raw_bytes

LEAST_RATIO = 2.0
SIZE = (1200, 900)
STOCK = 16
RESPONSE = "<think>I see it.</think>\n<answer>a cat</answer>"


@dataclass(frozen=True)
class Case:
    name: str
    png_every: int
    """Each so many-th picture is a PNG; 0 for none."""


CASES = (Case("JPEG", 0), Case("4 JPEG : 1 PNG (mixed)", 5), Case("PNG", 1))


@dataclass(frozen=True)
class Result:
    name: str
    images: int
    plain_per_s: float
    thyme_per_s: float
    ratio: float
    stages_ms: dict[str, float]


def draw_photos(kind: str) -> list[bytes]:
    """Return pictures with the smoothness and the grain of photographs."""
    rng = np.random.default_rng(0)
    photos = []
    for _ in range(STOCK):
        coarse = Image.fromarray(rng.integers(0, 256, (45, 60, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = pixels + rng.normal(0, 3, pixels.shape)
        buffer = io.BytesIO()
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
        photos.append(buffer.getvalue())
    return photos


def write_rows(path: Path, case: Case, count: int) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    stock = {kind: draw_photos(kind) for kind in ("JPEG", "PNG")}
    schema = pa.schema(
        [("image", pa.list_(pa.string())), ("question", pa.string()), ("response", pa.string())]
    )
    with ParquetWriter(path, schema) as writer:
        for first in range(0, count, 100):
            rows = []
            for number in range(first, min(first + 100, count)):
                kind = "PNG" if case.png_every and number % case.png_every == 0 else "JPEG"
                data = mark_picture(stock[kind][number % STOCK], number)
                text = base64.b64encode(data).decode()
                rows.append({"image": [text], "question": "What is it?", "response": RESPONSE})
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def plain(source: Path, out: Path) -> None:
    """Do what the usual preparation script does."""
    from pyarrow.parquet import ParquetFile

    out.mkdir()

    def save(text: str, number: int) -> str:
        image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
        path = out / f"{number}.jpg"
        image.save(path, "JPEG", quality=95)
        return str(path)

    with (
        ThreadPoolExecutor(2 * len(os.sched_getaffinity(0))) as pool,
        (out / "rows.jsonl").open("w") as file,
    ):
        number = 0
        for batch in ParquetFile(source).iter_batches(batch_size=64):
            rows = batch.to_pylist()
            futures = [
                [pool.submit(save, text, number := number + 1) for text in row["image"]]
                for row in rows
            ]
            for row, images in zip(rows, futures, strict=True):
                paths = [future.result() for future in images]
                messages = [
                    {"role": "user", "content": f"<image>{row['question']}"},
                    {"role": "assistant", "content": row["response"]},
                ]
                file.write(json.dumps({"messages": messages, "images": paths}) + "\n")


def timed(argv: list[str], out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def texts(source: Path, count: int) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile

    for batch in ParquetFile(source).iter_batches(batch_size=16, columns=["image"]):
        for images in batch.column(0).to_pylist():
            yield images[0]
            count -= 1
            if not count:
                return


def stages(source: Path, folder: Path, count: int) -> dict[str, float]:
    """Return milliseconds per picture of each step, one core."""
    totals = dict.fromkeys(("read", "base64", "hash", "decode", "write"), 0.0)
    (folder / "tmp").mkdir()
    store = ImageStore(folder / "images", folder / "tmp")
    mark = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal mark
        now = time.perf_counter()
        totals[name] += now - mark
        mark = now

    n_images = 0
    for text in texts(source, count):
        lap("read")
        data, _ = raw_bytes(text, folder, "image")
        lap("base64")
        path = store.path(data)
        lap("hash")
        picture = normalise(data, 1e8)
        lap("decode")
        store.put(path, picture.data)
        lap("write")
        n_images += 1
    return {name: round(1000 * total / n_images, 2) for name, total in totals.items()}


def measure(case: Case, images: int, repeats: int) -> Result:
    folder = Path(tempfile.mkdtemp())
    try:
        source = folder / "rows.parquet"
        write_rows(source, case, images)
        plain_argv = [sys.executable, __file__, "--plain", str(source), str(folder / "plain")]
        thyme_argv = [sys.executable, "-m", "swift_thyme.commands.main", "data", "sft", str(source)]
        thyme_argv += ["--out", str(folder / "thyme")]
        plain_s, thyme_s = [], []
        for _ in range(repeats):
            plain_s.append(timed(plain_argv, folder / "plain"))
            thyme_s.append(timed(thyme_argv, folder / "thyme"))
        kept = (folder / "thyme" / "rows.images.jsonl").read_text().count("\n")
        if kept != images:
            raise SystemExit(f"thyme data kept {kept} of {images} rows")
        return Result(
            name=case.name,
            images=images,
            plain_per_s=images / min(plain_s),
            thyme_per_s=images / min(thyme_s),
            ratio=min(plain_s) / min(thyme_s),
            stages_ms=stages(source, folder, min(images, 200)),
        )
    finally:
        shutil.rmtree(folder)


def table(results: list[Result]) -> str:
    steps = list(results[0].stages_ms)
    titles = ["rows", "images", "plain/s", "thyme/s", "ratio", *(f"{s} ms" for s in steps)]
    rows = [titles, ["---"] * len(titles)]
    for r in results:
        rates = [f"{r.plain_per_s:.0f}", f"{r.thyme_per_s:.0f}", f"{r.ratio:.2f}"]
        rows.append([r.name, str(r.images), *rates, *(f"{r.stages_ms[s]:.2f}" for s in steps)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3000, help="rows of a case, one image each")
    parser.add_argument("--repeats", type=int, default=2, help="runs per case; the best counts")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the ratio is low")
    parser.add_argument("--plain", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(Path(options.plain[0]), Path(options.plain[1]))
        return 0
    results = []
    for case in CASES:
        # A PNG takes several times as long as a JPEG.
        count = options.images // 3 if case.png_every == 1 else options.images
        results.append(measure(case, count, options.repeats))
    print(table(results))
    mixed = next(r for r in results if "mixed" in r.name)
    if options.json is not None:
        report = {
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
            "pixels": SIZE,
            "results": [asdict(result) for result in results],
            "passed": mixed.ratio >= LEAST_RATIO,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if options.check and mixed.ratio < LEAST_RATIO else 0


if __name__ == "__main__":
    sys.exit(main())
