"""The page as a reader sees it: opened from a file in a real headless Chromium."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.view.curves import as_json
from swift_thyme.view.page import build_page
from swift_thyme.view.run_log import lineage_of, read_log
from swift_thyme.view.sources import load
from tests.view.chromium import Page
from tests.view.runs import step_line, write_run
from tests.view.samples import HOSTILE, write_folder, write_groups, write_hostile
from tests.view.test_sources import COMPLETION, make_table, write_log

pytestmark = pytest.mark.usefixtures("chromium")

COUNT = 80


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    write_folder(folder / "run", COUNT, prompts=12)
    build_page(load([folder / "run"]), folder / "page.html", title="A run")
    return (folder / "page.html").as_uri()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with Page() as page:
        page.open(address)
        yield page
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith("data:")] == [address]


def titles(page: Page) -> Any:
    return page.evaluate(
        "[...document.querySelectorAll('.row')].map(r => r.querySelector('.title').textContent)"
    )


def heading(page: Page) -> Any:
    return page.evaluate("document.querySelector('#detail h2').textContent")


def choose(page: Page, control: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const c = document.getElementById('{control}'); c.value = '{value}';"
        "c.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def shown(page: Page, count: int) -> None:
    page.wait(f"document.querySelector('#summary b').textContent === '{count} of {COUNT}'")


def test_the_first_trajectory_is_open_with_its_pictures(page: Page) -> None:
    assert heading(page) == "Which colour has box 0?"
    page.evaluate("Promise.all([...document.querySelectorAll('#detail img')].map(i => i.decode()))")
    sizes = page.evaluate(
        "[...document.querySelectorAll('#detail img')].map(i => [i.naturalWidth, i.naturalHeight])"
    )
    assert sizes == [[448, 336], [112, 112]]
    thumbnails = page.evaluate("document.querySelector('.row .thumb').naturalWidth")
    assert thumbnails > 0


def test_code_is_coloured_and_complete(page: Page) -> None:
    code = page.evaluate("document.querySelector('.code').textContent")
    assert code.startswith("# a closer look\nimage = Image.open(image_path)\n")
    assert code.endswith("print(processed_path)")
    assert page.evaluate("document.querySelector('.code .c').textContent") == "# a closer look"
    colours = page.evaluate(
        "['.code .c', '.code .m', '.code'].map(s => "
        "getComputedStyle(document.querySelector(s)).color)"
    )
    assert len(set(colours)) == 3


def test_every_fact_of_a_trajectory_is_shown(page: Page) -> None:
    page.evaluate("location.hash = '#t5'")
    page.wait("document.querySelector('#detail h2').textContent.includes('box 5?')")
    text = page.evaluate("document.getElementById('detail').innerText")
    for fact in ("step 1", "2 turns", "prompt 130 tokens", "sampled 80 tokens", "60 tokens",
                 "40 ms", "not scored", "0.500", "red", "ended: answer"):  # fmt: skip
        assert fact in text, fact


def test_the_list_holds_only_the_rows_in_view(page: Page) -> None:
    assert len(titles(page)) < 30
    page.evaluate("document.getElementById('list').scrollTop = 1e6")
    page.wait("document.querySelector('.row:last-child .title').textContent.includes('box 79')")
    assert len(titles(page)) < 30


def test_filters_work_alone_and_together_and_are_cleared(page: Page) -> None:
    choose(page, "end", "length_limit")
    shown(page, 11)
    choose(page, "tool", "failed")
    shown(page, 1)
    assert titles(page) == ["Which colour has box 69?"]
    page.click("#reset")
    shown(page, COUNT)
    choose(page, "reward-min", "100")
    shown(page, 45)
    choose(page, "step-max", "4")
    shown(page, 11)


def test_a_search_finds_words_in_any_order_and_marks_them(page: Page) -> None:
    page.press("/")
    page.type("box NAMEERROR")
    shown(page, 8)
    page.press("Escape")
    assert page.evaluate("document.getElementById('search').value") == "box NAMEERROR"
    page.press("j")
    page.wait("CSS.highlights.get('found')?.size > 0")
    shown(page, 8)


def test_nothing_found_is_said(page: Page) -> None:
    page.press("/")
    page.type("no such words anywhere")
    shown(page, 0)
    assert page.evaluate("document.querySelector('.empty') !== null")


def test_keys_move_through_the_list_and_the_address_follows(page: Page) -> None:
    page.press("j")
    page.press("j")
    assert heading(page) == "Which colour has box 2?"
    assert page.evaluate("location.hash") == "#t2"
    page.press("k")
    assert heading(page) == "Which colour has box 1?"
    page.press("r")
    exact = page.evaluate("document.querySelector('.exact').textContent")
    assert "```python\n# a closer look" in exact
    assert "<sandbox_output><image></sandbox_output>" in exact
    selected = page.evaluate(
        "document.getElementById(document.getElementById('list')"
        ".getAttribute('aria-activedescendant')).getAttribute('aria-selected')"
    )
    assert selected == "true"


def test_a_link_to_one_trajectory_opens_it(address: str) -> None:
    with Page() as page:
        page.open(f"{address}#t41")
        assert heading(page) == "Which colour has box 41?"
        assert page.evaluate("document.querySelector('[aria-selected=true] .title').textContent")
        assert page.errors == []


def test_a_picture_can_be_enlarged(page: Page) -> None:
    page.click("#detail figure button")
    assert page.evaluate("document.getElementById('zoom').open")
    assert "448\u00d7336" in page.evaluate("document.getElementById('zoom-text').textContent")


CONTRAST = """
(() => {
  const light = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const c = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(c)) return c;
    }
  };
  const worst = {};
  for (const node of document.querySelectorAll("body *")) {
    const says = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!says || !node.checkVisibility() || node.matches("button:disabled, option")) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) worst[`${node.tagName}.${node.className}`] = ratio;
  }
  return worst;
})()
"""
"""Texts whose contrast is too low, by element."""


def test_both_colour_schemes_are_readable(page: Page) -> None:
    for scheme in ("light", "dark"):
        page.colours(scheme)
        assert page.evaluate(CONTRAST) == {}, scheme
    grounds = []
    for _ in range(3):
        page.click("#theme")
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1] == grounds[2]


def test_text_of_a_model_never_becomes_markup_or_code(tmp_path: Path) -> None:
    write_hostile(tmp_path / "run")
    # A second sample of the question, so that two can be compared.
    lines = (tmp_path / "run" / "trajectories.jsonl").read_bytes()
    (tmp_path / "run" / "trajectories.jsonl").write_bytes(lines * 2)
    metrics = {"rewards/</text><script>window.pwned = 4</script>/mean": 1.0}
    log = read_log(lineage_of(write_run(tmp_path / "log", step_line(1, 1, **metrics))))
    output = tmp_path / "page.html"
    title = "</title><script>window.pwned=3</script>"
    build_page(load([tmp_path / "run"]), output, title=title, curves=[as_json(log, HOSTILE)])
    with Page() as page:
        page.open(output.as_uri())
        for key in "rrgcc":
            page.press(key)
            assert page.evaluate("document.querySelectorAll('#detail script').length") == 0
        page.click("#detail figure button")
        assert page.evaluate("window.pwned === undefined")
        assert page.evaluate("document.querySelectorAll('#detail script, img[src=x]').length") == 0
        text = page.evaluate("document.getElementById('detail').textContent")
        assert "</script><script>window.pwned = 1</script><!-- <script> -->" in text
        # What turns the reading direction is spelled out.
        assert "\u202e" not in page.evaluate("document.body.innerText")
        assert "\u27e8202E\u27e9" in text
        assert page.evaluate("document.title").startswith("</title><script>")
        assert page.errors == []


def test_the_policy_stops_what_is_not_the_pages_own(page: Page) -> None:
    page.evaluate(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.x = 1';"
        "document.body.append(s); })()"
    )
    assert page.evaluate("window.x === undefined")
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()


def test_a_text_log_without_pictures_is_shown_too(tmp_path: Path) -> None:
    write_log(tmp_path, make_table(1, COMPLETION, COMPLETION.replace("red", "blue")))
    build_page(load([tmp_path]), tmp_path / "page.html", title="Text")
    with Page() as page:
        page.open((tmp_path / "page.html").as_uri())
        assert len(titles(page)) == 2
        text = page.evaluate("document.getElementById('detail').innerText")
        assert "image 1 was not kept" in text
        assert "not scored" in text
        assert page.evaluate("document.querySelectorAll('img.thumb').length") == 0
        assert page.errors == []


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of three steps that asked the same two questions, and its curves."""
    out = tmp_path_factory.mktemp("groups")
    write_groups(out / "trajectories" / "rank0", 3)
    lines = [step_line(step, step / 2, **{"rewards/VqaORM/mean": 0.5}) for step in (1, 2, 3)]
    log = read_log(lineage_of(write_run(out, *lines)))
    build_page(load([out]), out / "page.html", title="Groups", curves=[as_json(log, "v0")])
    return (out / "page.html").as_uri()


