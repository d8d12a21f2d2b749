"""The GPU command of README.md is the recipe, and its example row is one of `thyme data rl`."""

import json
import shlex

import readme_command

from swift_thyme.core.protocol import parse_user_prompt
from tests.conftest import ROOT


def block(name: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    inside = text.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]
    return inside.partition("\n")[2].rpartition("```")[0]


def test_the_readme_has_the_command_and_the_row_of_now() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme_command.page(text) == text, "run scripts/readme_command.py --write"


def test_the_command_has_every_flag_of_the_script_and_its_values() -> None:
    words = shlex.split(block("recipe").partition("\n\n")[2].replace("\\\n", " "))
    assert words[:4] == ["MAX_PIXELS=2408448", "NPROC_PER_NODE=8", "swift", "rlhf"]
    said = {name: values for name, *values in readme_command.flags(words[4:])}
    script = {name: values for name, *values in readme_command.flags(readme_command.recipe().argv)}
    assert script.keys() - said.keys() == readme_command.LEFT_OUT.keys()
    places = {"--system": ["prompt.txt"], "--external_plugins": ["$(thyme plugin)"]}
    for name, values in said.items():
        assert values == places.get(name, script[name])
    assert said["--tuner_type"] == ["full"]
    assert said["--deepspeed"] == ["zero3"]


def test_the_row_asks_for_the_reply_format_and_quotes_its_picture() -> None:
    row = json.loads(block("row"))
    (message,) = row["messages"]
    assert message["content"].endswith("<answer>your final answer</answer>")
    prompt = parse_user_prompt(message["content"])
    assert prompt is not None and list(prompt.paths) == row["images"]
