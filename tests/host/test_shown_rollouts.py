"""Kept trajectories in TensorBoard, for real, and in W&B, whose module is faked at its edge."""

import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from swift_thyme.host.rollout_records import Kept, record_of
from swift_thyme.host.shown_rollouts import HEIGHT, MOST_CHARACTERS, Showcase, draw_card, full_text
from tests.host.test_kept_rollouts import decode, make_sample, png

HOSTILE = "</pre><script>x</script>\n```\n# **bold** <img src=x>\u2028\x1b[2J\n\tend"


class TensorBoardCallback:
    """What the reporters look for: the class's name, and an open writer."""

    def __init__(self, writer: Any) -> None:
        self.tb_writer = writer


class WandbCallback:
    pass


def make_kept(number: int = 0, mode: str = "train", question: str = "Which colour?") -> Kept:
    kept = record_of(make_sample(number), decode)
    record = kept.record
    values = {"run": mode, "question": question, "rewards": {"vqa": 1.0, "fmt": None}}
    for name, value in values.items():
        object.__setattr__(record, name, value)
    return kept


def board(folder: Path) -> Any:
    """Read back what TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    writer = tensorboard.SummaryWriter(log_dir=str(tmp_path / "runs"))
    yield writer
    writer.close()


def test_tensorboard_shows_picture_and_text_of_a_few(tmp_path: Path, writer: Any) -> None:
    showcase = Showcase(2, [object(), TensorBoardCallback(writer)], max_steps=10)
    showcase.show([make_kept(i) for i in range(4)] + [make_kept(9, "eval", HOSTILE)], 3)
    events = board(tmp_path / "runs")
    tags = ["trajectories_eval/1", "trajectories_train/1", "trajectories_train/2"]
    assert sorted(events.Tags()["images"]) == tags
    (shown,) = events.Images("trajectories_train/2")
    assert shown.step == 3
    with Image.open(io.BytesIO(shown.encoded_image_string)) as picture:
        assert picture.size == (shown.width, shown.height)
        assert picture.height > HEIGHT
        # The prompt's picture, and beside it the one that came back.
        assert picture.crop((10, 10, 250, 250)).getextrema() != ((255, 255),) * 3
        assert picture.crop((260, 10, 500, 250)).getextrema() != ((255, 255),) * 3
    (text,) = events.Tensors("trajectories_train/1/text_summary")
    said = text.tensor_proto.string_val[0].decode()
    assert "    <think>Look. <code>" in said
    assert "    reward not scored, vqa 1, fmt not scored" in said
    (text,) = events.Tensors("trajectories_eval/1/text_summary")
    lines = text.tensor_proto.string_val[0].decode().split("\n")
    assert all(line.startswith("    ") for line in lines)
    assert "    </pre><script>x</script>" in lines
    assert not any("\x1b" in line or "\u2028" in line for line in lines)


def test_a_long_run_shows_about_a_hundred_times(tmp_path: Path, writer: Any) -> None:
    shown: list[int] = []
    writer.add_image = lambda tag, picture, step, **options: shown.append(step)
    showcase = Showcase(1, [TensorBoardCallback(writer)], max_steps=2000)
    for step in range(0, 2001):
        showcase.show([make_kept()], step) if step % 5 == 0 else None
    assert len(shown) == 101


def test_wandb_shows_pictures_and_escaped_text(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []
    wandb = SimpleNamespace(
        run=object(),
        log=logged.append,
        Image=lambda picture, caption: (picture.size, caption),
        Html=lambda text: text,
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    showcase = Showcase(2, [WandbCallback()], max_steps=10)
    showcase.show([make_kept(1, question=HOSTILE), make_kept(2)], 4)
    (row,) = logged
    assert row["train/global_step"] == 4
    assert [caption[:7] for _, caption in row["trajectories/train"]] == ["step 4,"] * 2
    page = row["trajectories/train_text"]
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<pre>") == page.count("</pre>") == 2
    wandb.run = None
    showcase.show([make_kept(1)], 5)
    assert len(logged) == 1


@pytest.mark.parametrize("reporters", [[], [object()], [TensorBoardCallback(None)]])
def test_without_an_open_reporter_nothing_is_drawn(
    reporters: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    broken = make_kept()._replace(images=[b"no picture"])
    Showcase(2, reporters, max_steps=1).show([broken], 1)
    assert not caplog.records


def test_none_are_shown_where_none_are_asked_for(tmp_path: Path, writer: Any) -> None:
    Showcase(0, [TensorBoardCallback(writer)], max_steps=1).show([make_kept()], 1)
    writer.flush()
    assert board(tmp_path / "runs").Tags()["images"] == []


def test_the_first_failure_is_logged_once_and_ends_the_showing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the disk is full")

    showcase = Showcase(2, [TensorBoardCallback(SimpleNamespace(add_image=fail))], max_steps=2)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            showcase.show([make_kept(), make_kept(1, "eval")], step)
    (record,) = caplog.records
    assert "the disk is full" in record.getMessage()


def test_cards_stay_small_whatever_is_in_them() -> None:
    buffer = io.BytesIO()
    Image.new("L", (3000, 16)).save(buffer, format="PNG")
    kept = make_kept(question="\u6587 " * 5000)._replace(images=[buffer.getvalue(), png(1)] * 20)
    card = draw_card(kept)
    assert card.width <= 4 * 2 * HEIGHT + 60
    assert card.height < 2 * HEIGHT
    assert draw_card(kept._replace(images=[])).height < HEIGHT
    assert len(full_text(kept.record)) == 10_000 + len(full_text(make_kept(question="").record))
    long = make_kept(question="x" * (MOST_CHARACTERS + 1))
    assert full_text(long.record).endswith("[cut off]")
