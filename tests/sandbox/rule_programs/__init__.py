"""Hostile programs, by what they attack; `test_design_rule` says what must hold."""

from tests.sandbox.rule_programs.row import Row

from tests.sandbox.rule_programs import (  # isort: skip
    files,
    interpreter,
    memory,
    messages,
    pictures,
    processes,
    second_runs,
    secrets,
    states,
)

ROWS_OF_RIGHTS: dict[str, Row] = {**processes.ROWS, **files.ROWS, **memory.ROWS}
"""Programs whose end depends on what a user may do."""
ROWS_OF_LAYERS: dict[str, Row] = {
    **ROWS_OF_RIGHTS,
    **messages.ROWS,
    **states.ROWS,
    **secrets.ROWS,
}
"""Programs whose end depends on the layers that there are."""
ROWS: dict[str, Row] = {**ROWS_OF_LAYERS, **pictures.ROWS, **interpreter.ROWS, **second_runs.ROWS}
