"""The one reading of a completion, and that everything which asks gets the same answer."""

import ast
import random
import re
from typing import NamedTuple

import pytest

from swift_thyme.core.loss_mask import split_response
from swift_thyme.core.reading import SpanKind, TagScanner, read
from swift_thyme.core.samples import read_samples
from swift_thyme.core.segment import SegmentKind, split_sampled_text
from swift_thyme.core.summary import TrajectorySummary
from swift_thyme.data.reasons import RowRejected
from swift_thyme.data.response import check_response, output_texts
from swift_thyme.inference.loop import FinishedTrajectory
from swift_thyme.inference.task import make_task
from swift_thyme.rewards.format import follows_format
from swift_thyme.rewards.scoring import executed_share
from swift_thyme.sampling.code_span import CodeSpan, TokenTexts
from swift_thyme.serve.replies import AnswerSplitter
from swift_thyme.view.completions import split_completion
from tests.conftest import ROOT
from tests.core.test_trajectory import ids, make_result, make_trajectory


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ("<code>\n```python\nprint(1)\n```\n</code>", "print(1)"),
        ("<think>look <code>```python\nprint(1)\n```</code>", "print(1)"),
        ("<code>\nprint(1)\n</code>", "print(1)"),
        ("<code>print(1)</code>", "print(1)"),
        ("<CODE>\n```Python\nprint(1)\n```\n</Code>", "print(1)"),
        ("<code>\n```py\nprint(1)\n```\n</code>\n", "print(1)"),
        ("<code>\n```\nprint(1)\n```\n</code>", "print(1)"),
        ("<code>\n```python\nprint(1)\n</code>", "print(1)\n"),
        ("<code>\nprint(1)\n```\n</code>", "print(1)"),
        ("<code>\n```python\n  if x:\n    print(1)\n```\n</code>", "  if x:\n    print(1)"),
        ("<code>a</code><sandbox_output>1</sandbox_output><code>b</code>", "b"),
        ("<code></code>", ""),
    ],
)
def test_a_turn_that_ends_with_a_code_block_has_pending_code(turn: str, code: str) -> None:
    assert read(turn).pending_program == code


@pytest.mark.parametrize(
    "turn",
    [
        "",
        "<think>no code</think><answer>1</answer>",
        "<code>print(1)",
        "print(1)</code>",
        "<code>print(1)</code> and so I see",
        "<sandbox_output><code>print(1)</code></sandbox_output>",
        "<sandbox_output><code>print(1)</code>",
    ],
)
def test_a_turn_without_a_closed_block_at_its_end_has_no_pending_code(turn: str) -> None:
    assert read(turn).pending_program is None


def test_a_tag_that_a_program_prints_is_no_code_block() -> None:
    text = "<code>a</code><sandbox_output><code>b</code></sandbox_output><code>c</code>"
    assert read(text).programs == ("a", "c")
    assert all(text[: block.end].endswith("</code>") for block in read(text).blocks)


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("<code>print(1)", True),
        ("<code>print(1)</code>", False),
        ("<code>a</code> then <Code> b", True),
        ("<sandbox_output><code></sandbox_output>", False),
        ("", False),
    ],
)
def test_an_unclosed_block_is_seen(text: str, is_open: bool) -> None:
    assert read(text).has_open_block is is_open


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>a</think><answer> 47 </answer>", "47"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<ANSWER>B</Answer>", "B"),
        ("<answer>open", None),
        ("47", None),
        ("<sandbox_output><answer>9</answer></sandbox_output>", None),
    ],
)
def test_the_answer_is_what_the_model_wrote_last(completion: str, answer: str | None) -> None:
    assert read(completion).answer == answer


class Hard(NamedTuple):
    """A completion that can be read in several ways, and the one way in which it is read."""

    text: str
    programs: tuple[str, ...] = ()
    answer: str | None = None
    outputs: tuple[str, ...] = ()
    open_block: bool = False
    pending: str | None = None


OUT = "<sandbox_output>1</sandbox_output>"

