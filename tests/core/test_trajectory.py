"""One trajectory; a character-level codec and a scripted sandbox session stand in."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from swift_thyme.core.codec import EncodedObservation
from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.repetition import repetition_end
from swift_thyme.core.rollout_infos import write_infos
from swift_thyme.core.summary import EndReason
from swift_thyme.core.trajectory import Limits, Trajectory
from swift_thyme.sandbox import ExecutionResult, ExecutionStatus, Observation, ReturnedImage

END = 0
NO_LIMITS = Limits()
IMAGE_TOKENS = 10
PICTURE = ReturnedImage(data=b"png", width=56, height=56, name="a.png")


class CharacterCodec:
    """One id per character; id 0 ends a text; an image is one id that expands to ten."""

    def __init__(self, prompt_length: int = 20) -> None:
        self._prompt_length = prompt_length

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join("<|end|>" if i == END else chr(i) for i in token_ids)

    def is_end_of_text(self, token_id: int) -> bool:
        return token_id == END

    def prompt_length(self) -> int:
        return self._prompt_length

    def encode_text(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def encode_observation(self, observation: Observation) -> EncodedObservation:
        ids = [ord(c) for c in observation.text.replace("<image>", "\u25a0")]
        extra = (IMAGE_TOKENS - 1) * len(observation.images)
        return EncodedObservation(ids, len(ids) + extra)


@dataclass
class ScriptedSession:
    """Gives the results of a script, one per block."""

    results: list[ExecutionResult | Exception]
    codes: list[str] = field(default_factory=list)
    closed: int = 0

    async def run(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        self.codes.append(code)
        result = self.results[len(self.codes) - 1]
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        self.closed += 1


def make_result(
    text: str = "7", *, images: int = 0, status: ExecutionStatus = ExecutionStatus.OK
) -> ExecutionResult:
    parts = ([text] if text else []) + [PICTURE] * images
    return ExecutionResult(
        status=status, parts=tuple(parts), error=None if status is ExecutionStatus.OK else "E"
    )


def make_trajectory(
    *results: ExecutionResult | Exception, limits: Limits = NO_LIMITS, prompt_images: int = 1
) -> tuple[Trajectory, ScriptedSession]:
    session = ScriptedSession(list(results))

    async def open_session() -> ScriptedSession:
        return session

    return (
        Trajectory(CharacterCodec(), limits, open_session, prompt_images=prompt_images),  # type: ignore[arg-type]
        session,
    )


def ids(text: str, *, end: bool = False) -> list[int]:
    return [ord(c) for c in text] + [END] * end


async def test_an_answer_ends_the_trajectory_without_a_sandbox() -> None:
    trajectory, session = make_trajectory()
    outcome = await trajectory.advance(ids("<think>x</think><answer>4</answer>"), "stop")
    assert outcome.done
    assert trajectory.summary.end_reason is EndReason.ANSWER
    assert session.codes == []
    assert trajectory.summary.tool_used is False


async def test_a_block_runs_and_its_output_follows_in_the_same_turn() -> None:
    trajectory, session = make_trajectory(make_result("", images=1))
    outcome = await trajectory.advance(ids("<think><code>\nprint(1)\n</code>"), "stop")
    assert not outcome.done
    assert session.codes == ["print(1)"]
    text = CharacterCodec().decode(outcome.observation_ids)
    assert text == "<sandbox_output>\u25a0</sandbox_output>"
    assert outcome.images == (PICTURE,)
    outcome = await trajectory.advance(ids("</think><answer>4</answer>", end=True), "stop")
    assert outcome.done
    infos = write_infos(trajectory.summary)
    assert infos["thyme_turns"] == 2
    assert infos["thyme_blocks"] == infos["thyme_blocks_ran"] == infos["thyme_images"] == 1
    assert infos["thyme_tool_used"] is True
    assert infos["thyme_statuses"] == ["ok"]
    assert infos["thyme_end_reason"] == "answer"
    assert session.closed == 1


async def test_an_answer_followed_by_the_end_token_is_an_answer() -> None:
    trajectory, _ = make_trajectory()
    await trajectory.advance(ids("<answer>4</answer>"), "stop")
    assert trajectory.summary.end_reason is EndReason.ANSWER


async def test_a_failing_block_is_an_observation_but_no_tool_use() -> None:
    trajectory, _ = make_trajectory(make_result("half", status=ExecutionStatus.ERROR))
    outcome = await trajectory.advance(ids("<code>1/0</code>"), "stop")
    assert not outcome.done
    assert "half" in CharacterCodec().decode(outcome.observation_ids)
    assert trajectory.summary.statuses == ["error"]
    assert trajectory.summary.blocks_ran == 0
    assert not trajectory.summary.tool_used


async def test_a_broken_sandbox_ends_this_trajectory_only_and_writes_nothing() -> None:
    trajectory, session = make_trajectory(SandboxUnavailableError("gone"))
    outcome = await trajectory.advance(ids("<code>1</code>"), "stop")
    assert outcome.done
    assert outcome.observation_ids == []
    assert trajectory.summary.end_reason is EndReason.SANDBOX_FAILURE
    assert trajectory.summary.statuses == []
    assert session.closed == 1


async def test_the_last_turns_block_does_not_run_because_nobody_could_read_it() -> None:
    trajectory, session = make_trajectory(make_result(), limits=Limits(max_turns=2))
    await trajectory.advance(ids("<code>1</code>"), "stop")
    outcome = await trajectory.advance(ids("<code>2</code>"), "stop")
    assert outcome.done
    assert trajectory.summary.end_reason is EndReason.TURN_LIMIT
    assert session.codes == ["1"]
    assert trajectory.summary.blocks_written == 2


async def test_a_length_limit_in_the_middle_of_a_block_counts_the_block() -> None:
    trajectory, session = make_trajectory()
    outcome = await trajectory.advance(ids("<think><code>print("), "length")
    assert outcome.done
    assert trajectory.summary.end_reason is EndReason.LENGTH_LIMIT
    assert trajectory.summary.blocks_written == 1
    assert session.codes == []


async def test_images_over_the_limit_end_the_trajectory_as_a_whole() -> None:
    trajectory, _ = make_trajectory(
        make_result("", images=1), make_result("", images=2), limits=Limits(max_images=3)
    )
    assert not (await trajectory.advance(ids("<code>1</code>"), "stop")).done
    outcome = await trajectory.advance(ids("<code>2</code>"), "stop")
    assert outcome.done
    assert outcome.images == ()
    assert trajectory.summary.end_reason is EndReason.IMAGE_LIMIT
    assert trajectory.summary.images == 1


async def test_images_that_were_only_saved_never_end_a_trajectory() -> None:
    saved = replace(PICTURE, printed=False)
    both = ExecutionResult(
        ExecutionStatus.OK, images=(saved, saved, PICTURE), parts=(saved, replace(saved), PICTURE)
    )
    trajectory, _ = make_trajectory(both, both, both, both, limits=Limits(max_images=6))
    counts = []
    for _ in range(3):
        outcome = await trajectory.advance(ids("<code>1</code>"), "stop")
        assert not outcome.done, trajectory.summary.end_reason
        counts.append(len(outcome.images))
    assert counts == [3, 1, 1]
    assert outcome.images == (PICTURE,)
    assert (await trajectory.advance(ids("<code>1</code>"), "stop")).done
    assert trajectory.summary.end_reason is EndReason.IMAGE_LIMIT


OBSERVATION_LENGTH = len("<sandbox_output></sandbox_output>") + IMAGE_TOKENS


@pytest.mark.parametrize(("spare", "fits"), [(1, True), (0, False)])
async def test_an_observation_enters_whole_or_not_at_all(spare: int, fits: bool) -> None:
    turn = ids("<code>1</code>")
    max_total = 20 + len(turn) + OBSERVATION_LENGTH + spare
    trajectory, _ = make_trajectory(
        make_result("", images=1), limits=Limits(max_total_tokens=max_total)
    )
    outcome = await trajectory.advance(turn, "stop")
    assert outcome.done is not fits
    assert len(outcome.observation_ids) == (OBSERVATION_LENGTH - IMAGE_TOKENS + 1 if fits else 0)
    assert len(outcome.images) == fits
    if not fits:
        assert trajectory.summary.end_reason is EndReason.LENGTH_LIMIT
        assert trajectory.summary.statuses == ["ok"]
        assert not trajectory.summary.tool_used


async def test_sampled_tokens_over_the_total_length_are_cut() -> None:
    trajectory, _ = make_trajectory(limits=Limits(max_total_tokens=25))
    outcome = await trajectory.advance(ids("<answer>4</answer>"), "stop")
    assert outcome.done
    assert outcome.kept == 5
    assert trajectory.summary.sampled_tokens == 5
    assert trajectory.summary.end_reason is EndReason.LENGTH_LIMIT


async def test_the_sampled_token_limit_counts_all_turns_and_no_observation() -> None:
    trajectory, _ = make_trajectory(make_result("x" * 500), limits=Limits(max_sampled_tokens=20))
    assert not (await trajectory.advance(ids("<code>1</code>"), "stop")).done
    outcome = await trajectory.advance(ids("<answer>4</answer>"), "stop")
    assert outcome.kept == 20 - 14
    assert trajectory.summary.end_reason is EndReason.LENGTH_LIMIT


async def test_a_stop_string_inside_a_program_does_not_end_it() -> None:
    trajectory, session = make_trajectory(make_result())
    outcome = await trajectory.advance(ids("<code>print('</answer>"), "stop")
    assert not outcome.done
    assert outcome.observation_ids == []
    outcome = await trajectory.advance(ids("')</code>"), "stop")
    assert not outcome.done
    assert session.codes == ["print('</answer>')"]
    assert trajectory.summary.blocks_written == 1


async def test_a_tag_in_prose_does_not_end_the_text_but_the_end_token_does() -> None:
    trajectory, _ = make_trajectory()
    assert not (await trajectory.advance(ids("I close with </code>"), "stop")).done
    outcome = await trajectory.advance(ids("and stop", end=True), "stop")
    assert outcome.done
    assert trajectory.summary.end_reason is EndReason.END_OF_TEXT


async def test_the_session_is_released_when_the_caller_gives_up() -> None:
    trajectory, session = make_trajectory(make_result())
    await trajectory.advance(ids("<code>1</code>"), "stop")
    await trajectory.close()
    await trajectory.close()
    assert session.closed == 1


async def test_an_unexpected_error_releases_the_session_and_is_not_swallowed() -> None:
    trajectory, session = make_trajectory(ValueError("bug"))
    with pytest.raises(ValueError, match="bug"):
        await trajectory.advance(ids("<code>1</code>"), "stop")
    assert session.closed == 1


async def test_a_turn_that_loops_ends_the_trajectory_where_the_loop_was_evident() -> None:
    trajectory, session = make_trajectory(make_result())
    turn = ids("<think>" + "and so on " * 200 + "</think><answer>4</answer>")
    outcome = await trajectory.advance(turn, "stop")
    assert outcome.done
    assert trajectory.summary.end_reason is EndReason.REPETITION
    assert outcome.kept == repetition_end(turn) == trajectory.summary.sampled_tokens
    assert outcome.kept < len(turn)
    assert session.codes == []


async def test_the_end_token_that_stopped_a_loop_is_not_the_models() -> None:
    trajectory, _ = make_trajectory()
    loop = ids("<think><code>" + "x = 1\n" * 200)
    stopped = [*loop[: repetition_end(loop)], END]
    outcome = await trajectory.advance(stopped, "stop")
    assert trajectory.summary.end_reason is EndReason.REPETITION
    assert outcome.kept == len(stopped) - 1
    assert trajectory.summary.blocks_written == 1


async def test_a_loop_goes_on_where_that_is_asked_for() -> None:
    trajectory, _ = make_trajectory(limits=Limits(stop_repetition=False))
    turn = ids("<think>" + "and so on " * 200 + "</think><answer>4</answer>")
    outcome = await trajectory.advance(turn, "stop")
    assert outcome.kept == len(turn)
    assert trajectory.summary.end_reason is EndReason.ANSWER
