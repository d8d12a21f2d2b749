"""A command that torchrun starts once per GPU: the first process stands for all."""

import os

import pytest
from typer.testing import CliRunner

from swift_thyme.commands import evaluate
from swift_thyme.commands.main import app
from swift_thyme.commands.model_options import ModelOptions
from swift_thyme.commands.torchrun import processes_of_torchrun

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def launch(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int = 4) -> None:
    for name, value in zip(NAMES, (rank, rank, processes, processes), strict=True):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_without_torchrun_a_process_stands_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert processes_of_torchrun() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_the_first_process_runs_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, 0)
    assert processes_of_torchrun() == 4
    left = {*NAMES, "TORCHELASTIC_RUN_ID", "OMP_NUM_THREADS"} & set(os.environ)
    assert not left


def test_the_others_end_and_touch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, 3)
    # Neither the file nor the model is there.
    arguments = ["eval", "--data", "gone.tsv", "--out", "gone", "--model", "gone"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.output) == (0, "")
    assert os.environ["RANK"] == "3"


@pytest.mark.parametrize(
    ("processes", "flags", "copies"),
    [
        (8, {}, 8),
        (8, {"tensor_parallel_size": 2}, 4),
        (8, {"data_parallel_size": 2}, 2),
        (2, {"tensor_parallel_size": 4}, 1),
        (8, {"engine": "transformers"}, 1),
    ],
)
def test_there_is_a_copy_of_the_model_for_each_process(
    processes: int, flags: dict[str, object], copies: int
) -> None:
    options = ModelOptions(**{"model": "m", "engine": "vllm", **flags})
    assert evaluate._on_all_gpus(options, processes).data_parallel_size == copies


def test_trajectories_at_once_grow_with_the_copies() -> None:
    assert ModelOptions().at_once(None) == 32
    assert ModelOptions(data_parallel_size=8).at_once(None) == 256
    assert ModelOptions(data_parallel_size=8).at_once(5) == 5
