#!/usr/bin/env python
"""How the page of `thyme view` behaves with 2,000 trajectories in a real headless Chromium.

Each trajectory has a returned picture of its own; prompt pictures are shared by 8 (a group of
samples of one question) or not at all. "open" is from the request to a page that shows its first
trajectory, "first search" also makes the text searchable, "select" opens a trajectory, pictures
decoded, and "slowest frame" is the longest time between two frames while the whole list is scrolled
through in 4 seconds. With --check the exit status is 1 when a value is above its limit.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from swift_thyme.view.page import build_page  # noqa: E402
from swift_thyme.view.sources import load  # noqa: E402
from tests.view.chromium import Page  # noqa: E402
from tests.view.samples import write_folder  # noqa: E402

LIMITS = {"open_s": 5.0, "search_ms": 100.0, "select_ms": 200.0, "slowest_frame_ms": 100.0}

SEARCH = """
document.getElementById("search").value = {text};
document.getElementById("filters").dispatchEvent(new Event("input"));
"""
SELECT = """
(async () => {
  const start = performance.now();
  location.hash = "#t1234";
  await new Promise((done) => addEventListener("hashchange", done, { once: true }));
  await Promise.all([...document.querySelectorAll("#detail img")].map((image) => image.decode()));
  return performance.now() - start;
})()
"""
SCROLL = """
(async () => {
  const list = document.getElementById("list");
  const frame = () => new Promise(requestAnimationFrame);
  let [slowest, rows] = [0, 0];
  await frame();
  const start = performance.now();
  for (let last = start; last - start < 4000; ) {
    list.scrollTop = ((last - start) / 4000) * list.scrollHeight;
    await frame();
    const now = performance.now();
    slowest = Math.max(slowest, now - last);
    rows = Math.max(rows, document.querySelectorAll("#rows > *").length);
    last = now;
  }
  return [slowest, rows];
})()
"""


@dataclass(frozen=True)
class Result:
    name: str
    trajectories: int
    pictures: int
    build_s: float
    page_mib: float
    open_s: float
    first_search_ms: float
    search_ms: float
    select_ms: float
    slowest_frame_ms: float
    rows_in_page: int
    errors: int


def search_ms(page: Page, text: str) -> float:
    """Return how long a search takes, from the event to the redrawn list."""
    page.evaluate("window.settled = false")
    started = page.evaluate(
        "(async () => { const list = document.getElementById('rows');"
        "const changed = new Promise((done) => new MutationObserver((_, o) => "
        "{ o.disconnect(); done(performance.now()); }).observe(list, { childList: true }));"
        "const start = performance.now();"
        + SEARCH.format(text=json.dumps(text))
        # The page waits 60 ms for the next key before it searches.
        + "return (await changed) - start - 60; })()"
    )
    return float(started)


def measure(name: str, count: int, prompts: int, folder: Path) -> Result:
    """Build a page and use it."""
    output = folder / f"{name}.html"
    source = write_folder(folder / name, count, prompts=prompts)
    start = time.perf_counter()
    report = build_page(load([source]), output, title=name)
    build_s = time.perf_counter() - start
    with Page() as page:
        start = time.perf_counter()
        page.open(output.as_uri())
        open_s = time.perf_counter() - start
        first = search_ms(page, "closer box")
        later = search_ms(page, "box 12")
        page.click("#reset")
        page.wait("document.getElementById('search').value === ''")
        select = page.evaluate(SELECT)
        frame, rows = page.evaluate(SCROLL)
        errors = len(page.errors)
    return Result(
        name=name,
        trajectories=report.shown,
        pictures=report.images,
        build_s=round(build_s, 2),
        page_mib=round(report.bytes / 2**20, 1),
        open_s=round(open_s, 2),
        first_search_ms=round(first, 1),
        search_ms=round(later, 1),
        select_ms=round(select, 1),
        slowest_frame_ms=round(frame, 1),
        rows_in_page=rows,
        errors=errors,
    )


def main() -> int:
    """Measure, print, and check if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trajectories", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--check", action="store_true", help="fail above the limits")
    arguments = parser.parse_args()
    count = arguments.trajectories
    with tempfile.TemporaryDirectory() as folder:
        results = [
            measure("groups", count, max(1, count // 8), Path(folder)),
            measure("single", count, count, Path(folder)),
        ]
    names = list(asdict(results[0]))
    for name in names:
        print(f"{name:18}", *(f"{asdict(result)[name]!s:>12}" for result in results))
    if arguments.json:
        record = {"machine": platform.platform(), "results": [asdict(r) for r in results]}
        arguments.json.write_text(json.dumps(record, indent=2))
    failures = [
        f"{result.name}: {name} is {asdict(result)[name]}, limit {limit}"
        for result in results
        for name, limit in {**LIMITS, "errors": 0}.items()
        if asdict(result)[name] > limit
    ]
    if arguments.check:
        for failure in failures:
            print(failure, file=sys.stderr)
    return int(bool(failures) and arguments.check)


if __name__ == "__main__":
    raise SystemExit(main())
