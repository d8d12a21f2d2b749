"""The local judge as a program."""

import subprocess

import httpx

from tests.conftest import ROOT, cpu_environment, python_program


def test_it_goes_on_where_stdin_is_closed() -> None:
    process = subprocess.Popen(
        python_program("-m", "swift_thyme.rewards.local_judge"),
        cwd=ROOT,
        env=cpu_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        for _ in range(2):
            assert httpx.get(f"{url}/models", timeout=30).status_code == 200
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate(timeout=30)
