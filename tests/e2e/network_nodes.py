"""Two "nodes" on this machine: network namespaces with one cable between them, and no other."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

INTERFACE = "cable"
"""Its name on both nodes."""


@dataclass(frozen=True)
class Node:
    """A network namespace, kept by a process that sleeps."""

    pid: int
    address: str

    def inside(self, *argv: str) -> list[str]:
        """Return the command that runs a program on this node."""
        return ["nsenter", "--target", str(self.pid), "--net", *argv]

    def kill_programs(self) -> None:
        """Kill all that runs on this node, as a loss of power does."""
        own = os.stat(f"/proc/{self.pid}/ns/net").st_ino
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) == self.pid:
                continue
            with contextlib.suppress(OSError):  # it has ended
                if os.stat(f"/proc/{name}/ns/net").st_ino == own:
                    os.kill(int(name), signal.SIGKILL)


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Give two nodes; their interfaces are gone afterwards, like the namespaces.

    Skips the test where this user may not make network namespaces.
    """
    needed = ("ip", "nsenter", "unshare")
    if os.geteuid() or not all(map(shutil.which, needed)):
        pytest.skip("network namespaces need root, and ip, nsenter and unshare")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces may not be made here")
    with ExitStack() as stack:
        nodes = []
        for number in (0, 1):
            keeper = subprocess.Popen(
                ["unshare", "--net", sys.executable, "-c", "print(flush=True); input()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(keeper.communicate, b"\n")
            assert keeper.stdout is not None
            keeper.stdout.readline()  # the namespace is there
            nodes.append(Node(keeper.pid, f"10.77.0.{number + 1}"))
        first, second = nodes
        _run("ip", "link", "add", INTERFACE, "netns", str(first.pid), "type", "veth",
             "peer", "name", INTERFACE, "netns", str(second.pid))  # fmt: skip
        for node in nodes:
            _run(*node.inside("ip", "address", "add", f"{node.address}/24", "dev", INTERFACE))
            for interface in (INTERFACE, "lo"):
                _run(*node.inside("ip", "link", "set", interface, "up"))
        yield first, second


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
