"""usage: python scripts/surroundings_table.py [--write]

Prints what the sandbox is in which surrounding, as Markdown, or writes it into docs/sandbox.md.
tests/sandbox/test_guarantees.py builds each surrounding and holds the sandbox to these values.
"""

from dataclasses import dataclass

from generated_page import DOCS, GeneratedPage

PROMISES = (
    "host files not read",
    "not written",
    "other sessions not seen",
    "no network",
    "no signals",
    "limits hold",
    "trainer's priority unchanged",
)


@dataclass(frozen=True)
class Expected:
    """What the sandbox is in one surrounding."""

    title: str
    namespaces: bool
    landlock: bool
    seccomp: bool
    user_id: bool
    """Whether each session has a user id of its own."""
    starts: bool = True
    """Whether `THYME_SANDBOX=auto` starts; where it does, every promise holds."""


EXPECTED = {
    "host-root": Expected("host, root", True, True, True, True),
    "host-user": Expected("host, ordinary user", True, True, True, False),
    "docker-root": Expected("Docker, root", False, True, True, True),
    "docker-user": Expected("Docker, ordinary user", False, True, True, False),
    "podman-rootless": Expected("Podman without root", True, True, True, True),
    "kubernetes-restricted": Expected("Kubernetes, restricted", False, True, True, False),
    "gvisor": Expected("like gVisor, root", False, False, True, True, starts=False),
    "old-kernel": Expected("like Linux 5.4, root", True, False, True, True),
}


def table() -> str:
    """Return the table, a line for each surrounding."""
    layers = ("namespaces", "Landlock", "seccomp", "own user id", "`auto`")
    heads = ("Surrounding", *layers, *PROMISES)
    lines = [heads, ("---",) * len(heads)]
    for row in EXPECTED.values():
        on = (row.namespaces, row.landlock, row.seccomp, row.user_id)
        promises = ("yes" if row.starts else "-",) * len(PROMISES)
        auto = "starts" if row.starts else "refuses"
        lines.append((row.title, *("on" if layer else "off" for layer in on), auto, *promises))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PAGE = GeneratedPage(DOCS / "sandbox.md", "surroundings", table)

if __name__ == "__main__":
    PAGE.main(__doc__)