HARD = {
    "an answer in an unclosed block": Hard(
        '<answer>7</answer><code>print("<answer>5</answer>")', answer="7", open_block=True
    ),
    "an answer in a closed block": Hard(
        '<answer>7</answer><code>print("<answer>5</answer>")</code>',
        programs=('print("<answer>5</answer>")',),
        answer="7",
        pending='print("<answer>5</answer>")',
    ),
    "an answer in an output": Hard(
        "<answer>7</answer><sandbox_output><answer>5</answer></sandbox_output>",
        answer="7",
        outputs=("<answer>5</answer>",),
    ),
    "an answer in an unclosed output": Hard(
        "<answer>7</answer><sandbox_output><answer>5</answer>",
        answer="7",
        outputs=("<answer>5</answer>",),
    ),
    "code in an answer": Hard(
        f"<answer>4 <code>x</code>{OUT} 5</answer>",
        programs=("x",),
        answer="4  5",
        outputs=("1",),
    ),
    "an answer inside an answer": Hard("<answer>a<answer>b</answer></answer>", answer="a<answer>b"),
    "a closed answer and an open one": Hard("<answer>1</answer> or <answer>2", answer="1"),
    "a blank last answer": Hard("<answer>1</answer><answer> </answer>"),
    "an answer that was not opened": Hard("1</answer>"),
    "think tags in an answer": Hard(
        "<answer>a<think>b</think></answer>", answer="a<think>b</think>"
    ),
    "code inside code": Hard("<code>a<code>b</code>c</code>", programs=("a<code>b",), pending=None),
    "an opening tag in a program": Hard(
        "<code>print('<code>')</code>", programs=("print('<code>')",), pending="print('<code>')"
    ),
    "an output inside code": Hard(
        f"<code>a{OUT}b</code>", programs=("ab",), outputs=("1",), pending="ab"
    ),
    "the end of a block inside an output": Hard(
        "<code>a<sandbox_output></code></sandbox_output>", outputs=("</code>",), open_block=True
    ),
    "a block inside an output": Hard(
        "<sandbox_output><code>a</code></sandbox_output>", outputs=("<code>a</code>",)
    ),
    "a block after an unclosed output": Hard(
        "<sandbox_output>1 <code>a</code>", outputs=("1 <code>a</code>",)
    ),
    "a tag made of both sides of an output": Hard(f"<co{OUT}de>a</code>", outputs=("1",)),
    "an output that was not opened": Hard("1</sandbox_output><code>a</code>", ("a",), pending="a"),
    "two outputs in a row": Hard(f"<code>a</code>{OUT}{OUT}", ("a",), None, ("1", "1")),
    "an output inside an output": Hard(
        "<sandbox_output>a<sandbox_output>b</sandbox_output>c",
        outputs=("a<sandbox_output>b",),
    ),
    "blanks in a tag": Hard("<code >a</code><answer >1</answer>"),
    "capitals": Hard(
        "<CODE>a</Code><SANDBOX_OUTPUT>1</Sandbox_Output><ANSWER>x</aNSWER>", ("a",), "x", ("1",)
    ),
    "a Kelvin sign for a k": Hard("<thin\u212a>a</thin\u212a><answer>1</answer>", answer="1"),
    "a long s for an s": Hard("<an\u017fwer>1</an\u017fwer><\u017fandbox_output>2", answer=None),
    "a tag that begins twice": Hard("<<code>a<</code>", ("a<",), pending="a<"),
    "a tag that begins and does not end": Hard("<answer>1</answer><cod", answer="1"),
    "a fence that is not closed": Hard("<code>\n```python\na\n</code>", ("a\n",), pending="a\n"),
    "a fence in a string of a program": Hard(
        "<code>\n```python\nx = '''\n```\n'''\n```\n</code>",
        ("x = '''\n```\n'''",),
        pending="x = '''\n```\n'''",
    ),
    "characters whose lower case is longer": Hard(
        "\u0130\u0130<code>\u0130</code>\u0130<answer>\u0130</answer>", ("\u0130",), "\u0130"
    ),
    "a chat token after the answer": Hard("<answer>1</answer><|im_end|>", answer="1"),
    "nothing": Hard(""),
}


