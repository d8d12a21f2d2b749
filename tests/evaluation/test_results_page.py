"""The page of an evaluation: as data, and as a reader sees it in a real headless Chromium."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.evaluation.arms import Arm
from swift_thyme.evaluation.outcome import outcomes
from swift_thyme.evaluation.results import build_report
from swift_thyme.evaluation.results_page import Benchmark, write_results_page
from swift_thyme.evaluation.run import EvalSettings, Evaluation, Job
from swift_thyme.evaluation.tsv import read_tsv
from swift_thyme.inference.loop import LoopSettings
from tests.evaluation.test_run import answer, run
from tests.inference.builders import image_bytes
from tests.view.chromium import Page
from tests.view.samples import HOSTILE

from .builders import row, write_tsv

ROWS = 6
ARMS = (Arm.TOOLS, Arm.PLAIN, Arm.NO_TOOLS)
REPLIES = {
    Arm.TOOLS: [answer("A"), answer("A"), answer("A"), answer("A"), answer("B"), "Hm."],
    Arm.PLAIN: ["A", "B", "B", "A", "A", "B"],
    Arm.NO_TOOLS: ["Hm."] * ROWS,
}


async def evaluated(folder: Path, name: str, category: str = "odd") -> Benchmark:
    """Return a file of six rows, each with a picture of its own, asked in all three ways."""
    rows = [
        row(
            i,
            image=base64.b64encode(image_bytes((40 + i, 30 + len(name)))).decode(),
            category="even" if i % 2 == 0 else category,
        )
        for i in range(ROWS)
    ]
    dataset = read_tsv(write_tsv(folder / f"{name}.tsv", rows))
    settings = EvalSettings(system="S", loop=LoopSettings(), shuffle=False)
    evaluation = Evaluation(dataset, folder / name, settings, {"model": "scripted"})
    jobs = [Job(item, 1, arm) for arm in ARMS for item in dataset.items]
    await run(evaluation, [reply for arm in ARMS for reply in REPLIES[arm]], jobs)
    found = outcomes(evaluation, jobs)
    return Benchmark(evaluation.out, build_report(evaluation, jobs, found), tuple(found))


def data_of(page: Path, name: str) -> Any:
    text = page.read_text(encoding="utf-8")
    match = re.search(
        rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL
    )
    assert match
    return json.loads(match.group(1))


async def test_behind_each_count_are_its_trajectories(tmp_path: Path) -> None:
    benchmarks = [await evaluated(tmp_path, name) for name in ("first", "second")]
    report = write_results_page(tmp_path / "results.html", benchmarks, "a model")
    assert report.shown == 2 * len(ARMS) * ROWS
    sheet = data_of(tmp_path / "results.html", "sheet-data")
    trajectories = data_of(tmp_path / "results.html", "data")["trajectories"]
    assert [one["name"] for one in sheet["benchmarks"]] == ["first", "second"]
    for one in sheet["benchmarks"]:
        for group in (one["whole"], *(g for c in one["columns"] for g in c["groups"])):
            for bar in group["bars"]:
                behind = [part["members"] for part in bar["parts"]]
                assert [len(members) for members in behind] == [p["count"] for p in bar["parts"]]
                for part in bar["parts"]:
                    for t in (trajectories[index] for index in part["members"]):
                        assert t["run"] == f"{one['name']} {bar['arm']}"
                        assert t["reward"] == float(part["words"] == "right")
                        assert (t["answer"] is None) == (part["words"] == "no answer")
                        assert group["label"] in ("", t["meta"]["category"])
    second = sheet["benchmarks"][1]["whole"]
    assert [bar["title"] for bar in second["bars"]] == [
        *("with the tool", "plain prompt", "tool refused")
    ]
    effect = second["effects"][0]
    assert (effect["title"], effect["mean"]) == (
        "effect over: plain prompt",
        pytest.approx(1 / 6),
    )
    counts = {part["words"]: part["count"] for part in effect["parts"]}
    assert counts == {"both right": 2, "only with the tool": 2, "only without": 1, "neither": 1}
    (only_without,) = [p["members"] for p in effect["parts"] if p["words"] == "only without"]
    assert [trajectories[index]["id"] for index in only_without] == [
        *("4/run1/tools~2", "4/run1/plain~2")
    ]


async def test_with_too_many_trajectories_whole_rows_are_left_out(tmp_path: Path) -> None:
    benchmark = await evaluated(tmp_path, "first")
    report = write_results_page(tmp_path / "results.html", [benchmark], "m", most=9)
    assert report.shown == 9
    trajectories = data_of(tmp_path / "results.html", "data")["trajectories"]
    assert [t["meta"]["index"] for t in trajectories] == [*"111", *"333", *"555"]
    sheet = data_of(tmp_path / "results.html", "sheet-data")
    assert not sheet["complete"]
    (bar, *_) = sheet["benchmarks"][0]["whole"]["bars"]
    assert [(p["count"], len(p["members"])) for p in bar["parts"]] == [(4, 2), (1, 0), (1, 1)]


def test_the_sheet_names_no_address_and_builds_no_markup() -> None:
    folder = files("swift_thyme.evaluation")
    for name in ("results.css", "results.js"):
        text = folder.joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|//\w+\.\w|@import|url\(|style=", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("results")
    categories = {"first": "odd", "second": HOSTILE.replace("\ud800", "")}
    benchmarks = [
        asyncio.run(evaluated(folder, name, category)) for name, category in categories.items()
    ]
    write_results_page(folder / "results.html", benchmarks, "a model")
    return (folder / "results.html").as_uri()


@pytest.fixture
def page(address: str, chromium: None) -> Iterator[Page]:
    with Page() as page:
        page.open(address)
        yield page
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith("data:")] == [address]
        assert page.evaluate("window.pwned") is None


def texts(page: Page, selector: str) -> Any:
    return page.evaluate(
        f"[...document.querySelectorAll({selector!r})].map(n => n.textContent.trim())"
    )


def test_the_numbers_are_in_front_and_a_count_leads_to_its_trajectories(page: Page) -> None:
    assert page.evaluate("document.querySelector('main').hidden")
    assert texts(page, "#sheet h2") == ["first", "second"]
    (with_tool, plain, *_) = texts(page, ".benchmark > .chart .value")
    assert with_tool == "66.7 % [30.0, 90.3]"
    assert plain == "50.0 % [18.8, 81.2]"
    page.evaluate(
        "[...document.querySelectorAll('.benchmark > .chart .parts button')]"
        ".find(b => b.textContent === 'only without 1').click()"
    )
    assert not page.evaluate("document.querySelector('main').hidden")
    page.wait("document.querySelectorAll('.row').length === 2")
    assert texts(page, "#only span") == ["first, effect over: plain prompt: only without"]
    assert page.evaluate("document.querySelector('#detail h2').textContent").startswith("Question")
    page.evaluate("document.querySelector('#only button').click()")
    page.wait(
        f"document.querySelector('#summary b').textContent === '{2 * 3 * ROWS} of {2 * 3 * ROWS}'"
    )
    page.click("#sheet-button")
    assert page.evaluate("document.querySelector('main').hidden")
    assert texts(page, "#sheet-button") == ["Trajectories"]


def test_bars_and_lines_are_as_long_as_their_numbers(page: Page) -> None:
    track, bar, line = page.evaluate(
        "['.track', '.bar-fill', '.whisker'].map(s => { const r = document.querySelector("
        "'.benchmark .chart ' + s).getBoundingClientRect(); return [r.left, r.width]; })"
    )
    width = track[1]
    assert bar == [track[0], pytest.approx(width * 4 / 6, abs=1.5)]
    assert line[0] - track[0] == pytest.approx(width * 0.300, abs=1.5)
    assert line[1] == pytest.approx(width * 0.603, abs=1.5)
    zero, effect = page.evaluate(
        "['.zero', '.bar-fill.better'].map(s => document.querySelector('.benchmark .chart ' + s)"
        ".getBoundingClientRect().left)"
    )
    assert effect == pytest.approx(zero, abs=1.5)


@pytest.mark.parametrize("width", [420, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_and_text_can_be_read(page: Page, width: int, scheme: str) -> None:
    page.colours(scheme)
    page.resize(width, 900)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overlong = page.evaluate(
        "[...document.querySelectorAll('#sheet .value, #sheet .who, #sheet .parts, #sheet h3')]"
        ".filter(n => n.scrollWidth > n.clientWidth + 1 || n.getBoundingClientRect().right >"
        " innerWidth).map(n => n.textContent)"
    )
    assert overlong == []
    ground, text = page.evaluate(
        "[getComputedStyle(document.querySelector('.benchmark')).backgroundColor,"
        " getComputedStyle(document.querySelector('.benchmark .who')).color]"
        ".map(c => c.match(/\\d+/g).slice(0, 3).map(Number))"
    )
    assert abs(sum(ground) - sum(text)) > 450


def test_an_address_with_a_trajectory_opens_it(page: Page) -> None:
    page.evaluate("location.hash = '#3%2Frun1%2Fplain'")
    page.wait("document.querySelector('#sheet').hidden")
    assert page.evaluate("document.querySelector('.facts-line a').textContent") == "3/run1/plain"
