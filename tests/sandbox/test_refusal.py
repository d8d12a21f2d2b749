"""Where the sandbox starts, and where it refuses to."""

import os
import re

import pytest

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.sandbox import SandboxPool
from swift_thyme.sandbox.layers import Layer, refusal
from swift_thyme.sandbox.memory_group import MemoryGroup, find_place
from tests.sandbox.conftest import small_settings


def layers(root: bool, landlock: bool) -> tuple[Layer, ...]:
    return (
        Layer("user namespace", root, "Operation not permitted"),
        Layer("private root", root, "needs all namespaces"),
        Layer("landlock", landlock, "Function not implemented"),
    )


@pytest.mark.parametrize(
    ("mode", "root", "landlock", "starts"),
    [
        ("auto", True, True, True),
        ("auto", True, False, True),
        ("auto", False, True, True),
        ("auto", False, False, False),
        ("unguarded", False, False, True),
        ("strict", True, False, False),
        ("strict", True, True, True),
    ],
)
def test_auto_starts_where_a_layer_guards_files(
    mode: str, root: bool, landlock: bool, starts: bool
) -> None:
    reason = refusal(mode, layers(root, landlock))
    assert (reason is None) is starts
    if mode == "auto" and reason is not None:
        assert "Operation not permitted" in reason
        assert "Function not implemented" in reason
        assert "THYME_SANDBOX=unguarded" in reason


def test_a_pool_without_guards_says_what_to_do_and_goes_on_where_it_is_told_to() -> None:
    off = {"disable": ("namespaces", "landlock")}
    with pytest.raises(SandboxUnavailableError, match="set THYME_SANDBOX=unguarded") as raised:
        SandboxPool(small_settings(**off)).start()
    assert "\n" not in str(raised.value)
    with SandboxPool(small_settings(mode="unguarded", **off)) as pool, pool.open_sync() as session:
        assert session.run_sync("print(1)").stdout == "1\n"


def test_a_group_counts_the_memory_that_no_process_shows() -> None:
    try:
        place = find_place()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    group = MemoryGroup(place, 64 << 20)
    child = os.fork()
    if child == 0:
        group.add(os.getpid())
        kept = []
        while True:
            kept.append(bytearray(os.urandom(1 << 20)))
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == 9
    assert group.has_ended_another()
    assert not group.has_ended_another()
    assert group.has_ended_one()
    while not group.remove():
        continue


def test_memory_in_a_session_is_over_its_limit_with_and_without_a_group() -> None:
    program = (
        "import socket\nkept = []\nwhile True:\n    kept.append(bytearray(os.urandom(1 << 20)))"
    )
    for disable in ((), ("cgroup",)):
        with SandboxPool(small_settings(disable=disable)) as pool, pool.open_sync() as session:
            result = session.run_sync(program)
            assert result.status.value == "memory"
            assert re.search("memory|Memory", str(result.error))
