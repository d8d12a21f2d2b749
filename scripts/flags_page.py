"""usage: python scripts/flags_page.py [--write]

Prints which flags of ms-swift work with --O3 true, as Markdown, or writes it into docs/flags.md.
tests/host/test_flag_table.py holds each row to its word.
"""

from collections.abc import Iterable

from generated_page import DOCS, GeneratedPage

from swift_thyme.host.flag_row import FlagRow
from swift_thyme.host.flag_table import HOST_ROWS, JOB_ROWS, REFUSED_ROWS
from swift_thyme.host.working_flags import UNTOUCHED, WORKING_ROWS


def tables() -> str:
    """Return the tables, one for each outcome, and the list of flags that are left alone."""
    parts = [
        "\n## Jobs in which --O3 true does nothing\n\nRefused when the job starts.\n\n",
        table(
            ("job", "why", "instead"),
            ((f"`{row.flags}`", row.why, row.instead) for row in JOB_ROWS[:-1]),
        ),
        "\n## Refused\n\nThe job stops when it starts, with one line.\n\n",
        table(
            ("flag", "job", "why", "instead", "test"),
            (
                (spelled(row.flags), jobs(row), row.why, row.instead, test(row))
                for row in REFUSED_ROWS
            ),
        ),
        "\n## Refused by ms-swift itself\n\nWith or without `--O3 true`.\n\n",
        table(
            ("flag", "job", "message", "test"),
            ((spelled(row.flags), jobs(row), f'"{row.error}"', test(row)) for row in HOST_ROWS),
        ),
        "\n## Works\n\n",
        table(
            ("flag", "job", "how", "test"),
            ((spelled(row.flags), jobs(row), row.why, test(row)) for row in WORKING_ROWS),
        ),
        "\n## Left alone\n\n",
        "These have nothing to do with the ids, masks and images of a rollout.\n\n",
        table(
            ("flags", "about"),
            (
                (", ".join(f"`--{name}`" for name in names.split()), reason)
                for reason, names in UNTOUCHED.items()
            ),
        ),
    ]
    return "".join([*parts, "\n"])


def table(heads: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """Return a table of Markdown."""
    cells = [heads, ("---",) * len(heads), *lines]
    return "".join(f"| {' | '.join(map(escaped, line))} |\n" for line in cells)


def escaped(text: str) -> str:
    """Return a text in which Markdown sees neither tags nor columns."""
    return text.replace("<", "&lt;").replace("|", "\\|")


def spelled(flags: str) -> str:
    """Return flags with those words in code quotes that are typed."""
    words = flags.split(" ")
    return " ".join(
        f"`{word.rstrip(',')}`{',' if word.endswith(',') else ''}" if word[:2] == "--" else word
        for word in words
    )


def jobs(row: FlagRow) -> str:
    """Return the commands that a row is about."""
    return ", ".join(f"`{job.value}`" for job in row.jobs)


def test(row: FlagRow) -> str:
    """Return the places of a row's tests and what they say."""
    places = (place.partition("::") for place in (row.test, row.why_test) if place)
    return "; ".join(
        f"`{file}` {function.removeprefix('test_').replace('_', ' ')}"
        for file, _, function in places
    )


PAGE = GeneratedPage(DOCS / "flags.md", "tables", tables)

if __name__ == "__main__":
    PAGE.main(__doc__)