def labels(page: Page) -> Any:
    return page.evaluate(
        "[...document.querySelectorAll('.column')].map(c => c.getAttribute('aria-label'))"
    )


def test_the_samples_of_a_question_stand_side_by_side(groups: str) -> None:
    with Page() as page:
        page.open(f"{groups}#s2-1-0")
        cards = "[...document.querySelectorAll('.sample .score')].map(c => c.textContent)"
        assert page.evaluate(cards) == ["1.50", "1.50", "0.50", "0.50"]
        page.click(".sample:nth-child(3)")
        assert page.evaluate("location.hash") == "#s2-1-2"
        page.press("g")
        assert labels(page) == [f"Sample {number}" for number in (1, 2, 3, 4)]
        totals = "[...document.querySelectorAll('.column .total .value')].map(c => c.textContent)"
        assert page.evaluate(totals) == ["1.500", "1.500", "0.500", "0.500"]
        assert page.evaluate("document.querySelectorAll('.column .code').length") == 4
        page.press("g")
        assert labels(page) == []
        assert heading(page) == "Q1?"
        assert page.errors == []


def test_a_question_is_shown_at_its_first_and_its_last_step(groups: str) -> None:
    with Page() as page:
        page.open(f"{groups}#s2-0-0")
        page.click("#before-after")
        assert labels(page) == ["First: step 1"] * 4 + ["Last: step 3"] * 4
        page.evaluate("document.querySelector('.column:last-child .column-head button').click()")
        assert page.evaluate("location.hash") == "#s3-0-3"
        page.press("b")
        page.press("j")
        assert labels(page) == []
        assert page.errors == []


