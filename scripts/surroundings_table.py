"""usage: python scripts/surroundings_table.py [--write]

Prints what the sandbox is in which surrounding, as Markdown, or writes it into docs/sandbox.md.
tests/sandbox/test_guarantees.py builds each surrounding and holds the sandbox to these values.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sandbox.md"
START, END = "<!-- surroundings -->\n", "<!-- end of surroundings -->\n"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write it into docs/sandbox.md")
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table(), end="")


def page(text: str) -> str:
    """Return the text of the page with the table of now.

    Raises:
        ValueError: The page has no place for it.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{PAGE.name} lacks the lines {START.strip()} and {END.strip()}")
    return "".join([before, START, table(), END, after])


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


if __name__ == "__main__":
    main()
