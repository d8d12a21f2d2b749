"""The command ``thyme doctor``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swift_thyme.commands.model_options import finite
from swift_thyme.core.finding import Finding, State
from swift_thyme.doctor.checks import DEADLINE_S, findings
from swift_thyme.doctor.job import job_findings

__all__ = ["doctor_command"]

_STYLES = {State.OK: "green", State.LOOK: "yellow", State.BROKEN: "bold red"}


def doctor_command(
    context: typer.Context,
    job: Annotated[
        bool,
        typer.Option(
            "--job",
            help="look at a job instead: its command line follows (swift rlhf FLAGS), or a YAML "
            "file, or a script such as scripts/rl.sh",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=1, help="longest wait in seconds", callback=finite)
    ] = DEADLINE_S,
) -> None:
    """Say what is ready on this machine and what to do about the rest.

    Ends with status 1 where something that is needed or configured does not work.
    """
    console = Console()
    if context.args and not job:
        raise typer.BadParameter(f"no such option or argument: {context.args[0]}")
    if job:
        sections: Mapping[str, Sequence[Finding]] = {"Job": job_findings(context.args)}
    elif as_json:
        sections = findings(timeout_s)
    else:
        with Console(stderr=True).status("looking (a few seconds: vLLM takes long to load)"):
            sections = findings(timeout_s)
    found = [finding for section in sections.values() for finding in section]
    broken = sum(finding.state is State.BROKEN for finding in found)
    if as_json:
        values = [
            {"section": section, **dataclasses.asdict(finding)}
            for section, group in sections.items()
            for finding in group
        ]
        typer.echo(json.dumps({"ok": not broken, "findings": values}, ensure_ascii=False))
    elif console.is_terminal:
        console.print(_table(sections))
        console.print(_verdict(found), highlight=False)
    else:
        # One line each, for grep and for logs.
        for finding in found:
            typer.echo(f"{finding.state.value:6} {finding.line}")
        typer.echo(_verdict(found).plain)
    if broken:
        raise typer.Exit(1)


def _table(sections: Mapping[str, Sequence[Finding]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=44, overflow="ellipsis")
    table.add_column(overflow="fold")
    for section, group in sections.items():
        table.add_row("", Text(section, style="bold"), "")
        for finding in group:
            # Text, not markup: what was found may hold brackets.
            text = Text(finding.text)
            if finding.advice:
                text.append(f"\n\u2192 {finding.advice}", style=_STYLES[finding.state])
            mark = Text(finding.state.value, style=_STYLES[finding.state])
            table.add_row(mark, Text(finding.subject), text)
        table.add_section()
    return table


def _verdict(found: Sequence[Finding]) -> Text:
    counts = {state: sum(finding.state is state for finding in found) for state in State}
    if counts[State.BROKEN]:
        return Text(f"{counts[State.BROKEN]} broken, {counts[State.LOOK]} to look at", "bold red")
    if counts[State.LOOK]:
        return Text(f"ready; {counts[State.LOOK]} to look at", "yellow")
    return Text("ready", "green")
