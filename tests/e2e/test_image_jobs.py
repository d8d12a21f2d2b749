"""A real ``swift rlhf`` job on phone pictures: model, prompt and code speak of the same ones."""

import json
import re
from pathlib import Path

import pytest

from swift_thyme.core.protocol import image_lines
from swift_thyme.core.trajectory_files import SegmentKind, read_trajectories
from tests.pictures import camera_file

from .jobs import as_argv, grpo_flags, swift, training_log

PATHS = ("/d/phone.jpg", "/d/phone.png")
SCRIPT = f"""<think><code>
```python
import cv2
for p in {PATHS}:
    a, b = Image.open(p).convert("RGB"), cv2.imread(p)
    print(a.size, b.shape, a.getpixel((9, 9)), b[9, 9])
```
</code>"""


@pytest.mark.slow
def test_generated_code_opens_both_quoted_pictures_of_a_training_row(tmp_path: Path) -> None:
    files = [tmp_path / "first.jpg", tmp_path / "second.png"]
    files[0].write_bytes(camera_file("JPEG", 6, (160, 120)))
    files[1].write_bytes(camera_file("PNG", 8, (200, 80)))
    data = tmp_path / "data"
    data.mkdir()
    with (data / "rl.jsonl").open("w", encoding="utf-8") as rows:
        for number in range(2):
            question = f"Which picture is longer, {number}?"
            quoted = [image_lines(1, PATHS[0], 160, 120), image_lines(2, PATHS[1], 200, 80)]
            content = "\n".join(["<image><image>", question, *quoted])
            row = {
                "messages": [{"role": "user", "content": content}],
                "images": [str(file) for file in files],
                "solution": "2",
                "question": question,
            }
            rows.write(json.dumps(row) + "\n")
    script = tmp_path / "script.txt"
    script.write_text(SCRIPT, encoding="utf-8")
    output = tmp_path / "run"
    flags = grpo_flags(data, output, plugins=("tests/e2e/scripted_plugin.py",))
    job = swift("rlhf", *as_argv(flags), THYME_SCRIPT=str(script))
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    (step,) = training_log(output)
    assert step["thyme/code_success_rate"] == 1
    (file,) = output.glob("**/trajectories/rank0/trajectories.jsonl")
    kept = list(read_trajectories(file))
    assert len(kept) == 4
    for trajectory in kept:
        (said,) = [s.text for s in trajectory.segments if s.kind is SegmentKind.OBSERVATION]
        sizes = re.findall(r"\((\d+), (\d+)\) \((\d+), (\d+), 3\)", said)
        assert sizes == [("160", "120", "120", "160"), ("200", "80", "80", "200")], said
        reds = re.findall(r"\((\d+), (\d+), (\d+)\) \[ *(\d+) +(\d+) +(\d+)\]", said)
        for red, green, blue, cv_blue, cv_green, cv_red in (map(int, pixel) for pixel in reds):
            assert (cv_red, cv_green, cv_blue) == pytest.approx((red, green, blue), abs=8)
            assert red > 180 and green < 40
        assert len(reds) == 2
        assert trajectory.answer == "2"
        assert [(i.name, i.width, i.height) for i in trajectory.images] == [
            (PATHS[0], 160, 120),
            (PATHS[1], 200, 80),
        ]
