"""What works with which family of models: the table of docs/families.md, cell by cell.

Each family whose code is installed is trained for two steps with a scripted policy, whose code
returns a picture. One process trains one family after the other, with one engine.
"""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from families_table import OTHERS, PAGE, TRIED, WORKS
from PIL import Image

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.observation import Observation
from swift_thyme.core.trajectory import TurnOutcome
from swift_thyme.inference.engine import Sampling
from swift_thyme.inference.model import ModelSettings, open_engine
from swift_thyme.inference.prompt_images import read_image
from swift_thyme.inference.task import make_task
from tests.conftest import in_ci, python_program, run_program, wanted_whole
from tests.families.outcomes import fault
from tests.families.scripts import CODE
from tests.families.tiny_models import FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SLOW = ("gemma3", "internvl_hf")
"""Families that every run of the tests trains; WHOLE=true trains the others."""
GROUP = tuple(FAMILIES) if wanted_whole() else SLOW
"""Families that share a process: importing ms-swift takes longer than a job."""
WITH_VLLM = ("internvl_hf", *(("glm4v", "qwen3_vl") if wanted_whole() else ()))
"""Families whose cell for vLLM is tried again; tests/e2e does so for Qwen2.5-VL."""


class Jobs:
    """What became of the families' jobs, which are run when they are asked for.

    Args:
        folder: Where models and outcomes lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tried: set[tuple[str, str]] = set()

    def _run(self, engine: str, *names: str) -> None:
        """Train some families in one process."""
        argv = ("-m", "tests.families.family_jobs", str(self._folder), engine, *names)
        job = run_program(python_program(*argv), timeout_s=560, LOG_LEVEL="ERROR")
        assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
        self._tried |= {(engine, name) for name in names}

    def fault(self, engine: str, name: str) -> str | None:
        """Return what is wrong with a family's job; None where it works."""
        self._make_sure_of(engine, name)
        return fault(self._folder / name, engine)

    def model(self, name: str) -> Path:
        """Return the folder of a family's model."""
        self._make_sure_of("transformers", name)
        return self._folder / name / "model"

    def _make_sure_of(self, engine: str, name: str) -> None:
        if (engine, name) in self._tried:
            return
        group = GROUP if engine == "transformers" else WITH_VLLM
        if name not in group or (engine == "vllm" and not (in_ci() or wanted_whole())):
            pytest.skip("CI=true trains it with vLLM, WHOLE=true every family")
        self._run(engine, *group)

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return what the plugin wrote down of a family's job with transformers."""
        self._make_sure_of("transformers", name)
        lines = (self._folder / name / "transformers.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("families"))


def test_the_page_has_the_table() -> None:
    assert PAGE.is_current(), "run python scripts/families_table.py --write"


def test_every_family_with_code_here_is_in_the_table() -> None:
    assert set(TRIED) == set(FAMILIES)
    for name, row in TRIED.items():
        assert row.template == FAMILIES[name].template
    assert not {row.title for row in OTHERS} & {row.title for row in TRIED.values()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_as_its_row_says(jobs: Jobs, name: str) -> None:
    found = jobs.fault("transformers", name)
    assert (found is None) == (TRIED[name].training == WORKS), found


@pytest.mark.parametrize("name", WITH_VLLM)
def test_a_family_rolls_out_with_vllm_as_its_row_says(jobs: Jobs, name: str) -> None:
    found = jobs.fault("vllm", name)
    assert (found is None) == (TRIED[name].vllm == WORKS), found


@pytest.mark.parametrize("name", SLOW)
def test_rewards_and_logs_read_a_returned_picture_as_a_tag(jobs: Jobs, name: str) -> None:
    for record in jobs.records(name):
        assert "<sandbox_output><image></sandbox_output>" in record["completion"]


async def turn_after_a_picture(model: ModelSettings) -> tuple[int, int, int]:
    """Ask about a picture, return another one, and sample what follows.

    Returns:
        Sampled tokens, the length that the conversation counts, and that of the model's input.
    """
    data = io.BytesIO()
    Image.effect_noise((112, 84), 60).convert("RGB").save(data, "PNG")
    shown = ReturnedImage(data.getvalue(), 112, 84, "a.png")
    task = make_task("How many?", [read_image(shown.data, 0)], system="Look.", task_id="1")
    async with open_engine(model) as engine:
        conversation: Any = await engine.begin(task)
        codec = conversation.codec
        said = codec.encode_text(CODE)
        seen = codec.encode_observation(
            Observation("<sandbox_output><image></sandbox_output>", (shown,))
        )
        conversation.extend(said, TurnOutcome(False, len(said), seen.token_ids))
        sampled = 0
        turns = conversation.sample(Sampling(), seed=0, max_tokens=3, stream=False)
        async for chunk in turns:
            sampled += len(chunk.token_ids)
        return sampled, conversation.length, len(conversation._encode()["input_ids"])


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_family_is_asked_as_its_row_says(jobs: Jobs, name: str) -> None:
    # Random models have no chat template, so a template of several has to be named.
    settings = ModelSettings(
        model=str(jobs.model(name)),
        engine="transformers",
        template=FAMILIES[name].template,
        max_model_len=1024,
    )
    if TRIED[name].ask != WORKS:
        with pytest.raises(SettingsError, match="--template"):
            await turn_after_a_picture(settings)
        return
    sampled, counted, length = await turn_after_a_picture(settings)
    assert 1 <= sampled <= 3
    assert counted == length
