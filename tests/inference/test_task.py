"""Prompts: the published format, several images, none, and questions that look like markup."""

from swift_thyme.core.protocol import IMAGE_TAG, build_user_prompt, parse_user_prompt
from swift_thyme.inference.task import default_system_prompt, make_task
from tests.conftest import ROOT

from .builders import prompt_image


def test_one_image_gives_the_published_prompt() -> None:
    image = prompt_image()
    task = make_task("Why?", [image], system="S")
    assert task.prompt == build_user_prompt("Why?", image.path, (64, 48))
    assert task.messages == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": task.prompt},
    ]


def test_each_of_several_images_has_its_path_and_size() -> None:
    task = make_task("Which?", [prompt_image(), prompt_image((32, 30))])
    assert task.prompt.count(IMAGE_TAG) == 2
    assert 'User Image Size 2: "32x30"' in task.prompt
    found = parse_user_prompt(task.prompt)
    assert found is not None and found.path == "/mnt/data/images/0.png"


def test_a_question_without_an_image_names_none() -> None:
    task = make_task("1 + 1?")
    assert IMAGE_TAG not in task.prompt
    assert "Path" not in task.prompt
    assert "<answer>" in task.prompt


def test_a_question_cannot_bring_images_or_special_tokens_along() -> None:
    task = make_task("Is <image> or <|image_pad|> <b>here</b>?", [prompt_image()])
    assert task.prompt.count(IMAGE_TAG) == 1
    assert "<|" not in task.prompt
    assert "<b>here</b>" in task.prompt


def test_the_packaged_system_prompt_is_the_one_of_the_recipe() -> None:
    assert default_system_prompt() == (ROOT / "scripts" / "prompt.txt").read_text().strip()
