"""The sandbox while its own processes are killed and stopped at random."""

import pytest

from tests.conftest import python_program, run_program


@pytest.mark.ci
def test_only_sessions_that_were_hit_notice() -> None:
    done = run_program(python_program("scripts/chaos_sandbox.py", "--hits", "150"), timeout_s=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
