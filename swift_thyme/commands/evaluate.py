"""``thyme eval``: TSV files in, a table and files out."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from swift_thyme.answers.maths import MathsChecker
from swift_thyme.commands.messages import say, warn
from swift_thyme.commands.model_options import ModelOptions, with_model_options
from swift_thyme.commands.torchrun import processes_of_torchrun
from swift_thyme.core.errors import SettingsError
from swift_thyme.evaluation.arms import OWN, TITLES, Arm
from swift_thyme.evaluation.base import base_model, base_outcomes, check_base
from swift_thyme.evaluation.items import PromptStyle
from swift_thyme.evaluation.judging import judge_settings, judge_undecided
from swift_thyme.evaluation.outcome import outcomes
from swift_thyme.evaluation.report_table import report_table
from swift_thyme.evaluation.results import build_report
from swift_thyme.evaluation.results_page import Benchmark, write_results_page
from swift_thyme.evaluation.run import EvalSettings, Evaluation, Job
from swift_thyme.evaluation.run import Progress as RunProgress
from swift_thyme.evaluation.tsv import Dataset, read_tsv
from swift_thyme.evaluation.vlmeval_files import write_predictions
from swift_thyme.inference.interrupt import exit_on_interrupt
from swift_thyme.inference.model import ModelSettings, describe, open_engine, quiet_hosts
from swift_thyme.rewards.reward_settings import JudgeSettings

_MATHS_TIMEOUT_S = 2.0
_TOOLS = {
    "on": {Arm.TOOLS},
    "plain": {Arm.PLAIN},
    "off": {Arm.NO_TOOLS},
    "both": {Arm.TOOLS, Arm.NO_TOOLS},
    "all": set(OWN),
}
"""Values of ``--tools`` and the arms that they stand for."""
_MOST_NAMED = 20
"""Rows that are named on the terminal; all of them are in the report."""

__all__ = ["eval_command"]


@with_model_options
def eval_command(
    options: ModelOptions,
    data: Annotated[
        list[Path], typer.Option("--data", help="TSV file; may be given several times.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for trajectories and report.")],
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of every item.")] = 1,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first items only.")
    ] = None,
    tools: Annotated[
        str,
        typer.Option(
            "--tools",
            help="on, plain (a prompt that never mentions code), off (code is refused), both (on "
            "and off), all, or several with commas: then the tool's effect is shown.",
        ),
    ] = "on",
    no_tools: Annotated[
        bool,
        typer.Option("--no-tools", help="As --tools off; compares with what is in --out already."),
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            help="Folder of another model's thyme eval --tools plain on the same files: the model "
            "that this one was made of.",
        ),
    ] = None,
    shuffle: Annotated[
        bool | None,
        typer.Option(
            "--shuffle/--no-shuffle",
            help="Options in an order of their own for each item and run; default: yes, but for "
            "files with all rotations (cycle_category).",
        ),
    ] = None,
    prompt: Annotated[
        PromptStyle,
        typer.Option(help="Ask with the options, or the question alone (matched by their texts)."),
    ] = PromptStyle.OPTIONS,
    judge: Annotated[
        bool, typer.Option("--judge", help="Ask THYME_JUDGE_URLS what rules leave undecided.")
    ] = False,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            min=1,
            help="Trajectories at once; default: 32 for each copy of the model.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Stop at a row that cannot be used; default: name it, go on."
        ),
    ] = False,
) -> None:
    """Evaluate a model on VLMEvalKit's TSV files; the same command again goes on after a stop.

    Ends with status 1 where trajectories are missing: something failed on our side, or a row cannot
    be used.
    """
    processes = processes_of_torchrun()
    if not processes:
        return
    quiet_hosts()
    if processes > 1:
        options = _on_all_gpus(options, processes)
    concurrency = options.at_once(concurrency)
    judged_by = judge_settings() if judge else None
    arms = [Arm.NO_TOOLS] if no_tools else _arms(tools)
    settings = options.model_settings(concurrency=concurrency)
    loop = options.loop_settings(settings)
    datasets = [read_tsv(path, strict=strict) for path in data]
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        raise SettingsError(f"--data: two files have the same name ({', '.join(names)})")
    evaluations = [
        Evaluation(
            dataset,
            out / dataset.name if len(datasets) > 1 else out,
            EvalSettings(
                system=options.system_prompt(settings),
                loop=loop,
                style=prompt,
                shuffle=not dataset.cyclic if shuffle is None else shuffle,
                seed=options.seed,
            ),
            describe(settings),
        )
        for dataset in datasets
    ]
    bases = [None if base is None else check_base(e, base) for e in evaluations]
    with exit_on_interrupt():
        results = asyncio.run(
            _evaluate(
                evaluations, bases, settings, arms, runs, limit, judged_by, concurrency, strict
            )
        )
        model_name = Path(settings.model or "model").name or "model"
        for evaluation, (benchmark, _) in zip(evaluations, results, strict=True):
            _say_results(evaluation, benchmark, model_name)
        page = out / "results.html"
        write_results_page(page, [benchmark for benchmark, _ in results], model_name)
        say(f"{page}")
    missing = sum(missing for _, missing in results)
    if missing:
        warn(f"{missing} trajectories are missing, see above; the same command tries them again")
        raise typer.Exit(1)


def _on_all_gpus(options: ModelOptions, processes: int) -> ModelOptions:
    """Return options with a copy of the model for each process that torchrun has started."""
    chosen = options.model_settings(concurrency=1).chosen_engine
    if chosen != "vllm":
        warn(f"torchrun: --engine {chosen} runs in one process, the others have ended")
        return options
    copies = max(1, processes // options.tensor_parallel_size)
    if options.data_parallel_size == 1 and copies > 1:
        say(f"torchrun: --data-parallel-size {copies} in this process, the others have ended")
        return replace(options, data_parallel_size=copies)
    return options


def _arms(text: str) -> list[Arm]:
    """Return the arms that ``--tools`` names, in the order of the tables.

    Raises:
        SettingsError: It names something else.
    """
    arms: set[Arm] = set()
    for name in text.split(","):
        if name.strip() not in _TOOLS:
            raise SettingsError(
                f"--tools must be one of {', '.join(_TOOLS)}, or several of them with commas, "
                f"not {text!r}"
            )
        arms.update(_TOOLS[name.strip()])
    return [arm for arm in OWN if arm in arms]


async def _evaluate(
    evaluations: list[Evaluation],
    bases: list[Path | None],
    settings: ModelSettings,
    arms: list[Arm],
    runs: int,
    limit: int | None,
    judge: JudgeSettings | None,
    concurrency: int,
    strict: bool,
) -> list[tuple[Benchmark, int]]:
    """Run what is not done; return each file's outcomes and how many trajectories are missing.

    Those of rows that were left out are missing too.
    """
    plans = [(e, _jobs(e.dataset, arms, runs, limit)) for e in evaluations]
    todo = [(e, jobs) for e, jobs in plans if any(job.id not in e.records() for job in jobs)]
    if todo:
        await _run(todo, settings, concurrency, strict)
    results = []
    for (evaluation, jobs), base in zip(plans, bases, strict=True):
        done = evaluation.records()
        # What an earlier call did in another arm belongs into the comparison.
        wanted = {job.id for job in jobs}
        all_arms = _jobs(evaluation.dataset, list(OWN), runs, limit)
        known = [job for job in all_arms if job.id in wanted or job.id in done]
        maths = MathsChecker(_MATHS_TIMEOUT_S)
        try:
            found = outcomes(evaluation, known, maths)
            if base is not None:
                others = _jobs(evaluation.dataset, [Arm.BASE], runs, limit)
                found += base_outcomes(evaluation, base, others, maths)
                known += others
        finally:
            maths.close()
        if judge is not None:
            found = await judge_undecided(evaluation.out, found, judge)
        report = build_report(evaluation, known, found)
        if base is not None:
            report["base"] = {"folder": str(base), "model": base_model(base)}
        missing = sum(job.id not in done for job in jobs)
        last = max(job.item.row for job in jobs) if limit else math.inf
        left_out = sum(row <= last for row in evaluation.dataset.problems)
        missing += left_out * len(arms) * runs
        results.append((Benchmark(evaluation.out, report, tuple(found), base), missing))
    return results


def _say_results(evaluation: Evaluation, benchmark: Benchmark, model_name: str) -> None:
    """Write the files of one evaluation and print its table."""
    report = benchmark.report
    write_predictions(
        evaluation.out / "vlmeval", evaluation.dataset, model_name, benchmark.outcomes
    )
    (evaluation.out / "report.json").write_text(
        json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8"
    )
    Console().print(report_table(report))
    seconds = report["times"]["seconds_per_item"]
    if seconds is not None:
        say(f"{seconds:.2f} s per trajectory, waiting for the engine included")
        say(f"intervals: {report['interval']}")
    if "base" in report:
        say(f"base model: {report['base']['model']}, in {report['base']['folder']}")
    for arm in (Arm.BASE, Arm.PLAIN):
        unread = report["results"].get(arm.value, {}).get("undecided_counted_wrong", 0)
        if unread:
            warn(
                f"{TITLES[arm]}: {unread} replies are counted wrong because rules cannot read "
                "them, which flatters the tool; --judge decides them"
            )
    say(f"{evaluation.out / 'report.json'}")
    _name_problems(evaluation)


def _name_problems(evaluation: Evaluation) -> None:
    problems = sorted(evaluation.problems.items())
    for row, reason in problems[:_MOST_NAMED]:
        warn(f"{evaluation.dataset.path}, row {row}: {reason}")
    if len(problems) > _MOST_NAMED:
        rest = len(problems) - _MOST_NAMED
        warn(f"and {rest} rows more that cannot be used, see {evaluation.out / 'report.json'}")


def _jobs(dataset: Dataset, arms: list[Arm], runs: int, limit: int | None) -> list[Job]:
    items = dataset.items[:limit]
    return [Job(item, run, arm) for arm in arms for run in range(1, runs + 1) for item in items]


async def _run(
    todo: list[tuple[Evaluation, list[Job]]],
    settings: ModelSettings,
    concurrency: int,
    strict: bool,
) -> None:
    from swift_thyme.sandbox import open_pool

    started = time.monotonic()
    with Progress(
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        async with (
            open_pool() as pool,
            open_engine(settings) as engine,
        ):
            waited_s = time.monotonic() - started
            say(f"{engine.model_name} is ready after {waited_s:.0f} s", console=bar.console)
            for evaluation, jobs in todo:
                line = bar.add_task(evaluation.dataset.name, total=len(jobs), failed="")

                def show(progress: RunProgress, line: Any = line) -> None:
                    failed = f"[red]{progress.failed} failed[/]" if progress.failed else ""
                    bar.update(line, completed=progress.done, failed=failed)

                await evaluation.run(
                    engine, pool, jobs, concurrency=concurrency, strict=strict, on_progress=show
                )
