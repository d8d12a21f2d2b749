"""What a program does is what the model sees: its streams, its figures, its pictures."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from swift_thyme.core.observation import render_observation
from swift_thyme.sandbox import ExecutionResult, SandboxPool, SandboxSession
from tests.sandbox.conftest import small_settings

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\n"
BOOM = "raise RuntimeError('boom')"


def run(session: SandboxSession, blocks: Sequence[str]) -> list[ExecutionResult]:
    return [session.run_sync(textwrap.dedent(block)) for block in blocks]


# -- streams ---------------------------------------------------------------------------------------


def test_errors_stand_between_the_prints_in_the_order_of_writing(session: SandboxSession) -> None:
    code = """
    import logging, sys, traceback, warnings
    print("a", end="")
    print("b", file=sys.stderr)
    print("c")
    warnings.warn("careful")
    logging.warning("logged")
    try:
        1 / 0
    except ZeroDivisionError:
        traceback.print_exc()
    print("d", file=sys.__stderr__)
    """
    result, again = run(session, [code, "logging.error('again')\nprint('end')"])
    text = render_observation(result).text
    places = [text.find(s) for s in ("ab\nc\n", "careful", "logged", "line 9", "ZeroDiv", "d<")]
    assert result.ok and -1 not in places and places == sorted(places)
    assert again.stdout == "ERROR:root:again\nend\n"


@pytest.mark.parametrize("category", ["DeprecationWarning", "ResourceWarning"])
def test_warnings_for_authors_of_libraries_are_left_out_until_asked_for(
    session: SandboxSession, category: str
) -> None:
    warn = f"import warnings\nwarnings.warn('old', {category})"
    quiet, asked = run(session, [warn, f"import warnings\nwarnings.simplefilter('always')\n{warn}"])
    assert (quiet.stdout, "old" in asked.stdout) == ("", True)


def test_a_traceback_names_no_folder_of_the_host(session: SandboxSession) -> None:
    code = """
    import traceback
    try:
        Image.open(image_path).crop((0, 0, 10))
    except Exception:
        traceback.print_exc()
    """
    (result,) = run(session, [code])
    folders = {
        line.split('"')[1].split("/")[1] for line in result.stdout.splitlines() if '"/' in line
    }
    assert "Traceback" in result.stdout and folders == {"python"}


def test_what_only_errors_were_printed_to_still_gets_its_processed_path(
    session: SandboxSession,
) -> None:
    code = """
    import sys
    print("careful", file=sys.stderr)
    processed_path = "/mnt/data/temp_processed_images/p.png"
    Image.new("RGB", (40, 40)).save(processed_path)
    """
    (result,) = run(session, [code])
    assert "print_processed_path" in result.repairs and "careful\n" in result.stdout


@pytest.mark.parametrize(
    "change",
    [
        "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')",
        "sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')",
        "sys.stdout = io.TextIOWrapper(io.BufferedWriter(sys.stdout.buffer.detach()))",
        "sys.stdout = open(1, 'w')",
        "sys.stdout = os.fdopen(sys.stdout.fileno(), 'w', 1)",
        "sys.stdout.close()",
        "sys.stdout.buffer.close()",
        "sys.stdout = sys.__stdout__",
        "sys.stdout = sys.stderr",
        "os.close(1)",
        "contextlib.redirect_stdout(io.StringIO()).__enter__()",
    ],
)
def test_no_change_of_stdout_loses_output_or_reaches_the_next_block(
    session: SandboxSession, change: str
) -> None:
    first = f"import contextlib, io, os, sys\n{change}\nprint('first')"
    results = run(session, [first, "print('second')", BOOM, "print('third')"])
    texts = [result.stdout for result in results if result.ok]
    assert texts == ["first\n", "second\n", "third\n"]


def test_output_that_a_program_keeps_for_itself_is_its_own(session: SandboxSession) -> None:
    code = """
    import io, sys
    sys.stdout = text = io.StringIO()
    print("kept")
    sys.stdout = sys.__stdout__
    print("seen")
    """
    results = run(session, [code, "sys.stdout = open('o.txt', 'w')\nprint('in a file')"])
    assert [result.stdout for result in results] == ["seen\n", ""]
    assert session.run_sync("print(text.getvalue(), open('o.txt').read())").stdout == (
        "kept\n in a file\n\n"
    )


# -- files and pools that stay open ----------------------------------------------------------------


@pytest.mark.parametrize(
    "harm",
    [
        "fh.write('two\\n'); fh.flush()",
        "fh.seek(0); fh.truncate()",
        "import os; os.remove('log.txt')",
        "import os; open('x', 'w').write('x'); os.replace('x', 'log.txt')",
        "open('log.txt', 'w').write('other')",
    ],
)
def test_a_file_that_stays_open_is_as_it_was_before_a_failed_block(
    session: SandboxSession, harm: str
) -> None:
    blocks = ["fh = open('log.txt', 'w'); n = fh.write('one\\n'); fh.flush()"]
    blocks += [f"{harm}\n{BOOM}"] * 2 + ["n = fh.write('three\\n'); fh.close()"]
    run(session, blocks)
    assert session.run_sync("print(open('log.txt').read())").stdout == "one\nthree\n\n"


def test_an_open_file_is_found_again_without_namespaces() -> None:
    first = "fh = open('/tmp/log.txt', 'w'); n = fh.write('one\\n'); fh.flush()"
    harm = f"import os; os.remove('/tmp/log.txt')\n{BOOM}"
    with (
        SandboxPool(small_settings(disable=("namespaces",))) as pool,
        pool.open_sync([]) as session,
    ):
        run(session, [first, harm, "n = fh.write('two\\n'); fh.close()"])
        assert session.run_sync("print(open('/tmp/log.txt').read())").stdout == "one\ntwo\n\n"


def test_a_file_is_read_on_where_the_last_good_block_stopped(session: SandboxSession) -> None:
    blocks = ["open('a', 'w').write('a\\nb\\nc\\n')\nfh = open('a')\nline = fh.readline()"]
    blocks += [f"fh.read()\n{BOOM}", "print(fh.readline())"]
    assert run(session, blocks)[-1].stdout == "b\n\n"


def test_a_thread_pool_goes_on_in_later_blocks(session: SandboxSession) -> None:
    first = """
    import time
    from concurrent.futures import ThreadPoolExecutor
    pool = ThreadPoolExecutor(1)
    running, waiting = pool.submit(time.sleep, 100), pool.submit(pow, 2, 4)
    """
    results = run(session, [first, BOOM, "print(waiting.result(), *pool.map(abs, [-1, -2]))"])
    assert results[-1].stdout == "16 1 2\n"
    assert "ended with the block" in str(session.run_sync("running.result()").error)


@pytest.mark.parametrize("kind", ["Pool", "pool.ThreadPool"])
def test_a_pool_whose_workers_are_gone_says_so(session: SandboxSession, kind: str) -> None:
    first = "import multiprocessing.pool\n"
    first += f"pool = multiprocessing.{kind}(1)\nprint(pool.map(abs, [-1]))"
    result, later = run(session, [first, "print(pool.map(abs, [-2]))"])
    assert result.stdout == "[1]\n"
    assert "ended with the block" in str(later.error)


# -- figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("plt.savefig('p.png', dpi=50)\nplt.show()", ["p.png"]),
        ("plt.show()\nplt.savefig('p.png')", ["p.png"]),
        ("fig = plt.gcf()\nplt.show()\nfig.savefig('p.png')\nprint('p.png')", ["p.png"]),
        ("plt.show()\nplt.gcf().savefig('p.png')", ["p.png"]),
        ("plt.show()\nplt.plot([2, 1])\nplt.show()", ["figure_1.png", "figure_2.png"]),
        ("plt.gcf().show()\nplt.title('t')\nplt.savefig('p.png')", ["figure_1.png", "p.png"]),
        ("plt.savefig('p.svg')\nplt.show()", ["figure_1.png"]),
        ("plt.figure()\nplt.show()", ["figure_1.png"]),
    ],
)
def test_a_figure_is_one_picture_and_never_blank(
    session: SandboxSession, code: str, names: list[str]
) -> None:
    result = session.run_sync(PLOT + code)
    assert [image.name for image in result.images] == names
    for image in result.images:
        assert np.asarray(Image.open(io.BytesIO(image.data))).min() < 255


def test_a_figure_is_shown_again_where_a_later_block_asks_for_it(session: SandboxSession) -> None:
    results = run(session, [PLOT + "plt.savefig('p.png')", "plt.show()", "plt.savefig('q.png')"])
    assert [[i.name for i in r.images] for r in results] == [["p.png"], ["figure_1.png"], ["q.png"]]


@pytest.mark.parametrize("backend", ["TkAgg", "Qt5Agg", "nbagg", "svg"])
def test_figures_are_shown_whatever_the_backend(session: SandboxSession, backend: str) -> None:
    code = f"import matplotlib\nmatplotlib.use('{backend}')\n{PLOT}plt.show()"
    assert [image.width for image in session.run_sync(code).images] == [640]


# -- pictures --------------------------------------------------------------------------------------


def test_a_window_shows_fractions_and_deep_values_as_opencvs_does(session: SandboxSession) -> None:
    code = """
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    for pixels in (ramp, (ramp * 65535).astype(np.uint16), ramp > 0.5):
        cv2.imshow("w", pixels)
    Image.fromarray(ramp).show()
    """
    (result,) = run(session, [code])
    extremes = [Image.open(io.BytesIO(i.data)).convert("L").getextrema() for i in result.images]
    assert extremes[0] == (0, 255) and len(result.images) == 3


def test_a_picture_that_is_shown_and_saved_comes_back_once(session: SandboxSession) -> None:
    code = """
    picture = Image.effect_noise((64, 64), 50).convert("RGB")
    picture.show()
    picture.save("noise.png")
    picture.show()
    """
    (result,) = run(session, [code])
    assert [(image.name, image.printed) for image in result.images] == [("noise.png", True)]


def test_pictures_come_in_the_order_in_which_they_were_saved_and_printed(
    session: SandboxSession,
) -> None:
    code = """
    for i, name in enumerate(["left", "middle", "right"]):
        Image.new("RGB", (40 + i, 40)).save(f"{name}.png")
    print("right.png")
    Image.new("RGB", (50, 40)).save("last.png")
    print("done")
    """
    (result,) = run(session, [code])
    assert [image.width for image in result.images] == [40, 41, 42, 50]
    assert [image.printed for image in result.images] == [False, False, True, False]


def test_of_many_pictures_that_were_only_saved_the_last_ones_come_back(
    session: SandboxSession,
) -> None:
    code = """
    for i in range(12):
        Image.new("RGB", (40 + i, 40)).save(f"{i}.png")
    print("0.png")
    """
    (result,) = run(session, [code])
    assert [image.width for image in result.images] == [48, 49, 50, 51, 40]
    text = render_observation(result).text
    assert text.count("<image>") == 5 and "(7 more images were saved: print a path" in text
    fewer = render_observation(result, max_only_saved=1)
    assert [image.width for image in fewer.images] == [51, 40]
    assert "(3 more images were saved" in fewer.text


def test_the_api_of_opencv_4_is_there(session: SandboxSession) -> None:
    code = """
    faces = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    thin = cv2.ximgproc.thinning(cv2.circle(np.zeros((40, 40), np.uint8), (20, 20), 9, 255, 5))
    print(faces.empty(), cv2.HOGDescriptor().winSize, 0 < (thin > 0).sum() < 99)
    """
    (result,) = run(session, [code])
    assert (result.stdout, result.error) == ("False (64, 128) True\n", None)
