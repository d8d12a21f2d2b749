"""Hostile programs, by what they attack; `test_design_rule` says what must hold."""

from tests.sandbox.rule_programs.row import Row

from tests.sandbox.rule_programs import (  # isort: skip
    files,
    interpreter,
    memory,
    messages,
    pictures,
    processes,
    secrets,
    states,
)

ROWS: dict[str, Row] = {
    **messages.ROWS,
    **states.ROWS,
    **processes.ROWS,
    **files.ROWS,
    **memory.ROWS,
    **pictures.ROWS,
    **interpreter.ROWS,
    **secrets.ROWS,
}
