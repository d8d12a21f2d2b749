"""The items of the proof: what is asked can be answered, and only as it is shown."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prove import evaluate, items, pictures, rows, table

from swift_thyme.core.execution import ExecutionResult, ExecutionStatus, ReturnedImage
from swift_thyme.core.reading import read
from swift_thyme.rewards.format import follows_format
from swift_thyme.sandbox import SandboxPool


def test_a_scene_is_a_function_of_its_seed():
    first, again, other = (
        pictures.draw_scene(np.random.default_rng(seed), size=336) for seed in (3, 3, 4)
    )
    assert first.jpeg() == again.jpeg()
    assert first.plates == again.plates
    assert first.jpeg() != other.jpeg()


def test_about_seven_in_ten_of_the_demonstrated_windows_show_the_plate():
    views = pytest.importorskip("prove.views")
    rng = np.random.default_rng(0)
    shown = []
    for _ in range(2000):
        plate = pictures.Plate("47", *rng.uniform(1.6, pictures.CELLS - 1.6, size=2), 0)
        shown.append(views.shows_plate(pictures.choose_window(plate, rng, rows.SPREAD), plate))
    assert 0.65 < np.mean(shown) < 0.75


@pytest.fixture(scope="module")
def pool():
    with SandboxPool() as pool:
        yield pool


@pytest.mark.parametrize("kind", items.KINDS)
async def test_a_demonstration_runs_and_follows_the_format(
    kind: str, pool: SandboxPool, tmp_path: Path
) -> None:
    place = (tmp_path, 0, "stage1", 0, (kind,))
    drawn = rows._draw(place)
    row = await rows._shown(pool, drawn, tmp_path)
    text = row["messages"][-1]["content"]
    assert follows_format(text)
    assert read(text).answer == drawn.item.answer
    blocks = {"disc": 0, "turned": 2, "add": 2, "larger": 2}.get(kind, 1)
    assert text.count("<code>") == text.count("<sandbox_output>") == blocks
    assert text.count("<image>") == len(row["images"]) - 1
    if kind in ("add", "larger"):
        # The number comes out of the sandbox, not out of the demonstration.
        assert f"<sandbox_output>{drawn.item.answer}</sandbox_output>" in text
    # The same question answered at once has no code.
    assert "<code>" not in drawn.direct
    assert read(drawn.direct).answer == drawn.item.answer


def test_what_is_withheld_is_empty_and_errors_stay():
    buffer = BytesIO()
    Image.new("RGB", (112, 56), "red").save(buffer, "PNG")
    image = ReturnedImage(buffer.getvalue(), 112, 56, "crop.png")
    shown = ExecutionResult(ExecutionStatus.OK, "42", None, (image,), parts=("42", image))
    hidden = evaluate.withhold(shown)
    assert hidden.stdout == ""
    [grey] = hidden.parts
    assert Image.open(BytesIO(grey.data)).getcolors() == [(112 * 56, (128, 128, 128))]
    failed = ExecutionResult(ExecutionStatus.ERROR, error="NameError: x")
    assert evaluate.withhold(failed).error == "NameError: x"


def test_seeds_of_an_item_are_one_piece_of_evidence(tmp_path: Path) -> None:
    def record(index: int, right: bool) -> str:
        fields = {"pass": "tools:0", "index": index, "kind": "read", "right": right}
        return json.dumps({**fields, "tool_used": True, "statuses": ["ok"]})

    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_text("\n".join(record(i, i < 50) for i in range(100)))
    one = table.share(table.read(paths[:1], "tools:0"), "right")
    two = table.share(table.read(paths, "tools:0"), "right")
    assert (one.mean, two.mean) == (0.5, 0.5)
    assert two.low == pytest.approx(one.low, abs=0.01)


def test_arms_that_answered_the_same_items_are_compared_in_pairs() -> None:
    def arm(right: list[bool], first: int = 0) -> list[table.Record]:
        return [{"index": first + i // 2, "right": value} for i, value in enumerate(right)]

    def width(cell: str) -> float:
        low, high = cell[cell.index("[") + 1 : -1].split(", ")
        return float(high) - float(low)

    easy, hard = [True] * 60, [False] * 60
    before = arm(easy + hard)
    after = arm(easy + [True, False] * 10 + hard[20:])
    paired = table.gain(after, before)
    # The same scores of other items are no pairs.
    unpaired = table.gain(arm([bool(r["right"]) for r in after], first=1000), before)
    assert paired.startswith("+8.3 [") and unpaired.startswith("+8.3 [")
    assert width(paired) < 0.7 * width(unpaired)


def test_the_prompt_can_quote_another_folder_and_the_code_still_opens_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = ["--stage1", "2", "--stage2", "0", "--rl", "1", "--eval", "0", "--workers", "1"]
    folder = ["--quote", "/somewhere/else"]
    monkeypatch.setattr("sys.argv", ["rows", str(tmp_path), *counts, *folder, "--kinds", "read"])
    rows.main()
    for split in ("stage1", "rl"):
        row = json.loads((tmp_path / f"{split}.jsonl").read_text().splitlines()[0])
        name = Path(row["images"][0]).name
        assert f'User Image Path: "/somewhere/else/{name}"' in row["messages"][1]["content"]
        assert (tmp_path / "pictures" / name).is_file()


def test_each_prompt_names_a_made_up_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = ["--stage1", "0", "--stage2", "0", "--rl", "3", "--eval", "1", "--workers", "1"]
    monkeypatch.setattr("sys.argv", ["rows", str(tmp_path), *counts, "--kinds", "read"])
    rows.main()
    folders = set()
    for split in ("rl", "eval"):
        for line in (tmp_path / f"{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            path = row["messages"][1]["content"].split('User Image Path: "')[1].split('"')[0]
            assert Path(path).name == Path(row["images"][0]).name
            folders.add(str(Path(path).parent))
    assert len(folders) == 4 and str(tmp_path / "pictures") not in folders