@pytest.fixture(params=HARD, ids=list(HARD))
def hard(request: pytest.FixtureRequest) -> Hard:
    return HARD[request.param]


def written_blocks(case: Hard) -> int:
    return len(case.programs) + case.open_block


def test_a_hard_completion_has_one_reading(hard: Hard) -> None:
    reading = read(hard.text)
    assert reading.programs == hard.programs
    assert reading.answer == hard.answer
    assert tuple(reading.outputs) == hard.outputs
    assert reading.has_open_block is hard.open_block
    assert reading.pending_program == hard.pending
    assert "".join(hard.text[span.start : span.end] for span in reading.spans) == hard.text


@pytest.mark.parametrize("seed", range(20))
def test_reading_token_by_token_gives_the_same_pieces(hard: Hard, seed: int) -> None:
    rng, scanner, position = random.Random(seed), TagScanner(), 0
    kinds: list[SpanKind] = []
    while position < len(hard.text):
        piece = hard.text[position : position + rng.randint(1, 7)]
        position += len(piece)
        kinds += [piece.kind for piece in scanner.push(piece) for _ in piece.text]
    kinds += [piece.kind for piece in scanner.finish() for _ in piece.text]
    spans = read(hard.text).spans
    assert kinds == [span.kind for span in spans for _ in range(span.start, span.end)]


def test_the_sampling_hook_agrees(hard: Hard) -> None:
    texts = TokenTexts(lambda ids: "".join(map(chr, ids)))
    span = CodeSpan()
    mask = span.text_mask(texts, list(map(ord, hard.text)))
    assert span.inside is hard.open_block
    # A character whose mask is 0 came inside a block: the program, an output that interrupts it,
    # and the tag that ends it.
    reading = read(hard.text)
    inside = [0] * len(hard.text)
    for block in reading.blocks:
        begin = block.start + len("<code>")
        inside[begin : block.end] = [1] * (block.end - begin)
    assert [1 - m for m in mask] == inside


SEVEN, ONE = "<answer>7</answer>", "<answer>1</answer>"

FIRST_TURNS = {
    "an answer in an unclosed block": (SEVEN, "answer"),
    "an answer in a closed block": (SEVEN, "answer"),
    "an answer in an output": (SEVEN, "answer"),
    "an answer in an unclosed output": (SEVEN, "answer"),
    "code in an answer": ("<answer>4 <code>x</code>", "x"),
    "an answer inside an answer": ("<answer>a<answer>b</answer>", "answer"),
    "a closed answer and an open one": (ONE, "answer"),
    "a blank last answer": (ONE, "answer"),
    "code inside code": ("<code>a<code>b</code>", "a<code>b"),
    "two outputs in a row": ("<code>a</code>", "a"),
    "capitals": ("<CODE>a</Code>", "a"),
    "a tag that begins and does not end": (ONE, "answer"),
    "characters whose lower case is longer": ("\u0130\u0130<code>\u0130</code>", "\u0130"),
    "a chat token after the answer": (ONE, "answer"),
    # An engine has stopped at the tag, which counts for nothing where it stands.
    "the end of a block inside an output": (None, "goes on"),
    "a block inside an output": (None, "goes on"),
    "a block after an unclosed output": (None, "goes on"),
    "a tag made of both sides of an output": (None, "goes on"),
    "an output inside an output": (None, "end_of_text"),
    "a long s for an s": (None, "end_of_text"),
    "nothing": (None, "end_of_text"),
}
"""What of the text a turn keeps (None: all of it), and what follows: a program that runs, the end
of the trajectory, or another turn. Cases that are missing keep all, and their own program or
answer."""


