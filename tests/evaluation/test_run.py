"""Runs with a scripted model: what is counted as what, and what a folder refuses."""

import asyncio
import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from swift_thyme.core.errors import DataError, EngineError, SettingsError
from swift_thyme.evaluation.arms import PLAIN_REPLY, Arm
from swift_thyme.evaluation.judging import judge_undecided
from swift_thyme.evaluation.outcome import outcomes
from swift_thyme.evaluation.results import build_report
from swift_thyme.evaluation.run import EvalSettings, Evaluation, Job
from swift_thyme.evaluation.tsv import read_tsv
from swift_thyme.evaluation.vlmeval_files import write_predictions
from swift_thyme.inference.loop import LoopSettings
from swift_thyme.rewards.local_judge import LocalJudge
from swift_thyme.rewards.reward_settings import JudgeSettings
from swift_thyme.sandbox import SandboxPool, SandboxSettings
from tests.inference.builders import ScriptedServer, image_bytes

from .builders import IMAGE, row, write_tsv

NO_POOL = SandboxPool(SandboxSettings(workers=1))


def answer(text: str) -> str:
    return f"<think>I see.</think><answer>{text}</answer>"


def make_evaluation(folder: Path, n: int = 4, **settings: Any) -> Evaluation:
    folder.mkdir(exist_ok=True)
    dataset = read_tsv(write_tsv(folder / "plain.tsv", [row(i) for i in range(n)]))
    settings = {"system": "S", "loop": LoopSettings(), "shuffle": False, **settings}
    return Evaluation(dataset, folder / "out", EvalSettings(**settings), {"model": "scripted"})


def make_jobs(evaluation: Evaluation, *arms: Arm) -> list[Job]:
    return [Job(item, 1, arm) for arm in arms or (Arm.TOOLS,) for item in evaluation.dataset.items]


async def run(
    evaluation: Evaluation, turns: list[Any], jobs: list[Job], *, strict: bool = False
) -> Any:
    engine = await ScriptedServer(turns).engine()
    try:
        return await evaluation.run(engine, NO_POOL, jobs, concurrency=1, strict=strict)
    finally:
        await engine.close()


async def test_right_wrong_unanswered_and_undecided_are_told_apart(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path)
    jobs = make_jobs(evaluation)
    turns = [answer("A"), answer("green"), "I cannot tell.", answer("a warm colour")]
    await run(evaluation, turns, jobs)
    found = outcomes(evaluation, jobs)
    assert [o.score for o in found] == [1.0, 0.0, 0.0, 0.0]
    results = build_report(evaluation, jobs, found)["results"]["tools"]
    assert results["accuracy"]["mean"] == 0.25
    assert results["unanswered"] == 0.25
    assert (results["undecided_by_rules"], results["undecided_counted_wrong"]) == (1, 1)
    assert results["missing"] == 0
    assert results["by_category"]["category"]["even"]["mean"] == 0.5
    assert results["by_category"]["category"]["odd"]["mean"] == 0.0
    records = evaluation.records().values()
    assert [r.rewards["correct"] for r in records] == [1.0, 0.0, 0.0, None]
    files = write_predictions(tmp_path / "v", evaluation.dataset, "m", found)
    lines = files[0].read_text().splitlines()
    assert lines[0].endswith('"prediction"')
    assert [line.rpartition("\t")[2] for line in lines[1:]] == [
        '"A"',
        '"B"',
        '""',
        '"a warm colour"',
    ]


