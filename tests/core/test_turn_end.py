"""Turns whose tokens do not end where their tags end; tokens are pieces of bytes here."""

from collections.abc import Sequence

import pytest

from swift_thyme.core.codec import EncodedObservation
from swift_thyme.core.repetition import repetition_end
from swift_thyme.core.summary import EndReason
from swift_thyme.core.trajectory import Limits, Trajectory, TurnOutcome
from swift_thyme.core.turn_end import find_turn_end
from swift_thyme.sandbox import Observation
from tests.core.test_trajectory import ScriptedSession, make_result

END = "<|end|>"
CODE = ["<think>", "<code>", "print(7)", "</", "code"]
ANSWER = ["So.", "</think>", "<answer>", "7", "</", "answer"]


class PieceCodec:
    """An id for each piece that is met; text of ours becomes an id per character."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def ids(self, pieces: Sequence[str | bytes]) -> list[int]:
        found = []
        for piece in pieces:
            data = piece.encode() if isinstance(piece, str) else piece
            if data not in self._pieces:
                self._pieces.append(data)
            found.append(self._pieces.index(data))
        return found

    def decode(self, token_ids: Sequence[int]) -> str:
        return b"".join(self._pieces[i] for i in token_ids).decode("utf-8", "replace")

    def is_end_of_text(self, token_id: int) -> bool:
        return self._pieces[token_id] == END.encode()

    def prompt_length(self) -> int:
        return 10

    def encode_text(self, text: str) -> list[int]:
        return self.ids(list(text))

    def encode_observation(self, observation: Observation) -> EncodedObservation:
        ids = self.ids([observation.text])
        return EncodedObservation(ids, len(ids))


class Case:
    """A trajectory over a codec, and what its ids say."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.codec = PieceCodec()
        self.session = ScriptedSession([make_result()] * 4)
        self.ids: list[int] = []
        self.n_trained = 0

        async def open_session() -> ScriptedSession:
            return self.session

        self.trajectory = Trajectory(self.codec, limits or Limits(), open_session)  # type: ignore[arg-type]

    async def turn(self, *pieces: str | bytes, reason: str = "stop") -> TurnOutcome:
        ids = self.codec.ids(pieces)
        outcome = await self.trajectory.advance(ids, reason)
        self.ids += ids[: outcome.kept] + outcome.appended_ids
        self.n_trained += outcome.kept
        return outcome

    @property
    def text(self) -> str:
        return self.codec.decode(self.ids)

    @property
    def end_reason(self) -> EndReason | None:
        return self.trajectory.summary.end_reason


OBSERVED = "<sandbox_output>7</sandbox_output>"


@pytest.mark.parametrize("tail", ["><", ">.", ">The", ">\n\n<", ">\ufffd", ">" + END, "> x"])
async def test_a_token_that_carries_more_gives_way_to_the_rest_of_the_tag(tail: str) -> None:
    case = Case()
    outcome = await case.turn(*CODE, tail)
    assert not outcome.done
    assert outcome.kept == len(CODE)
    assert case.session.codes == ["print(7)"]
    assert case.text == "".join(CODE) + ">" + OBSERVED
    assert outcome.closing_ids == case.codec.ids([">"])
    outcome = await case.turn(*ANSWER, tail)
    assert outcome.done
    assert case.end_reason is EndReason.ANSWER
    assert case.text.endswith("<answer>7</answer>")
    summary = case.trajectory.summary
    assert summary.boundary_repairs == 2
    assert summary.sampled_tokens == case.n_trained == len(CODE) + len(ANSWER)
    block = summary.blocks[0]
    assert case.codec.decode(case.ids[block.offset : block.offset + block.n_ids]) == OBSERVED


@pytest.mark.parametrize("tail", [">", ">\n", ">  \n"])
async def test_a_token_with_nothing_but_blanks_stays(tail: str) -> None:
    case = Case()
    outcome = await case.turn(*CODE, tail)
    assert outcome.kept == len(CODE) + 1
    assert outcome.closing_ids == []
    assert case.text == "".join(CODE) + tail + OBSERVED
    assert case.trajectory.summary.boundary_repairs == 0


@pytest.mark.parametrize("tags", [("</", "Code"), ("</", "cODe"), ("</CODE",), ("<", "/", "coDE")])
@pytest.mark.parametrize("late", [(), (" and",), ("\n", " so", " on", END)])
@pytest.mark.parametrize("tail", [">", ">.", ">\n"])
async def test_what_a_late_engine_samples_after_the_tag_is_left_out(
    tags: tuple[str, ...], late: tuple[str, ...], tail: str
) -> None:
    case = Case()
    head = [*CODE[:3], *tags]
    await case.turn(*head, tail, *late, reason="length" if late == (" and",) else "stop")
    assert case.session.codes == ["print(7)"]
    kept = tail if not tail.strip(">\n") else ">"
    assert case.text == "".join(head) + kept + OBSERVED