async def test_the_trajectory_agrees(request: pytest.FixtureRequest, hard: Hard) -> None:
    name = request.node.callspec.params["hard"]
    kept, follows = FIRST_TURNS.get(name, (None, hard.pending or "answer"))
    kept = hard.text if kept is None else kept
    trajectory, session = make_trajectory(make_result())
    outcome = await trajectory.advance(ids(hard.text), "stop")
    assert outcome.kept == len(kept)
    reason = trajectory.summary.end_reason
    assert follows == (reason.value if reason else (*session.codes, "goes on")[0])
    assert outcome.done is (reason is not None)
    if follows != "goes on":
        assert trajectory.summary.blocks_written == len(read(kept).blocks)


def test_the_loss_mask_agrees(hard: Hard) -> None:
    segments = split_response(hard.text)
    assert "".join(segment.text for segment in segments) == hard.text
    masked = [s.text for s in segments if s.text.lower().startswith("<sandbox_output>")]
    assert [re.sub("(?i)^<sandbox_output>|</sandbox_output>$", "", m) for m in masked] == list(
        hard.outputs
    )
    assert not any(s.trained for s in segments if s.text in masked)


def test_the_rewards_agree(hard: Hard) -> None:
    (sample,) = read_samples([hard.text], {})
    assert sample.answer == hard.answer
    assert sample.reading.programs == hard.programs
    assert executed_share(sample) == (None if hard.programs else 0.0)
    if follows_format(hard.text):
        assert hard.answer is not None


def test_evaluation_and_the_viewer_agree(hard: Hard) -> None:
    segments = split_completion(hard.text)
    assert "".join(segment.text for segment in segments) == hard.text
    observations = [s.text for s in segments if s.kind is SegmentKind.OBSERVATION]
    assert len(observations) == len(hard.outputs)
    finished = FinishedTrajectory(
        task=make_task("q"),
        segments=tuple(segment.with_images(()) for segment in segments),
        summary=TrajectorySummary(),
        prompt_tokens=None,
        sampled_tokens=None,
        total_s=0.0,
    )
    assert finished.answer == hard.answer


def test_the_endpoint_and_its_stream_agree(hard: Hard) -> None:
    splitter = AnswerSplitter()
    deltas = [splitter.push(character) for character in hard.text] + [splitter.finish()]
    content = "".join(delta.content for delta in deltas)
    closed = [answer for answer in read(hard.text).answers if answer.closed]
    if len(closed) == len(read(hard.text).answers) == 1:
        assert content.strip() == (hard.answer or "")


def test_the_validation_of_rows_agrees(hard: Hard) -> None:
    assert output_texts(hard.text) == list(hard.outputs)
    try:
        check_response(hard.text)
    except RowRejected:
        return
    assert hard.answer is not None
    assert not hard.open_block


def test_kept_rollouts_agree(hard: Hard) -> None:
    pieces = split_sampled_text(hard.text)
    assert "".join(text for _, text in pieces) == hard.text
    code = [text for kind, text in pieces if kind is SegmentKind.CODE]
    assert len(code) == written_blocks(hard)


def test_no_other_module_matches_tags_by_itself() -> None:
    """Tags are spelled in ``protocol``; a pattern for them stands in ``reading`` alone."""
    names = re.compile(r"</?\??\(?(?:think|code|sandbox_output|answer)\b|_(?:OPEN|CLOSE)\)")
    found = []
    for path in sorted((ROOT / "swift_thyme").rglob("*.py")):
        name = str(path.relative_to(ROOT / "swift_thyme"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_pattern = (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
            )
            if is_pattern and names.search(ast.unparse(node)):
                found.append(f"{name}:{node.lineno}")
    allowed = {
        # Makes every tag harmless in printed text, half a tag and foreign tags included.
        "core/observation.py",
        # The thoughts of a judge, whose replies do not follow the protocol.
        "rewards/replies.py",
        # Tags that a program still has around it.
        "sandbox/text_repair.py",
    }
    assert {item for item in found if item.partition(":")[0] not in allowed} == {
        item for item in found if item.startswith("core/reading.py")
    }
