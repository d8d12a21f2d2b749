"""Folders that hold no model, or half of one: each is one line, found without loading anything."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.inference.model_folder import check_folder, weights_mark
from tests.conftest import TINY_MODEL, python_program, run_program


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(TINY_MODEL, tmp_path / "model")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200_000])


def cut_in_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20])


def no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def weights_are_a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def empty_bin(folder: Path) -> None:
    no_weights(folder)
    (folder / "pytorch_model.bin").touch()


def shard_missing(folder: Path) -> None:
    table = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def empty_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")


def nothing_said(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def config_is_a_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def run_folder(folder: Path) -> None:
    (folder / "checkpoint-16").mkdir()
    (folder / "config.json").rename(folder / "checkpoint-16" / "config.json")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "model.safetensors has 200000 bytes, its header says 3471616"),
        (cut_in_header, "cut off or no safetensors file"),
        (no_header, "cut off or no safetensors file"),
        (pointer, "git lfs pull"),
        (weights_are_a_folder, "model.safetensors is no file"),
        (no_weights, "has no weights"),
        (empty_bin, "pytorch_model.bin is empty"),
        (shard_missing, "1 of 2 files with weights are missing, such as model-2.safetensors"),
        (empty_index, "names no weights"),
        (no_json, "config.json cannot be read"),
        (a_list, "holds no JSON object"),
        (nothing_said, "holds no settings"),
        (config_is_a_folder, "no file config.json"),
        (adapter, "--merge_lora true"),
        (run_folder, "the folder checkpoint-16 in it is one"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(
    model: Path, spoil: Callable[[Path], None], words: str
) -> None:
    check_folder(str(model))
    spoil(model)
    with pytest.raises(SettingsError) as caught:
        check_folder(str(model))
    assert str(caught.value).startswith(f"--model {model}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_made_up_need_no_file(model: Path) -> None:
    no_weights(model)
    check_folder(str(model), weights=False)


def test_a_name_of_a_hub_is_no_folder(tmp_path: Path) -> None:
    check_folder("Qwen/Qwen2.5-VL-3B-Instruct")
    for name in ("./nowhere", str(tmp_path / "nowhere"), "runs/v0/checkpoint-5", "~/nowhere"):
        with pytest.raises(SettingsError, match="no such folder"):
            check_folder(name)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="is a file"):
        check_folder(str(tmp_path / "file"))


def test_the_mark_of_weights_passes_over_folders(model: Path) -> None:
    before = weights_mark(str(model))
    (model / "old.json").mkdir()
    assert weights_mark(str(model)) == before
    cut(model)
    assert weights_mark(str(model)) != before


def test_the_command_says_it_in_one_line_and_shows_more_on_demand(model: Path) -> None:
    cut(model)
    argv = python_program("-m", "swift_thyme.commands.main", "ask", "--model", str(model), "Q?")
    run = run_program(argv)
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: --model {model}: model.safetensors has")
    assert len(run.stderr.splitlines()) == 1
    assert "Traceback" in run_program(argv, THYME_DEBUG="1").stderr