async def test_the_missing_piece_may_be_several_ids() -> None:
    case = Case()
    outcome = await case.turn("<think><code>", "print(7)", "</code>.")
    assert case.session.codes == ["print(7)"]
    assert len(outcome.closing_ids) == len("</code>")
    assert case.text == "<think><code>print(7)</code>" + OBSERVED
    assert case.trajectory.summary.blocks[0].offset == 2 + len("</code>")


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
async def test_a_missing_piece_that_finds_no_room_is_a_length_limit(spare: int, fits: bool) -> None:
    case = Case(Limits(max_total_tokens=10 + 2 + len("</answer>") + spare))
    outcome = await case.turn("<answer>", "7", "</answer>.")
    assert outcome.done
    assert case.end_reason is (EndReason.ANSWER if fits else EndReason.LENGTH_LIMIT)
    assert case.text == "<answer>7" + "</answer>" * fits
    assert case.trajectory.summary.boundary_repairs == fits


async def test_a_token_that_also_ends_a_character_takes_the_whole_character_along() -> None:
    case = Case()
    e, acute = "é".encode()[:1], "é".encode()[1:]
    outcome = await case.turn("<code>", b"#" + e, acute + b"</code>.")
    assert case.session.codes == ["#é"]
    assert outcome.kept == 1
    assert case.text == "<code>#é</code>" + OBSERVED


async def test_ids_of_earlier_turns_stay_also_where_they_end_inside_a_character() -> None:
    case = Case()
    e, acute = "é".encode()[:1], "é".encode()[1:]
    await case.turn("<code>", "print('", b"</answer>" + e)
    outcome = await case.turn(acute + b"')</code>.")
    assert case.session.codes == ["print('</answer>é')"]
    assert (outcome.kept, case.codec.decode(outcome.closing_ids)) == (0, "')</code>")


@pytest.mark.parametrize(
    "first",
    [
        ("I close with ", "</", "code", ">."),
        ("I close with ", "</", "code", ">.", " late", " ones"),
        ("<code>", "print('", "</", "answer", ">')"),
        ("<sandbox_output>", "</", "code", ">,"),
    ],
)
async def test_a_tail_behind_a_tag_that_ends_nothing_stays(first: tuple[str, ...]) -> None:
    case = Case()
    outcome = await case.turn(*first)
    assert (outcome.done, outcome.kept, outcome.appended_ids) == (False, len(first), [])
    assert case.session.codes == []
    assert case.text == "".join(first)


async def test_a_program_with_such_a_tail_runs_whole_in_the_next_turn() -> None:
    case = Case()
    await case.turn("<code>", "print('", "</", "answer", ">')")
    await case.turn("\nprint(7)", "</", "code", "><")
    assert case.session.codes == ["print('</answer>')\nprint(7)"]


async def test_a_turn_may_end_inside_a_character() -> None:
    case = Case()
    first, second = "é".encode()[:1], "é".encode()[1:]
    await case.turn("<code>x = '", "</", "answer", b">" + first)
    await case.turn(second + b"'", "</", "code", ">")
    assert case.session.codes == ["x = '</answer>é'"]


async def test_a_stray_tag_of_an_unusual_spelling_ends_no_turn_and_hides_no_end() -> None:
    case = Case()
    outcome = await case.turn("As </cODE>", " says", END)
    assert outcome.done
    assert case.end_reason is EndReason.END_OF_TEXT


async def test_a_tag_within_the_limits_wins_and_one_beyond_them_is_cut() -> None:
    case = Case(Limits(max_sampled_tokens=len(ANSWER) + 1))
    await case.turn(*ANSWER, ">.", " late", reason="length")
    assert case.end_reason is EndReason.ANSWER
    case = Case(Limits(max_sampled_tokens=len(ANSWER)))
    outcome = await case.turn(*ANSWER, ">.")
    assert case.end_reason is EndReason.LENGTH_LIMIT
    assert (outcome.kept, outcome.closing_ids) == (len(ANSWER), [])


async def test_a_loop_before_the_tag_is_a_loop_and_one_after_it_is_none() -> None:
    loop = ["<think>", "<code>", *["x = 1\n"] * 700]
    case = Case()
    n_sampled = repetition_end(case.codec.ids(loop))
    assert n_sampled is not None
    outcome = await case.turn(*loop, "</", "code", ">.")
    assert (case.end_reason, outcome.kept) == (EndReason.REPETITION, n_sampled)
    assert case.trajectory.summary.blocks_written == 1
    case = Case()
    await case.turn(*CODE, ">.", *loop[2:])
    assert case.end_reason is None
    assert case.session.codes == ["print(7)"]


async def test_the_last_turn_ends_with_its_tag_too() -> None:
    case = Case(Limits(max_turns=1))
    outcome = await case.turn(*CODE, "><")
    assert outcome.done
    assert case.end_reason is EndReason.TURN_LIMIT
    assert case.text == "".join(CODE) + ">"


def test_an_end_that_is_far_back_is_found_without_decoding_every_beginning() -> None:
    codec = PieceCodec()
    ids = codec.ids([*CODE, ">.", *[f" w{n}" for n in range(3000)]])
    n_decoded = 0

    def decode(token_ids: Sequence[int]) -> str:
        nonlocal n_decoded
        n_decoded += 1
        return codec.decode(token_ids)

    end = find_turn_end(decode, [], ids)
    assert (end.sampled, end.kept, end.missing) == (len(CODE) + 1, len(CODE), ">")
    assert n_decoded < 20
