"""The package as users have it: a wheel in an environment of its own, away from the checkout.

Nothing is locked: uv resolves the extras as they stand. Most of what it finds is in uv's cache
since ``scripts/setup.sh`` ran. uv links the files where the cache lies on the same file system,
which takes seconds; else it copies 6 GB. vLLM is not installed, because its ordinary build needs a
GPU: the jobs sample with transformers, and the extra ``gpu`` is resolved only.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.doctor.checks import TESTED_VERSIONS
from tests.conftest import ROOT, cpu_environment
from tests.e2e.jobs import as_argv, grpo_flags, saved_arguments, training_log

pytestmark = [pytest.mark.slow, pytest.mark.ci]

USES_THE_LIBRARIES = """
import PIL, cv2, numpy
picture = numpy.full((40, 60, 3), 255, numpy.uint8)
cv2.circle(picture, (30, 20), 10, (0, 0, 255), -1)
PIL.Image.fromarray(picture).save("/mnt/data/temp_processed_images/disc.png")
print("/mnt/data/temp_processed_images/disc.png")
PIL.Image.open(image_path).crop((0, 0, 80, 50)).save("/mnt/data/temp_processed_images/crop.png")
print("/mnt/data/temp_processed_images/crop.png")
"""

NO_LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"
"""What the OpenCV that is made for desktops says on a server."""


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment with the wheel in it, and a folder outside the checkout to work in."""

    programs: Path
    """Folder of ``python``, ``thyme`` and ``swift``."""
    home: Path
    """Working folder of the programs."""

    def run(
        self, program: str, *argv: str, timeout_s: float = 500, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment as a user would, and return it with its output."""
        environment = cpu_environment()
        environment.pop("PYTHONPATH", None)
        environment["VIRTUAL_ENV"] = str(self.programs.parent)
        environment["PATH"] = os.pathsep.join([str(self.programs), environment["PATH"]])
        return subprocess.run(
            [program, *argv],
            cwd=self.home,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def plugin(self, *name: str) -> str:
        """Return what ``$(thyme plugin NAME)`` becomes."""
        return self.run("thyme", "plugin", *name).stdout.strip()

    @property
    def model(self) -> str:
        """The wheel's tiny model."""
        return str(Path(self.plugin()).parents[1] / "testbed" / "model")

    def flags(self, output: Path) -> dict[str, Any]:
        """Return the flags of a GRPO step on the wheel's tiny model."""
        return grpo_flags(self.home / "data", output) | {
            "model": self.model,
            "external_plugins": [self.plugin(), self.plugin("testbed")],
        }

    def grpo_step(self, output: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run such a step."""
        return self.run("swift", "rlhf", *as_argv(self.flags(output)), **variables)


def run_uv(*argv: str, source: str = "", **variables: str) -> str:
    """Run uv, with `source` as its standard input, and return its output."""
    uv = str(Path(sys.executable).with_name("uv"))
    env = os.environ | variables
    done = subprocess.run(
        [uv, *argv], env=env, input=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    options = ("--wheel", "--no-build-isolation", "--python", sys.executable)
    run_uv("build", *options, "--out-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("install")
    environment, home = folder / "env", folder / "home"
    home.mkdir()
    run_uv("venv", "--python", sys.executable, str(environment))
    run_uv("pip", "install", f"{wheel}[swift,sandbox]", VIRTUAL_ENV=str(environment))
    result = Installed(environment / "bin", home)
    made = result.run(
        "python",
        *("-m", "swift_thyme.testbed.data", str(home / "data"), "--seed", "3"),
        *("--n-sft", "0", "--n-rl", "16", "--n-eval", "0"),
    )
    assert made.returncode == 0, made.stderr
    yield result
    shutil.rmtree(environment)


def test_the_extra_for_gpus_resolves_to_the_versions_that_were_tested(wheel: Path) -> None:
    compiled = run_uv(
        *("pip", "compile", "--quiet", "--python", sys.executable, "-"),
        source=f"swift_thyme[gpu] @ {wheel.as_uri()}\n",
    )
    found = dict(line.split("==") for line in compiled.splitlines() if "==" in line)
    tested = {name.replace("_", "-"): version for name, version in TESTED_VERSIONS.items()}
    assert {name: found.get(name) for name in tested} == tested
    assert {"deepspeed", "matplotlib", "scipy", "uvicorn", "pyarrow"} <= found.keys()


def test_the_report_of_an_installed_package_finds_nothing_broken(installed: Installed) -> None:
    done = installed.run("thyme", "doctor", "--json")
    report = json.loads(done.stdout)
    states = {finding["subject"]: finding["state"] for finding in report["findings"]}
    assert done.returncode == 0, done.stdout
    assert states["needed packages"] == states["sandbox: a program"] == "ok"
    here = TESTED_VERSIONS.keys() - {"vllm"}
    assert {name: states[name] for name in here} == dict.fromkeys(here, "ok")


def test_the_sandbox_of_an_installed_package_runs_code(installed: Installed) -> None:
    program = installed.home / "sum.py"
    program.write_text("print(1+1)\n")
    done = installed.run("thyme", "sandbox", str(program))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "<sandbox_output>2</sandbox_output>\n"


def test_the_sandbox_of_an_installed_package_finds_the_libraries(installed: Installed) -> None:
    program = installed.home / "program.py"
    program.write_text(USES_THE_LIBRARIES)
    picture = next((installed.home / "data").glob("**/*.jpg"))
    done = installed.run("thyme", "sandbox", "--json", "--image", str(picture), str(program))
    assert done.returncode == 0, done.stderr
    block = json.loads(done.stdout)
    assert block["status"] == "ok"
    assert [(image["width"], image["height"]) for image in block["images"]] == [(60, 40), (80, 50)]


def test_the_installed_package_answers_a_question(installed: Installed) -> None:
    (row, *_) = (installed.home / "data" / "rl.jsonl").read_text().splitlines()
    picture, question = json.loads(row)["images"][0], json.loads(row)["question"]
    done = installed.run("thyme", "ask", "--model", installed.model, "--image", picture, question)
    assert done.returncode == 0, done.stderr
    assert "answer:" in done.stdout


def test_the_files_of_the_wheel_are_what_runs(installed: Installed) -> None:
    plugin = Path(installed.plugin())
    assert installed.programs.parent in plugin.parents
    names = {path.name for path in plugin.parent.glob("*.py")}
    assert names >= {path.name for path in (ROOT / "plugin").glob("*.py")} - {"thyme_checkout.py"}


def test_a_grpo_step_of_an_installed_package_runs_code(installed: Installed) -> None:
    output = installed.home / "run"
    job = installed.grpo_step(output)
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    expect_that_code_ran(output)


def expect_that_code_ran(output: Path) -> None:
    (step,) = training_log(output)
    assert step["thyme/tool_use_rate"] > 0
    assert step.get("thyme/end/sandbox_failure", 0) == 0
    assert step["thyme/images_total"] >= 1


def test_a_script_of_a_new_folder_trains(installed: Installed) -> None:
    job, output = installed.home / "job", installed.home / "scripted"
    assert installed.run("thyme", "init", str(job)).returncode == 0
    flags = installed.flags(output)
    given = {"MODEL": flags.pop("model"), "DATASET": flags.pop("dataset"), "USE_VLLM": "false"}
    given |= {"SAVE_PATH": flags.pop("output_dir"), "NPROC_PER_NODE": "1"}
    # What the script itself says is not said again, but for what needs a GPU.
    for name in ("O3", "reward_funcs", "tuner_type", "rlhf_type"):
        del flags[name]
    flags |= {"deepspeed": "", "gradient_accumulation_steps": 1, "dataset_num_proc": 1}
    done = installed.run("sh", str(job / "rl.sh"), *as_argv(flags), **given)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    expect_that_code_ran(output)
    saved = saved_arguments(output)
    assert saved["O3"] is True
    assert saved["learning_rate"] == 5e-7
    assert saved["system"] == (job / "prompt.txt").read_text()


def test_a_grpo_job_whose_sandbox_runs_nothing_stops_and_says_why(installed: Installed) -> None:
    stub = installed.home / "desktop" / "cv2"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text(f"raise ImportError({NO_LIBGL!r})\n")
    output = installed.home / "broken"
    job = installed.grpo_step(output, PYTHONPATH=str(stub.parent))
    assert job.returncode != 0
    said = [line for line in job.stderr.splitlines() if "SandboxDeadError: " in line]
    assert said, job.stderr[-4000:]
    assert said[-1].endswith(
        "the job stops because no code can be run: the sandbox cannot start: "
        f"{NO_LIBGL}; `thyme doctor` says what to do"
    )
    assert training_log(output) == []
