"""The job in its other shapes: two processes, a YAML file, LoRA, bad input. Real ``swift`` runs."""

import json
from pathlib import Path

import pytest
import yaml

from swift_thyme.view.sources import load

from .jobs import VLLM_FLAGS, as_argv, grpo_flags, saved_arguments, swift, training_log


@pytest.mark.slow
def test_two_processes_from_a_yaml_file(tmp_path: Path, tiny_data: Path) -> None:
    config = tmp_path / "job.yaml"
    flags = grpo_flags(tiny_data, tmp_path / "run") | {"ddp_backend": "gloo"}
    config.write_text(yaml.safe_dump(flags))
    job = swift("rlhf", str(config), NPROC_PER_NODE="2", MASTER_PORT="29561")
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    assert saved_arguments(tmp_path / "run")["O3"] is True
    (step,) = training_log(tmp_path / "run")
    assert step["thyme/tool_use_rate"] > 0
    assert step["thyme/images_total"] >= 1
    shares = sum(value for name, value in step.items() if name.startswith("thyme/end/"))
    assert shares == pytest.approx(1)
    kept = load([tmp_path / "run"])
    assert sorted(item.record.meta["rank"] for item in kept) == [0, 0, 1, 1]
    total = [sum(item.record.rewards.values()) for item in kept]
    assert total == pytest.approx([item.record.meta["reward"] for item in kept])
    assert all(
        (item.folder / image.file).is_file() for item in kept for image in item.record.all_images
    )


@pytest.mark.slow
def test_lora_with_vllm(tmp_path: Path, tiny_data: Path) -> None:
    flags = grpo_flags(tiny_data, tmp_path / "run", steps=2) | {"tuner_type": "lora"}
    job = swift("rlhf", *as_argv(flags), *VLLM_FLAGS)
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    assert all(step["thyme/images_total"] >= 1 for step in training_log(tmp_path / "run"))


@pytest.mark.slow
def test_a_mistyped_flag_stops_with_ms_swifts_error(tmp_path: Path, tiny_data: Path) -> None:
    flags = grpo_flags(tiny_data, tmp_path / "run")
    job = swift("rlhf", *as_argv(flags), "--lerning_rate", "1e-5")
    assert job.returncode != 0
    assert "remaining_argv: ['--lerning_rate', '1e-5']" in job.stderr


@pytest.mark.slow
def test_a_missing_image_file_is_named_with_its_row(tmp_path: Path, tiny_data: Path) -> None:
    rows = [json.loads(line) for line in (tiny_data / "rl.jsonl").read_text().splitlines()]
    rows[2]["images"] = [str(tmp_path / "gone.jpg")]
    rows[2]["question"] = "Which row is this?"
    data = tmp_path / "data"
    data.mkdir()
    (data / "rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = swift("rlhf", *as_argv(grpo_flags(data, tmp_path / "run")))
    assert job.returncode != 0
    assert "DataError" in job.stderr
    assert str(tmp_path / "gone.jpg") in job.stderr
    assert "Which row is this?" in job.stderr
