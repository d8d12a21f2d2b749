"""A block that is run again: when the repair counts, and what is left of the first run."""

import pytest

from swift_thyme.sandbox import ExecutionResult, SandboxSession

READ = "img = cv2.imread(image_path)\n"
OPEN = "im = Image.open(image_path)\n"
OUT = "/mnt/data/temp_processed_images"


def run_all(session: SandboxSession, *blocks: str) -> ExecutionResult:
    """Run blocks that end well, and return the result of the last one."""
    for block in blocks:
        result = session.run_sync(block)
        assert result.ok, result.error
    return result


def test_nothing_of_the_first_run_is_left(session: SandboxSession) -> None:
    code = "open('log.txt', 'a').write('x')\nprint(open('log.txt').read(), plt.__name__)"
    assert run_all(session, code).stdout == "x matplotlib.pyplot\n"


def test_a_repair_that_does_not_help_is_not_made(session: SandboxSession) -> None:
    result = session.run_sync("print(cv.__name__)\n1 / 0")
    assert (result.ok, result.stdout, result.repairs) == (False, "", ())
    assert "name 'cv' is not defined" in (result.error or "")
    assert run_all(session, "print('cv' in globals())").stdout == "False\n"


def test_a_success_whose_repair_fails_stays_as_it_is(session: SandboxSession) -> None:
    code = READ + "n = int(img[80:20, 150:50].sum())\nprint(n, 1 / (n == 0))\nkept = n"
    result = run_all(session, code)
    assert (result.stdout, result.repairs, result.program) == ("0 1.0\n", (), None)
    assert run_all(session, "print(kept)").stdout == "0\n"


def test_one_repair_may_show_that_another_is_needed(session: SandboxSession) -> None:
    code = "print(Counter('aab')['a'])\nprint(cv2.imread('a.jpg').shape)"
    assert run_all(session, code).repairs == ("missing_import", "input_path")


def test_there_must_be_time_for_a_second_run(session: SandboxSession) -> None:
    result = session.run_sync("import time\ntime.sleep(0.6)\nplt", timeout_s=1.0)
    assert (result.status.value, result.repairs) == ("error", ())


def test_a_function_of_an_earlier_block_gets_its_import(session: SandboxSession) -> None:
    blocks = ("def f(): return Counter('aab')['a']", "print(f())")
    assert run_all(session, *blocks).repairs == ("missing_import",)


def test_a_crop_in_a_function_of_an_earlier_block_is_mended(session: SandboxSession) -> None:
    blocks = (READ + "def f(x1, x2): return img[10:50, x1:x2].shape", "print(f(90, 20))")
    result = run_all(session, *blocks)
    assert (result.stdout, result.repairs) == ("(40, 70, 3)\n", ("swap_crop",))


def test_a_folder_that_is_missing_is_made_where_nobody_asks(session: SandboxSession) -> None:
    result = run_all(session, READ + "cv2.imwrite('sub/a.png', img)")
    assert (len(result.images), result.repairs) == (1, ("output_folder",))


def test_a_right_crop_stays_when_something_else_is_repaired(session: SandboxSession) -> None:
    tiles = "s = [im.crop((x, 20, x + 64, 84)).size for x in (0, 64, 160)]\nprint(s, plt.__name__)"
    result = run_all(session, OPEN + tiles)
    assert result.stdout == "[(64, 64), (64, 64), (64, 64)] matplotlib.pyplot\n"
    assert result.repairs == ("missing_import",)


def test_the_one_box_of_a_loop_that_fails_is_mended(session: SandboxSession) -> None:
    code = READ + (
        "for x1, x2 in ((10, 50), (90, 60)):\n"
        "    print(cv2.resize(img[20:60, x1:x2], (80, 80)).shape, img[20:60, x1:x2].shape)"
    )
    result = run_all(session, code)
    assert result.stdout.endswith("(80, 80, 3) (40, 0, 3)\n")
    assert result.repairs == ("swap_crop",)