async def test_a_failure_of_ours_is_missing_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(body: Any) -> httpx.Response:
        return httpx.Response(403, text="no")

    evaluation = make_evaluation(tmp_path)
    jobs = make_jobs(evaluation)
    progress = await run(evaluation, [answer("A"), refuse, answer("A"), answer("B")], jobs)
    assert progress == (3, 1, 4)
    results = build_report(evaluation, jobs, outcomes(evaluation, jobs))["results"]["tools"]
    assert (results["missing"], results["trajectories"]) == (1, 3)
    assert results["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert await run(evaluation, [answer("A")], jobs) == (4, 0, 4)
    assert len(evaluation.records()) == 4


async def test_a_broken_sandbox_is_missing_too(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path, n=1)
    jobs = make_jobs(evaluation)
    pool = SandboxPool(SandboxSettings(workers=1))
    pool.close()
    engine = await ScriptedServer(["<think><code>print(1)</code>"]).engine()
    assert await evaluation.run(engine, pool, jobs, concurrency=1) == (0, 1, 1)
    assert evaluation.records() == {}
    await engine.close()


async def test_a_row_that_cannot_be_used_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    whole = base64.b64decode(IMAGE)
    cut = base64.b64encode(whole[: len(whole) - 30]).decode()
    thin = base64.b64encode(image_bytes((900, 3))).decode()
    rows = [row(0), row(1, image=cut), row(2, answer="E"), row(3, image=thin), row(4)]
    dataset = read_tsv(write_tsv(tmp_path / "bad.tsv", rows))
    settings = EvalSettings(system="S", loop=LoopSettings(), shuffle=False)
    evaluation = Evaluation(dataset, tmp_path / "out", settings, {"model": "scripted"})
    jobs = make_jobs(evaluation)
    assert await run(evaluation, [answer("A"), answer("B")], jobs) == (2, 2, 4)
    report = build_report(evaluation, jobs, outcomes(evaluation, jobs))
    assert report["results"]["tools"]["trajectories"] == 2
    named = {problem["row"]: problem["reason"] for problem in report["unusable_rows"]}
    assert list(named) == [2, 3, 4]
    assert "cannot be decoded" in named[2]
    assert "not one of the options" in named[3]
    assert "aspect ratio" in named[4]
    assert await run(evaluation, [], jobs) == (2, 2, 4), "they are tried again"
    with pytest.raises(DataError, match=r"bad\.tsv, row 2: .*cannot be decoded"):
        await run(evaluation, [], jobs, strict=True)


async def test_many_bad_rows_are_no_failures_in_a_row(tmp_path: Path) -> None:
    cut = base64.b64encode(base64.b64decode(IMAGE)[:-30]).decode()
    rows = [*(row(i, image=cut) for i in range(20)), row(20)]
    dataset = read_tsv(write_tsv(tmp_path / "bad.tsv", rows))
    settings = EvalSettings(system="S", loop=LoopSettings(), shuffle=False)
    evaluation = Evaluation(dataset, tmp_path / "out", settings, {"model": "scripted"})
    assert await run(evaluation, [answer("A")], make_jobs(evaluation)) == (1, 20, 21)


async def test_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    def refuse(body: Any) -> httpx.Response:
        return httpx.Response(401, text="who are you")

    evaluation = make_evaluation(tmp_path, n=12)
    with pytest.raises(EngineError, match=r"8 trajectories in a row failed.*who are you"):
        await run(evaluation, [refuse] * 12, make_jobs(evaluation))


async def test_the_effect_of_the_tool_is_that_of_pairs_against_each_baseline(
    tmp_path: Path,
) -> None:
    evaluation = make_evaluation(tmp_path, n=4)
    jobs = make_jobs(evaluation, Arm.TOOLS, Arm.PLAIN, Arm.NO_TOOLS)
    turns = [answer("A"), answer("A"), answer("blue"), answer("green")]
    turns += ["A", "B", "A", "B"]
    turns += ["I cannot tell."] * 4
    await run(evaluation, turns, jobs)
    results = build_report(evaluation, jobs, outcomes(evaluation, jobs))["results"]
    plain, refused = results["effects"]["plain"], results["effects"]["no-tools"]
    kinds = ("both_right", "only_with", "only_without", "neither")
    assert [plain[kind] for kind in kinds] == [1, 1, 1, 1]
    assert plain["difference"]["mean"] == 0.0
    assert [refused[kind] for kind in kinds] == [0, 2, 0, 2]
    assert refused["difference"]["mean"] == 0.5
    assert plain["answers_that_change"]["mean"] == 0.5, "green is option B"
    assert refused["answers_that_change"]["mean"] == 1.0
    even = refused["by_category"]["category"]["even"]
    assert (even["difference"]["mean"], even["difference"]["n"]) == (0.5, 2)
    assert results["no-tools"]["unanswered"] == 1.0


async def test_pairs_without_a_score_on_both_sides_are_left_out(tmp_path: Path) -> None:
    def refuse(body: Any) -> httpx.Response:
        return httpx.Response(403, text="no")

    evaluation = make_evaluation(tmp_path, n=3)
    jobs = make_jobs(evaluation, Arm.TOOLS, Arm.PLAIN)
    await run(evaluation, [answer("A"), refuse, answer("A"), "B", "B", "some colour"], jobs)
    found = outcomes(evaluation, jobs)
    found = [dataclasses.replace(o, judge_failed="some" in str(o.record.answer)) for o in found]
    results = build_report(evaluation, jobs, found)["results"]
    assert results["effects"]["plain"]["difference"]["n"] == 1
    assert list(results["effects"]) == ["plain"]


async def test_a_plain_prompt_mentions_no_code_and_its_reply_is_the_answer(
    tmp_path: Path,
) -> None:
    evaluation = make_evaluation(tmp_path, n=6)
    jobs = make_jobs(evaluation, Arm.PLAIN)
    replies = [
        "A",
        "<think>Red or green?</think>\n\nred",
        answer("A"),
        "<think>It never ends",
        "<think>I crop it.<code>print(1)</code>",
        "a warm colour",
    ]
    script = ScriptedServer(replies)
    engine = await script.engine()
    await evaluation.run(engine, NO_POOL, jobs, concurrency=1)
    await engine.close()
    assert len(script.bodies) == 6, "one turn each: nothing is run, nothing is refused"
    for body in script.bodies:
        (message,) = body["messages"]
        (text,) = [part["text"] for part in message["content"] if part["type"] == "text"]
        assert text.strip().endswith(
            f"Please select the correct answer from the options above.\n{PLAIN_REPLY}"
        )
        assert not re.search("code|python|tool|sandbox|think|path", text, re.IGNORECASE)
    found = outcomes(evaluation, jobs)
    assert [o.record.answer for o in found] == ["A", "red", "A", None, None, "a warm colour"]
    assert [o.score for o in found] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert [o.record.tool_used for o in found] == [False] * 6
    results = build_report(evaluation, jobs, found)["results"]["plain"]
    assert results["unanswered"] == pytest.approx(2 / 6)
    assert results["undecided_by_rules"] == 1
    with LocalJudge() as judge:
        settings = JudgeSettings(urls=(judge.url,), model="local")
        judged = await judge_undecided(evaluation.out, found, settings)
    assert judged[5].judged in (0.0, 1.0)
    (file, *_) = write_predictions(tmp_path / "v", evaluation.dataset, "m", found)
    assert file.name == "m-plain_plain.tsv"


async def test_a_folder_from_before_the_plain_prompt_goes_on(tmp_path: Path) -> None:
    first = make_evaluation(tmp_path, n=1)
    await run(first, [answer("A")], make_jobs(first))
    path = first.out / "run.json"
    known = json.loads(path.read_text())
    assert known.pop("plain_prompt") == PLAIN_REPLY
    path.write_text(json.dumps(known))
    again = make_evaluation(tmp_path, n=1)
    jobs = make_jobs(again, Arm.TOOLS, Arm.PLAIN)
    assert await run(again, ["B"], jobs) == (2, 0, 2)
    assert json.loads(path.read_text())["plain_prompt"] == PLAIN_REPLY
    path.write_text(json.dumps(known | {"plain_prompt": "Reply at length."}))
    with pytest.raises(DataError, match=r'plain_prompt was "Reply at length\."'):
        make_evaluation(tmp_path, n=1)
    path.write_text("[1]")
    with pytest.raises(DataError, match=r"run\.json is not JSON of ours"):
        make_evaluation(tmp_path, n=1)


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    make_evaluation(tmp_path)
    make_evaluation(tmp_path)
    with pytest.raises(DataError, match="seed was 0, is 1"):
        make_evaluation(tmp_path, seed=1)
    with pytest.raises(DataError, match="data_sha256 was"):
        make_evaluation(tmp_path, n=3)


async def test_two_evaluations_do_not_share_a_folder(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path, n=1)
    waiting, go_on = asyncio.Event(), asyncio.Event()

    class Waits(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            waiting.set()
            await go_on.wait()
            yield b"data: [DONE]\n\n"

    hang = [lambda body: httpx.Response(200, stream=Waits())]
    first = asyncio.ensure_future(run(evaluation, hang, make_jobs(evaluation)))
    await waiting.wait()
    with pytest.raises(DataError, match="another evaluation is running"):
        await run(evaluation, [], make_jobs(evaluation))
    go_on.set()
    await first


async def test_a_judge_decides_what_rules_leave_open_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = make_evaluation(tmp_path, n=2)
    jobs = make_jobs(evaluation)
    await run(evaluation, [answer("A"), answer("a warm colour")], jobs)
    found = outcomes(evaluation, jobs)
    monkeypatch.delenv("THYME_JUDGE_URLS", raising=False)
    with pytest.raises(SettingsError, match="--judge needs THYME_JUDGE_URLS"):
        await judge_undecided(evaluation.out, found)
    with LocalJudge() as judge:
        monkeypatch.setenv("THYME_JUDGE_URLS", judge.url)
        monkeypatch.setenv("THYME_JUDGE_MODEL", "local")
        judged = await judge_undecided(evaluation.out, found)
    assert judged[0] is found[0]
    assert judged[1].judged in (0.0, 1.0)
    lines = (evaluation.out / "verdicts.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [jobs[1].id]
    # The judge is gone; what it said is known.
    assert await judge_undecided(evaluation.out, found) == judged
    results = build_report(evaluation, jobs, judged)["results"]["tools"]
    assert (results["undecided_by_rules"], results["undecided_counted_wrong"]) == (1, 0)


async def test_a_judge_that_fails_gives_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = make_evaluation(tmp_path, n=2)
    jobs = make_jobs(evaluation)
    await run(evaluation, [answer("A"), answer("a warm colour")], jobs)
    monkeypatch.setenv("THYME_JUDGE_URLS", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("THYME_JUDGE_OUTAGE_S", "0.2")
    judged = await judge_undecided(evaluation.out, outcomes(evaluation, jobs))
    assert [o.score for o in judged] == [1.0, None]
    results = build_report(evaluation, jobs, judged)["results"]["tools"]
    assert results["judge_failed"] == 1
    assert results["accuracy"]["mean"] == 1.0
