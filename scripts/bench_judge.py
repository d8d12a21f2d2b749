#!/usr/bin/env python
"""How close the judge client comes to the ideal: pairs x latency / concurrency.

Each judge is a process of its own on this machine that answers after a fixed time. The ideal of a
case counts the servers that are alive. "bare s" is what the plainest client needs that keeps one
connection per place and reads nothing but lengths: what the machine allows. With --check the exit
status is 1 when a case takes more than its limit (1.2 x ideal, 1.5 x with a dead server) or loses a
verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from swift_thyme.core.samples import Sample
from swift_thyme.rewards.judge import Judge
from swift_thyme.rewards.metrics import RewardMetrics
from swift_thyme.rewards.questions import ask_answer
from swift_thyme.rewards.reward_settings import JudgeSettings


@dataclass(frozen=True)
class Case:
    name: str
    alive: int
    refusing: int = 0
    silent: int = 0
    limit: float = 1.2


CASES = (
    Case("1 server", 1),
    Case("4 servers", 4),
    Case("4 servers, 1 refuses connections", 3, refusing=1, limit=1.5),
    Case("4 servers, 1 accepts and never replies", 3, silent=1, limit=1.5),
)


@dataclass(frozen=True)
class Result:
    name: str
    pairs: int
    verdicts: int
    ideal_s: float
    wall_s: float
    bare_s: float
    """Time of a client that does nothing but send and receive."""
    ratio: float
    ratio_all_servers: float
    """Against an ideal that counts the dead server too."""
    limit: float
    requests: float
    p50_s: float
    p95_s: float

    @property
    def passed(self) -> bool:
        return self.verdicts == self.pairs and self.ratio <= self.limit


def start_server(stack: ExitStack, latency_s: float) -> str:
    command = [sys.executable, "-m", "swift_thyme.rewards.local_judge", "--latency", str(latency_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def bound_port(stack: ExitStack, listen: bool) -> str:
    """Return the URL of a port that refuses connections, or takes them and stays silent."""
    held = stack.enter_context(socket.socket())
    held.bind(("127.0.0.1", 0))
    if listen:
        held.listen(1024)
    return f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def questions(count: int, run: int) -> list[Sample]:
    return [
        Sample(
            completion=f"<think>t</think><answer>a shade of grey, number {index}</answer>",
            question=f"Which colour has item {index} of run {run}?",
            references=("grey",),
        )
        for index in range(count)
    ]


async def ask_all(judge: Judge, samples: list[Sample]) -> int:
    session = judge.session()
    asked = (session.ask(ask_answer(sample, judge.settings)) for sample in samples)
    scores = await asyncio.gather(*asked)
    await session.close()
    return sum(score is not None for score in scores)


async def bare(urls: list[str], body: bytes, count: int, concurrency: int) -> None:
    left = count

    async def place(url: str) -> None:
        nonlocal left
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        while left > 0:
            left -= 1
            writer.write(head.encode() + body)
            reply = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(reply.split(b"content-length:")[1].split()[0]))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(place(url) for url in urls for _ in range(concurrency)))


def measure(case: Case, pairs: int, latency_s: float, concurrency: int, repeats: int) -> Result:
    walls, bares, verdicts = [], [], pairs
    with ExitStack() as stack:
        urls = [bound_port(stack, listen=False) for _ in range(case.refusing)]
        urls += [bound_port(stack, listen=True) for _ in range(case.silent)]
        alive = [start_server(stack, latency_s) for _ in range(case.alive)]
        urls += alive
        metrics = RewardMetrics()
        judge = Judge(JudgeSettings(urls=tuple(urls), concurrency=concurrency), metrics)
        # A step before the measured ones, as in a training run: it learns the models' names.
        asyncio.run(ask_all(judge, questions(concurrency, run=-1)))
        metrics.drain()
        for run in range(repeats):
            samples = questions(pairs, run)
            if case.refusing or case.silent:
                # The dead server must be met anew, not still be resting from the step before.
                for endpoint in judge.endpoints:
                    endpoint.succeeded()
            started = time.perf_counter()
            verdicts = min(verdicts, asyncio.run(ask_all(judge, samples)))
            walls.append(time.perf_counter() - started)
            # Next to each other, so that both meet the same load of the machine.
            messages = ask_answer(samples[0], judge.settings).messages()
            body = json.dumps({"model": "local-judge", "messages": messages}).encode()
            started = time.perf_counter()
            asyncio.run(bare(alive, body, pairs, concurrency))
            bares.append(time.perf_counter() - started)
        seen = metrics.drain()
    # The best run, as in timeit: slower ones tell about other processes on the machine.
    wall_s = min(walls)
    ideal_s = pairs * latency_s / (concurrency * case.alive)
    all_servers = case.alive + case.refusing + case.silent
    return Result(
        name=case.name,
        pairs=pairs,
        verdicts=verdicts,
        ideal_s=ideal_s,
        wall_s=wall_s,
        bare_s=min(bares),
        ratio=wall_s / ideal_s,
        ratio_all_servers=wall_s * all_servers / (ideal_s * case.alive),
        limit=case.limit,
        requests=seen["judge_requests"] / repeats,
        p50_s=seen["judge_latency_p50"],
        p95_s=seen["judge_latency_p95"],
    )


def table(results: list[Result]) -> str:
    titles = "case,pairs,verdicts,ideal s,bare s,wall s,ratio,limit,requests,p50 s,p95 s".split(",")
    rows = [titles, ["---"] * len(titles)]
    for r in results:
        times = [f"{value:.2f}" for value in (r.ideal_s, r.bare_s, r.wall_s, r.ratio)]
        latencies = [f"{value:.3f}" for value in (r.p50_s, r.p95_s)]
        counts = [str(r.pairs), str(r.verdicts)]
        rows.append([r.name, *counts, *times, str(r.limit), f"{r.requests:.0f}", *latencies])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds per reply")
    parser.add_argument("--concurrency", type=int, default=8, help="requests per server")
    parser.add_argument("--repeats", type=int, default=5, help="runs per case; the best counts")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a limit is exceeded")
    options = parser.parse_args()
    results = [
        measure(case, options.pairs, options.latency, options.concurrency, options.repeats)
        for case in CASES
    ]
    print(table(results))
    if options.json is not None:
        report = {
            "python": platform.python_version(),
            "latency_s": options.latency,
            "concurrency": options.concurrency,
            "repeats": options.repeats,
            "results": [asdict(result) | {"passed": result.passed} for result in results],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.check and not all(result.passed for result in results):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
