"""usage: python scripts/environment_page.py [--write]

Prints the tables of docs/environment.md, from the declared table of variables, or writes the page.
"""

from itertools import groupby

from generated_page import DOCS, GeneratedPage

from swift_thyme.core.variable_table import VARIABLES
from swift_thyme.core.variables import Value, Variable


def tables() -> str:
    """Return one table for each component."""
    parts = []
    for component, variables in groupby(VARIABLES.values(), key=lambda v: v.component):
        parts.append(f"\n## {component}\n\n")
        parts.append("| variable | default | unit | values | meaning | read by |\n")
        parts.append("| --- | --- | --- | --- | --- | --- |\n")
        parts.extend(f"| {' | '.join(cells(variable))} |\n" for variable in variables)
    return "".join([*parts, "\n"])


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


PAGE = GeneratedPage(DOCS / "environment.md", "tables", tables)

if __name__ == "__main__":
    PAGE.main(__doc__)
