"""Draw one real trajectory of the embedded tiny model as a picture (docs/trajectory.png).

usage: python scripts/draw_trajectory.py [--out FILE] [--seed N]

Samples fresh pictures until an answer is right, with ms-swift's transformers engine and the o3
scheduler, and draws what the model saw, wrote and got back.
"""

import argparse
import base64
import io
import re
import tempfile
import textwrap
from pathlib import Path

from matplotlib import rcParams
from matplotlib.figure import Figure
from PIL import Image

from swift_thyme.core.placeholders import IMAGE_TOKENS

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "swift_thyme" / "testbed" / "model"


def roll_out(row: dict) -> tuple[str, list[Image.Image], str]:
    """Return the completion, all images of the trajectory, and why it ended."""
    from swift.infer_engine import RequestConfig, TransformersEngine
    from swift.infer_engine.protocol import RolloutInferRequest, RolloutOutput
    from swift.rollout import run_multi_turn

    from swift_thyme.host import tiny_template
    from swift_thyme.host.scheduler import O3Scheduler
    from swift_thyme.host.template_images import install_image_accounting

    install_image_accounting()
    tiny_template.add_template()
    engine = TransformersEngine(str(MODEL), model_type="qwen2_5_vl", template_type="thyme_tiny")
    config = RequestConfig(
        max_tokens=200, temperature=0, stop=["</code>", "</answer>"], return_details=True
    )
    request = RolloutInferRequest(
        messages=[dict(m) for m in row["messages"]], images=list(row["images"]), uuid="0"
    )
    scheduler = O3Scheduler(
        max_turns=4, tokenizer=engine.template.tokenizer, template=engine.template
    )

    def infer(requests, config):
        return [RolloutOutput(response=r) for r in engine.infer(requests, config, use_tqdm=False)]

    import asyncio

    asyncio.run(scheduler.on_trajectory_start([request]))
    (output,) = run_multi_turn([request], infer([request], config), scheduler, infer, config, 4)
    images = [
        Image.open(io.BytesIO(base64.b64decode(i.partition(",")[2] or i))).convert("RGB")
        for i in output.rollout_infos["images"]
    ]
    return output.messages[-1]["content"], images, output.rollout_infos["thyme_end_reason"]


def draw(row: dict, completion: str, images: list[Image.Image], out: Path) -> None:
    """Write the picture."""
    rcParams["font.family"] = "DejaVu Sans Mono"
    figure = Figure(figsize=(11.5, 4.7), facecolor="white")

    def show(image, box, title):
        axes = figure.add_axes(box)
        axes.imshow(image, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()

    def write(text, height):
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 66) or [""]]
        figure.text(0.22, height, "\n".join(lines), va="top", fontsize=9, linespacing=1.4)

    show(images[0], (0.01, 0.5, 0.19, 0.42), "the file: 448 x 448")
    show(images[0].resize((112, 112)), (0.01, 0.01, 0.19, 0.42), "what the model sees")
    before, _, after = completion.partition(IMAGE_TOKENS)
    write(f"user: {row['question']}\n\n{before}", 0.96)
    show(images[1], (0.62, 0.42, 0.25, 0.5), "the image that came back")
    write(re.sub(r"(</sandbox_output>|</think>)", r"\1\n", after), 0.36)
    figure.text(0.22, 0.04, f"solution: {row['solution']}", fontsize=9, color="gray")
    figure.savefig(out, dpi=110)


def main() -> None:
    """Sample, draw, say what was drawn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "trajectory.png")
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()

    import json

    from swift_thyme.core.reading import read
    from swift_thyme.testbed.data import make_dataset

    with tempfile.TemporaryDirectory() as folder:
        make_dataset(folder, n_sft=0, n_rl=0, n_eval=12, seed=arguments.seed)
        for line in (Path(folder) / "eval.jsonl").read_text().splitlines():
            row = json.loads(line)
            completion, images, reason = roll_out(row)
            right = read(completion).answer == row["solution"]
            print(f"{reason}: {read(completion).answer} (solution {row['solution']})")
            if right and len(images) == 2:
                draw(row, completion, images, arguments.out)
                print(arguments.out)
                return
    raise SystemExit("no right answer among 12 pictures; try another --seed")


if __name__ == "__main__":
    main()
