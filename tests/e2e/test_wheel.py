"""The package as users have it: built as a wheel and installed into an environment of its own.

The environment holds what ``scripts/setup.sh`` installs, from uv's cache, which that script has
filled. uv links the files where the cache lies on the same file system, which takes seconds; else
it copies 7 GB.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, cpu_environment
from tests.e2e.jobs import as_argv, grpo_flags, training_log

pytestmark = [pytest.mark.slow, pytest.mark.ci]

USES_THE_LIBRARIES = """
import PIL, cv2, numpy
picture = numpy.full((40, 60, 3), 255, numpy.uint8)
cv2.circle(picture, (30, 20), 10, (0, 0, 255), -1)
PIL.Image.fromarray(picture).save("/mnt/data/temp_processed_images/disc.png")
print("/mnt/data/temp_processed_images/disc.png")
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
            [str(self.programs / program), *argv],
            cwd=self.home,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def grpo_step(self, output: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one GRPO step on the wheel's tiny model with the wheel's plugin files."""
        plugins = Path(self.run("thyme", "plugins").stdout.strip())
        flags = grpo_flags(self.home / "data", output) | {
            "model": str(plugins.parent / "testbed" / "model"),
            "external_plugins": [str(plugins / name) for name in ("agent_rm.py", "testbed.py")],
        }
        return self.run("swift", "rlhf", *as_argv(flags), **variables)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("wheel")
    environment, wheels, home = folder / "env", folder / "wheels", folder / "home"
    home.mkdir()
    uv = str(Path(sys.executable).with_name("uv"))
    locks = [str(ROOT / "requirements" / name) for name in ("uv.lock", "cpu.lock")]
    build = ["build", "--wheel", "--no-build-isolation", "--python", sys.executable]

    def run_uv(*argv: str) -> None:
        variables = {**os.environ, "VIRTUAL_ENV": str(environment)}
        done = subprocess.run(
            [uv, *argv], cwd=folder, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    run_uv(*build, "--out-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("*.whl")
    run_uv("venv", "--python", sys.executable, str(environment))
    run_uv("pip", "sync", "--require-hashes", *locks)
    run_uv("pip", "install", "--no-deps", "--offline", str(wheel))
    result = Installed(environment / "bin", home)
    made = result.run(
        "python",
        *("-m", "swift_thyme.testbed.data", str(home / "data"), "--seed", "3"),
        *("--n-sft", "0", "--n-rl", "16", "--n-eval", "0"),
    )
    assert made.returncode == 0, made.stderr
    yield result
    shutil.rmtree(environment)


def test_the_sandbox_of_an_installed_package_finds_the_libraries(installed: Installed) -> None:
    program = installed.home / "program.py"
    program.write_text(USES_THE_LIBRARIES)
    done = installed.run("thyme", "sandbox", "--json", str(program))
    assert done.returncode == 0, done.stderr
    block = json.loads(done.stdout)
    assert block["status"] == "ok"
    assert [(image["width"], image["height"]) for image in block["images"]] == [(60, 40)]


def test_the_wheel_holds_the_plugin_files_and_is_what_runs(installed: Installed) -> None:
    plugins = Path(installed.run("thyme", "plugins").stdout.strip())
    assert installed.programs.parent in plugins.parents
    names = {path.name for path in plugins.glob("*.py")}
    assert names >= {path.name for path in (ROOT / "plugin").glob("*.py")} - {"thyme_checkout.py"}


def test_a_grpo_step_of_an_installed_package_runs_code(installed: Installed) -> None:
    output = installed.home / "run"
    job = installed.grpo_step(output)
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    (step,) = training_log(output)
    assert step["thyme/tool_use_rate"] > 0
    assert step.get("thyme/end/sandbox_failure", 0) == 0
    assert step["thyme/images_total"] >= 1


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
