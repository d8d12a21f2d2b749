"""What several test files share: the repository's paths, and the environment of a CPU job."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.plain import ROOT as ROOT
from tests.plain import TINY_MODEL as TINY_MODEL
from tests.view.chromium import INSTALL, find_chromium


def cpu_environment(**extra: str) -> dict[str, str]:
    """Return the environment of a job on a machine without a GPU (as scripts/cpu_env.sh)."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # Tests of commands quieten ms-swift in this process, and a job would be quiet too.
    environment.pop("LOG_LEVEL", None)
    environment.update(
        CUDA_VISIBLE_DEVICES="",
        MODELSCOPE_OFFLINE="1",
        HF_HUB_OFFLINE="1",
        USE_HF="1",
        OMP_WAIT_POLICY="PASSIVE",
        TOKENIZERS_PARALLELISM="false",
        TORCH_COMPILE_DISABLE="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_LOGGING_LEVEL="WARNING",
        # Jobs run beside each other, and torch would take the same port for all.
        MASTER_PORT=str(free_port()),
    )
    return environment | extra


def run_program(
    argv: Sequence[str], *, timeout_s: float = 500, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program at the repository's root and return it with its output captured."""
    return subprocess.run(
        list(argv),
        cwd=ROOT,
        env=cpu_environment(**environment),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def python_program(*argv: str) -> list[str]:
    """Return the command that runs a Python program with this interpreter."""
    return [sys.executable, *argv]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def in_ci() -> bool:
    """Tell whether this is the run of ``.ci/run``."""
    return os.environ.get("CI", "").lower() == "true"


def wanted_whole() -> bool:
    """Tell whether all is to run that the 45 minutes of ``.ci/run`` have no room for."""
    return os.environ.get("WHOLE", "").lower() == "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests that are marked ``ci`` to continuous integration, and ``whole`` to WHOLE=true."""
    ci = pytest.mark.skip(reason="runs in .ci/run alone; CI=true runs it here")
    whole = pytest.mark.skip(reason="WHOLE=true runs it")
    for item in items:
        if item.get_closest_marker("ci") is not None and not in_ci():
            item.add_marker(ci)
        if item.get_closest_marker("whole") is not None and not wanted_whole():
            item.add_marker(whole)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of the testbed: 16 RL rows, 8 evaluation rows, 8 demonstrations."""
    from swift_thyme.testbed.data import make_dataset

    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder, n_sft=8, n_rl=16, n_eval=8, seed=3)
    return folder


@pytest.fixture(scope="session")
def real_vocabulary() -> Path:
    """The tiny model with Qwen's own vocabulary; skip where that is not installed, never in CI."""
    from swift_thyme.core.errors import SettingsError
    from swift_thyme.testbed.real_vocabulary import real_vocabulary_model, vocabulary_file

    try:
        vocabulary_file()
    except SettingsError as error:
        if in_ci():
            pytest.fail(str(error))
        pytest.skip(str(error))
    return real_vocabulary_model()


@pytest.fixture
def chromium() -> None:
    """Skip where no Chromium is installed, but never in continuous integration."""
    if find_chromium() is None:
        message = f"needs a Chromium: {INSTALL}"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
