"""What is shown while a model writes is what it wrote in the end, wherever its tokens end."""

import random
from collections.abc import AsyncGenerator, Sequence

import pytest

from swift_thyme.core.trajectory import TurnOutcome
from swift_thyme.inference.engine import Chunk, Sampling
from swift_thyme.inference.loop import (
    FinishedTrajectory,
    LoopSettings,
    ObservationEvent,
    TextEvent,
    _TextStream,
    run_trajectory,
)
from swift_thyme.inference.task import Task, make_task
from tests.core.test_turn_end import END, PieceCodec

Piece = str | bytes
E, ACUTE = "é".encode()[:1], "é".encode()[1:]
CODE: tuple[Piece, ...] = ("<think>", "<code>", "print(7)", "</", "code")
ANSWER: tuple[Piece, ...] = ("So", ".</think>", "<answer>", "7", "</", "answer")
OBSERVED = "<sandbox_output>Error: code cannot be run here; answer from what you see"
OBSERVED += "</sandbox_output>"


class ScriptedConversation:
    """Says one turn after the other, in chunks of a few pieces."""

    counts_tokens = True
    prompt_tokens = 10
    opening = ""

    def __init__(self, turns: Sequence[Sequence[Piece]], chunk: int) -> None:
        self.codec = PieceCodec()
        self.ids: list[int] = []
        self._turns = list(turns)
        self._chunk = chunk

    @property
    def length(self) -> int:
        return self.prompt_tokens + len(self.ids)

    async def sample(
        self, sampling: Sampling, *, seed: int, max_tokens: int | None, stream: bool
    ) -> AsyncGenerator[Chunk, None]:
        ids = self.codec.ids(self._turns.pop(0))
        for start in range(0, len(ids), self._chunk):
            yield Chunk(ids[start : start + self._chunk])
        yield Chunk([], "stop")

    def extend(self, token_ids: Sequence[int], outcome: TurnOutcome) -> None:
        self.ids += [*token_ids[: outcome.kept], *outcome.appended_ids]


class ScriptedEngine:
    """One conversation."""

    model_name, max_images, max_total_tokens = "scripted", 6, None

    def __init__(self, turns: Sequence[Sequence[Piece]], chunk: int) -> None:
        self.conversation = ScriptedConversation(turns, chunk)

    async def begin(self, task: Task) -> ScriptedConversation:
        return self.conversation

    async def close(self) -> None:
        return


CASES: dict[str, tuple[list[tuple[Piece, ...]], str]] = {
    "tails": (
        [(*CODE, "><"), (*ANSWER, ">.")],
        f"<think><code>print(7)</code>{OBSERVED}So.</think><answer>7</answer>",
    ),
    "an engine that is late": (
        [(*CODE[:4], "cODE", ">", " and", " on"), (*ANSWER, ">", "\n", "more")],
        f"<think><code>print(7)</cODE>{OBSERVED}So.</think><answer>7</answer>",
    ),
    "a tag in a string, and a character in two turns": (
        [
            ("<code>", "print('", "</", "answer", b">" + E),
            (ACUTE, "')", "</", "code", ">."),
            ANSWER,
        ],
        f"<code>print('</answer>é')</code>{OBSERVED}So.</think><answer>7</answer",
    ),
    "a tag in prose": (
        [("I close with ", "</", "code", ">."), (" Or ", "</CODE", ">, so.", END)],
        "I close with </code>. Or </CODE>, so.",
    ),
    "half a character at the end": ([(b"caf" + E, END)], "caf\ufffd"),
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize("name", CASES)
async def test_the_stream_is_the_completion(name: str, chunk: int) -> None:
    turns, completion = CASES[name]
    # A model that means to go on is asked again; here it has nothing more to say.
    engine = ScriptedEngine([*turns, (END,)], chunk)
    task = make_task("?", task_id="t")
    streamed, last = "", None
    async for event in run_trajectory(engine, task, None, LoopSettings(tools=False)):
        if isinstance(event, TextEvent):
            streamed += event.text
        elif isinstance(event, ObservationEvent):
            streamed += event.segment.text
        last = event
    assert isinstance(last, FinishedTrajectory)
    assert last.completion == completion
    assert streamed == completion
    codec = engine.conversation.codec
    said = codec.decode(engine.conversation.ids)
    assert completion.startswith(said)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_size_give_the_text_of_all_ids(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice(["a", "é", "漢", "🙂", "\ufffd", " ", "<"]) for _ in range(60))
    data = text.encode()
    # Some bytes that are no text at all.
    cut = rng.randrange(len(data))
    data = (
        data[:cut] + bytes([rng.randrange(128, 256) for _ in range(rng.randrange(12))]) + data[cut:]
    )
    codec, pieces = PieceCodec(), []
    while data:
        size = rng.randint(1, 5)
        pieces.append(data[:size])
        data = data[size:]
    ids = codec.ids([*pieces, "."])
    stream, parts = _TextStream(codec.decode), []
    while ids:
        n = rng.randint(1, 3)
        parts.append(stream.push(ids[:n]))
        ids = ids[n:]
    assert "".join(parts) == codec.decode(codec.ids([*pieces, "."]))
