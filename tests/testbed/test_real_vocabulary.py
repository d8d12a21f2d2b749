"""The model with Qwen's vocabulary: made once, and the ids of the released models."""

import sys
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.testbed import real_vocabulary as module
from tests.conftest import run_program

ASK = """
import sys, time
from swift_thyme.testbed import real_vocabulary as module

def write(folder):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    time.sleep(0.3)
    (folder / "config.json").write_text("whole")

module._write_model = write
print((module.real_vocabulary_model() / "config.json").read_text())
"""


@pytest.fixture(scope="module")
def tokenizer(real_vocabulary: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_vocabulary)


def test_the_ids_are_those_of_the_released_models(tokenizer: Any) -> None:
    known = {"<|endoftext|>": 151643, "<|im_end|>": 151645, "<|image_pad|>": 151655}
    assert tokenizer.convert_tokens_to_ids(list(known)) == list(known.values())
    assert tokenizer.encode("Hello world") == [9707, 1879]
    assert tokenizer.eos_token_id == known["<|im_end|>"]


def test_a_tag_and_an_output_share_a_token(tokenizer: Any) -> None:
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode("</code><sandbox_output>")]
    assert tokens == ["</", "code", "><", "sandbox", "_output", ">"]


def test_eight_processes_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = f'"{sys.executable}" -c "$0" "{log}"'
    shell = f"for n in 1 2 3 4 5 6 7 8; do {program} & done; wait"
    run = run_program(["bash", "-c", shell, ASK], HOME=str(tmp_path))
    assert run.stdout.replace("\n", "") == "whole" * 8, run.stderr
    assert log.read_text() == "made\n"
    assert sorted(path.name for path in (tmp_path / ".cache" / "swift_thyme").iterdir()) == [
        "real_vocabulary_1",
        "real_vocabulary_1.lock",
    ]


def test_a_failure_leaves_nothing_that_looks_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(module, "_write_model", fail)
    with pytest.raises(OSError, match="No space"):
        module.real_vocabulary_model()
    assert [path.name for path in (tmp_path / ".cache" / "swift_thyme").iterdir()] == [
        "real_vocabulary_1.lock"
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [("no_such_package==1", "bash scripts/setup.sh"), ("dashscope==2.0.2", "is not that of")],
)
def test_missing_or_other_ranks_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    (tmp_path / "dashscope" / "resources").mkdir(parents=True)
    (tmp_path / "dashscope" / "__init__.py").touch()
    (tmp_path / "dashscope" / "resources" / "qwen.tiktoken").write_text("IQ== 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "PACKAGE", name)
    with pytest.raises(SettingsError, match=words):
        module.vocabulary_file()