def test_a_box_that_says_nothing_fails_and_the_error_says_why(session: SandboxSession) -> None:
    result = session.run_sync(READ + "c = img[0:0, 5:60]\ncv2.resize(c, (80, 80))")
    assert result.status.value == "error"
    last = "line 2: the crop (x1=5, y1=0, x2=60, y2=0) is empty; the picture has 200x100 pixels"
    assert (result.error or "").splitlines()[-1] == last


@pytest.mark.parametrize(
    ("box", "size", "repairs"),
    [
        ((0.1, 0.2, 0.6, 0.9), (100, 70), ("scale_crop",)),
        ((0.6, 0.9, 0.1, 0.2), (100, 70), ("swap_crop", "scale_crop")),
        ((100, 600, 400, 900), (60, 30), ("scale_crop",)),
        ((150, 50, 260, 90), (50, 40), ("clamp_crop",)),
        ((190, 50, 260, 95), (64, 64), ("clamp_crop", "widen_crop")),
        ((150, 80, 260, 20), (50, 60), ("swap_crop", "clamp_crop")),
        ((20, 30, 40, 45), (20, 15), ()),
    ],
)
def test_a_box_of_pillow_is_mended(
    session: SandboxSession,
    box: tuple[float, ...],
    size: tuple[int, int],
    repairs: tuple[str, ...],
) -> None:
    result = run_all(session, OPEN + f"print(im.crop({box}).size)")
    assert (result.stdout, set(result.repairs)) == (f"{size}\n", set(repairs))


def test_the_program_is_told_as_it_was_run(session: SandboxSession) -> None:
    code = (
        "a = im.crop((0.1, 0.2, 0.6, 0.9)).resize((9, 9))\n"
        "b = np.array(im)[90:20, 5:9]\n"
        "print(a.size, b.shape)"
    )
    result = run_all(session, f"<code>\n{OPEN}{code}\n</code>")
    assert (result.program or "").splitlines()[-3:] == [
        "a = im.crop((20, 20, 120, 90)).resize((9, 9))",
        "b = np.array(im)[20:90, 5:9]",
        "print(a.size, b.shape)",
    ]


def test_a_file_that_was_moved_is_found_under_its_path(session: SandboxSession) -> None:
    first = OPEN + "im.resize((60, 50)).save('/usr/part.png')\nprint('/usr/part.png')"
    assert len(run_all(session, first).images) == 1
    look = (
        "p = '/usr/part.png'\nn = len(open(p, 'rb').read())\n"
        "print(Image.open(p).size, cv2.imread(p).shape, os.path.exists(p), n > 9)"
    )
    seen = "(60, 50) (50, 60, 3) True True\n"
    assert run_all(session, look).stdout == seen
    assert not session.run_sync("im.save('/usr/other.png')\n1 / 0").ok
    code = look + "\nprint(os.path.exists('/usr/other.png'), os.path.exists(p + 'x'))"
    assert run_all(session, code).stdout == seen + "False False\n"


@pytest.mark.parametrize(
    "make",
    ["os.makedirs(p, exist_ok=True)", "os.mkdir(p)", "from pathlib import Path; Path(p).mkdir()"],
)
def test_a_folder_where_nothing_can_be_made_is_one_nevertheless(
    session: SandboxSession, make: str
) -> None:
    code = (
        f"p = '/mnt/data/results'\n{make}\n"
        + OPEN
        + (
            "json.dump([3], open(p + '/a.json', 'w'))\n"
            "im.save(p + '/b.png')\ncv2.imwrite(os.path.join(p, 'c.png'), np.array(im))\n"
            "print(sorted(os.listdir(p)), os.path.isdir(p), open(p + '/a.json').read())\n"
            "print(p + '/b.png')"
        )
    )
    result = run_all(session, code)
    assert result.stdout.splitlines()[0] == "['a.json', 'b.png', 'c.png'] True [3]"
    assert (len(result.images), result.repairs) == (2, ("output_path",))
    later = "print(os.listdir(p) == os.listdir('results'), cv2.imread(p + '/c.png').shape)"
    assert run_all(session, later).stdout == "True (100, 200, 3)\n"
