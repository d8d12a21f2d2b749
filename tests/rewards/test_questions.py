"""The prompts and the images that a judge gets."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.rollout_infos import read_infos
from swift_thyme.core.samples import Sample
from swift_thyme.core.summary import TrajectorySummary
from swift_thyme.rewards.judge_images import to_data_url
from swift_thyme.rewards.local_judge import prompt_part, user_text
from swift_thyme.rewards.questions import (
    JudgeQuestion,
    ask_answer,
    ask_answer_process,
    ask_code,
    ask_code_process,
    ask_consistency,
    defuse,
)
from swift_thyme.rewards.reward_settings import JudgeSettings
from tests.pictures import camera_file, is_upright

LIMITS = JudgeSettings()
COMPLETION = (
    "<think>Look closer. <code>crop = image.crop((1, 2, 3, 4))</code>"
    "<sandbox_output>done</sandbox_output> It is grey.</think><answer>grey</answer>"
)


def sample(**fields: Any) -> Sample:
    fields.setdefault("completion", COMPLETION)
    return Sample(question="What colour?", references=("gray",), **fields)


def ran(*statuses: str, images: int = 0) -> TrajectorySummary | None:
    """Return what a scheduler recorded."""
    return read_infos({"thyme_statuses": list(statuses or ("ok",)), "thyme_images": images})


def picture(size: tuple[int, int] = (1600, 800), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def decoded(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def all_questions() -> list[JudgeQuestion]:
    shown = sample(images=(picture(), picture((10, 10))), rollout=ran(images=1))
    grade = ask_code_process(shown, LIMITS)
    assert grade is not None
    asked = [ask(sample(), LIMITS) for ask in (ask_answer, ask_consistency, ask_code)]
    return [*asked, ask_answer_process(sample(), LIMITS), grade]


def test_every_placeholder_of_every_prompt_is_filled() -> None:
    for question in all_questions():
        for message in question.messages():
            text = message["content"]
            text = text if isinstance(text, str) else text[-1]["text"]
            assert "{" not in text.replace('{"', "")
            assert f'{{"{question.verdict}": ' in text


def test_the_parts_stand_between_marks_with_the_same_fresh_code() -> None:
    question = ask_consistency(sample(), LIMITS)
    body = {"messages": question.messages()}
    assert " ".join(prompt_part(body, "reasoning").split()) == "Look closer. It is grey."
    assert prompt_part(body, "answer") == "grey"
    assert user_text(body) != user_text({"messages": question.messages()})


def test_questions_are_equal_only_if_all_they_show_is() -> None:
    assert ask_answer(sample(), LIMITS).key == ask_answer(sample(), LIMITS).key
    other = Sample(completion=COMPLETION, question="What colour?", references=("red",))
    assert ask_answer(sample(), LIMITS).key != ask_answer(other, LIMITS).key


def test_long_text_is_cut_in_the_middle_or_at_its_beginning() -> None:
    text = "a" * 50 + "b" * 50
    assert defuse(text, 20) == "a" * 10 + " [...] " + "b" * 10
    assert defuse(text, 20, keep_end=True) == " [...] " + "b" * 20
    assert defuse(text, 100) == text


def test_ordinary_text_is_not_changed() -> None:
    text = "if a < b and c > d: score = 3\n\t# caf\u00e9 \\frac{1}{2} [x] {y}"
    assert defuse(text, 1000) == text


def test_the_record_of_the_runs_is_shown() -> None:
    question = ask_code(sample(rollout=ran("ok", "timeout")), LIMITS)
    assert "Record of the runs: ok, timeout" in user_text({"messages": question.messages()})


def test_images_come_before_the_text_and_are_downsized() -> None:
    shown = sample(images=(picture(), picture((300, 100))), rollout=ran(images=1))
    question = ask_code_process(shown, LIMITS)
    assert question is not None
    content = question.messages()[-1]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    sizes = [decoded(part["image_url"]["url"]).size for part in content[:2]]
    assert sizes == [(768, 384), (300, 100)]
    assert "1 original and 1 made images" in question.messages()[0]["content"]


def test_no_more_images_are_sent_than_allowed() -> None:
    images = tuple(picture((20, 20 + i)) for i in range(9))
    question = ask_code_process(sample(images=images, rollout=ran(images=8)), LIMITS)
    assert question is not None
    assert len(question.images) == LIMITS.max_images


def test_an_unreadable_image_leaves_nothing_to_ask() -> None:
    assert ask_code_process(sample(images=("no such file.png",)), LIMITS) is None


def test_an_image_is_read_in_every_form(tmp_path: Path) -> None:
    image = picture((40, 30))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(image))
    text = base64.b64encode(encoded(image)).decode()
    forms: list[Any] = [
        image,
        encoded(image),
        path,
        str(path),
        text,
        f"data:image/png;base64,{text}",
        {"bytes": encoded(image), "path": None},
        {"bytes": None, "path": str(path)},
    ]
    for form in forms:
        assert decoded(to_data_url(form, 768)).size == (40, 30)


def test_transparency_becomes_white() -> None:
    url = to_data_url(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 768)
    assert decoded(url).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("image", [None, 7, "", "AAAA", "not an image", b"x", {"bytes": None}, {}])
def test_what_is_no_image_is_an_error(image: Any) -> None:
    with pytest.raises(DataError):
        to_data_url(image, 768)


def test_a_judge_sees_a_camera_picture_upright() -> None:
    for kind in ("JPEG", "PNG"):
        for orientation in (1, 3, 6, 8):
            assert is_upright(decoded(to_data_url(camera_file(kind, orientation, (800, 480)), 96)))