@pytest.mark.parametrize("width", [1400, 420])
def test_the_box_of_a_crop_lies_on_the_picture(groups: str, width: int) -> None:
    with Page() as page:
        page.resize(width, 900)
        page.open(f"{groups}#s1-0-2")
        page.evaluate("Promise.all([...document.images].filter(i => i.src).map(i => i.decode()))")
        rects = "[...document.querySelectorAll('.overview .outlines .line')]"
        assert page.evaluate(f"{rects}.map(r => [r.x, r.y, r.width, r.height]"
                             ".map(v => v.baseVal.value))") == [[2, 20, 94, 96]]  # fmt: skip
        # In pixels of the screen: where the part of the picture is shown.
        off = page.evaluate(
            f"(() => {{ const r = {rects}[0].getBoundingClientRect();"
            "const i = document.querySelector('.overview img').getBoundingClientRect();"
            "const s = i.width / 448; return [r.x - i.x - 2 * s, r.y - i.y - 20 * s,"
            "r.width - 94 * s, r.height - 96 * s].map(Math.abs); })()"
        )
        assert max(off) < 2
        assert "outlined: image 1" in page.evaluate(
            "document.querySelector('.overview figcaption').textContent"
        )
        page.click(".overview figure button")
        zoomed = "document.querySelectorAll('#zoom-frame .line').length"
        assert page.evaluate(zoomed) == 1
        page.evaluate("document.getElementById('zoom').close()")
        page.evaluate("document.querySelector('.printed figure button').click()")
        assert page.evaluate(zoomed) == 0
        assert page.errors == []


def test_curves_are_drawn_and_a_click_lists_their_step(groups: str) -> None:
    with Page() as page:
        page.open(groups)
        page.press("c")
        titles_of_panels = (
            "[...document.querySelectorAll('.panel figcaption b')].map(b => b.textContent)"
        )
        assert page.evaluate(titles_of_panels) == [
            *("Reward", "Reward functions", "Accuracy (vqa_orm)"),
        ]
        path = page.evaluate("document.querySelector('.curve').getAttribute('d')")
        heights = [float(point.split()[1]) for point in path[1:].split("L")]
        assert heights == sorted(heights, reverse=True)
        assert page.evaluate("document.querySelector('.key b').textContent") == "1.5"
        page.click(".plot")
        page.wait("document.querySelector('#summary b').textContent === '8 of 24'")
        assert page.evaluate("document.getElementById('step-min').value") == "2"
        page.press("c")
        assert page.evaluate("document.querySelectorAll('.panel').length") == 0
        assert page.errors == []


@pytest.mark.parametrize("width", [1400, 420])
def test_each_view_is_readable_and_fits_the_window(groups: str, width: int) -> None:
    with Page() as page:
        page.resize(width, 900)
        page.open(groups)
        for key in ("", "g", "b", "c"):
            if key:
                page.press(key)
            for scheme in ("light", "dark"):
                page.colours(scheme)
                assert page.evaluate(CONTRAST) == {}, (key, scheme)
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, key
            wide = "document.getElementById('detail').scrollWidth - detail.clientWidth"
            assert page.evaluate(wide) <= 0, key
        assert page.errors == []


def test_a_page_without_a_log_has_no_curves(page: Page) -> None:
    assert page.evaluate("document.getElementById('curves-button').hidden")
    page.press("c")
    assert page.evaluate("document.querySelectorAll('.panel').length") == 0
