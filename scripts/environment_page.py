"""usage: python scripts/environment_page.py

Writes the tables of docs/environment.md from the declared table of variables.
"""

from itertools import groupby
from pathlib import Path

from swift_thyme.core.variable_table import VARIABLES
from swift_thyme.core.variables import Value, Variable

PAGE = Path(__file__).resolve().parents[1] / "docs" / "environment.md"
START, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """Return the text of the page with the tables of now."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return "".join([before, START, tables(), "\n", END, after])


def tables() -> str:
    """Return one table for each component."""
    parts = []
    for component, variables in groupby(VARIABLES.values(), key=lambda v: v.component):
        parts.append(f"\n## {component}\n\n")
        parts.append("| variable | default | unit | values | meaning | read by |\n")
        parts.append("| --- | --- | --- | --- | --- | --- |\n")
        parts.extend(f"| {' | '.join(cells(variable))} |\n" for variable in variables)
    return "".join(parts)


def cells(variable: Variable) -> list[str]:
    """Return the cells of a variable's line."""
    meaning = variable.meaning
    if variable.option:
        meaning += f"; option: {variable.option}"
    if variable.owner:
        meaning += f" (a name of {variable.owner})"
    readers = ", ".join(f"`{reader}`" for reader in variable.reader.split(", "))
    return [
        f"`{variable.name}`",
        default(variable),
        variable.unit,
        variable.usable,
        meaning.replace("<", "&lt;"),
        readers,
    ]


def default(variable: Variable) -> str:
    """Return the default in words."""
    if variable.computed:
        return variable.computed
    if variable.default in (None, ()):
        return "none"
    return f"`{written(variable.default)}`"


def written(value: Value | None) -> str:
    """Return a value as it is written in the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
