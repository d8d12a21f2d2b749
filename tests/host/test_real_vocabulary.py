"""Scheduler, loss mask, hook and rewards with Qwen's own vocabulary; only the engine is absent."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.execution import ExecutionResult, ExecutionStatus
from swift_thyme.rewards.format import follows_format
from swift_thyme.sampling.sampled_sequence import SampledRow
from swift_thyme.sampling.tokens import HookTokens
from tests.host.test_scheduler import make_scheduler, take_turn

# Importing ms-swift warns about its own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")

SPELLINGS: tuple[Callable[[str], str], ...] = (str.lower, str.capitalize, str.upper)
CODE = "<think>Look. <code>\n```python\nprint(7)\n```\n</"
ANSWER = "It is 7.</think>\n<answer>7</"
OBSERVED = "<sandbox_output>7</sandbox_output>"


@pytest.fixture(scope="module")
def template(real_vocabulary: Path) -> Any:
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_thyme.host import loss_scale
    from swift_thyme.host.template_images import install_image_accounting

    install_image_accounting()
    loss_scale.add_loss_scale()
    _, processor = get_model_processor(
        str(real_vocabulary), load_model=False, model_type="qwen2_5_vl", use_hf=True
    )
    # The template that users of the released models have.
    return get_template(processor, template_type="qwen2_5_vl", loss_scale="thyme")


@pytest.fixture(scope="module")
def tails(template: Any) -> list[int]:
    """Ids of the tokens that end a tag and carry more than blanks."""
    texts = {i: template.tokenizer.decode([i]) for i in range(151_643)}
    found = [i for i, text in texts.items() if text.startswith(">")]
    assert len(found) == 266
    return [i for i in found if texts[i][1:].strip()]


class Session:
    """A sandbox that knows one answer."""

    async def run(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        assert code == "print(7)"
        return ExecutionResult(ExecutionStatus.OK, parts=("7",))

    async def close(self) -> None:
        return


class Rollout:
    """One trajectory through the scheduler, as ms-swift's colocate mode drives it."""

    def __init__(self, template: Any, scheduler: Any, uuid: str) -> None:
        self.template = template
        self.scheduler = scheduler
        self.request = SimpleNamespace(
            uuid=uuid,
            messages=[{"role": "user", "content": "What number?"}],
            images=[],
            data_dict={},
            chat_template_kwargs={},
        )
        self.turn = 0
        self.ids: list[int] = []
        self.mask: list[int] = []
        self.logprobs: list[float] = []
        self.sampled: list[tuple[int, float]] = []
        self.infos: dict[str, Any] = {}

    async def take(self, ids: list[int], reason: str = "stop") -> bool:
        """Take a turn; return whether the trajectory goes on."""
        self.turn += 1
        logprobs = [-float(len(self.sampled) + n) for n in range(len(ids))]
        self.sampled += zip(ids, logprobs, strict=True)
        choice = SimpleNamespace(
            message=SimpleNamespace(content=self.template.tokenizer.decode(ids)),
            token_ids=ids,
            finish_reason=reason,
            logprobs={"content": [{"logprob": value} for value in logprobs]},
        )
        done = await take_turn(self.scheduler, self.request, choice, self.turn)
        result = done if done["done"] else self.scheduler.step(self.request, choice, self.turn)
        self.ids += result.get("response_token_ids", ids)
        self.mask += result.get("response_loss_mask", [1] * len(ids))
        self.logprobs += result.get("rollout_logprobs", logprobs)
        self.infos = result.get("rollout_infos", {})
        self.reason = choice.finish_reason
        if not done["done"]:
            self.scheduler.set_assistant_message_token_ids(self.request, self.ids)
        return not done["done"]

    @property
    def text(self) -> str:
        return str(self.template.tokenizer.decode(self.ids))

    def check(self) -> None:
        """Check that what is trained on is what was sampled, each id with its own probability."""
        assert len(self.ids) == len(self.mask)
        trained = [i for i, m in zip(self.ids, self.mask, strict=True) if m]
        assert len(trained) == len(self.logprobs)
        sampled = iter(self.sampled)
        assert all(pair in sampled for pair in zip(trained, self.logprobs, strict=True))


@pytest.fixture
def scheduler(template: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    scheduler = make_scheduler(template)

    async def open_session(request: Any) -> Session:
        return Session()

    async def start() -> None:
        return

    monkeypatch.setattr(scheduler, "_open_session", open_session)
    monkeypatch.setattr(scheduler._sessions, "start", start)
    return scheduler


def head_of(template: Any, before: str, tag: str) -> list[int]:
    return list(template.tokenizer.encode(before + tag, add_special_tokens=False))


@pytest.mark.parametrize("spell", SPELLINGS, ids=["lower", "capital", "upper"])
def test_each_token_that_ends_a_tag_ends_the_turn(
    template: Any, scheduler: Any, tails: list[int], spell: Callable[[str], str]
) -> None:
    """The block runs, the answer counts, and trained ids are sampled ids, for all 256 tokens."""
    code, answer = spell("code"), spell("answer")
    # A supervised row of this text has these ids behind the tag: the output is a piece of its own.
    closing = template.tokenizer.encode(">", add_special_tokens=False)
    observed = closing + template.tokenizer.encode(OBSERVED, add_special_tokens=False)

    async def rollout(tail: int) -> Rollout:
        rollout = Rollout(template, scheduler, str(tail))
        first = [*head_of(template, CODE, code), tail]
        assert await rollout.take(first)
        assert rollout.ids == first[:-1] + observed
        second = [*head_of(template, ANSWER, answer), tail]
        assert not await rollout.take(second)
        assert rollout.ids == first[:-1] + observed + second[:-1] + closing
        return rollout

    async def all_rollouts() -> list[Rollout]:
        return [await rollout(tail) for tail in tails]

    rollouts = asyncio.run(all_rollouts())
    assert len(rollouts) == 256
    for done in rollouts:
        done.check()
        assert sum(done.mask) == len(done.sampled) - 2
        assert done.text == f"{CODE}{code}>{OBSERVED}{ANSWER}{answer}>"
        assert done.request.messages[-1]["content"] == done.text
        assert follows_format(done.text)
        assert done.reason == "stop"
        assert done.infos["thyme_end_reason"] == "answer"
        assert done.infos["thyme_tool_used"] is True
        assert done.infos["thyme_boundary_repairs"] == 2


def test_a_late_engine_and_one_that_hits_its_limit_give_the_same_rollout(
    template: Any, scheduler: Any
) -> None:
    encode = template.tokenizer.encode

    async def rollout(name: str, late: str, reason: str) -> Rollout:
        rollout = Rollout(template, scheduler, name)
        assert await rollout.take(encode(f"{CODE}cODe>.{late}"), reason)
        assert not await rollout.take(encode(f"{ANSWER}aNSwer></{late}"), reason)
        return rollout

    late = asyncio.run(rollout("late", " And more of it.", "length"))
    punctual = asyncio.run(rollout("punctual", "", "stop"))
    late.check()
    assert (late.ids, late.mask, late.reason) == (punctual.ids, punctual.mask, "stop")
    assert late.request.messages[-1]["content"] == punctual.request.messages[-1]["content"]


@pytest.mark.parametrize("tail", [">", "><", ">.", ">The", ">\n"])
def test_the_loss_mask_and_the_hook_see_the_ids_that_are_there(
    template: Any, monkeypatch: pytest.MonkeyPatch, tail: str
) -> None:
    monkeypatch.setenv("THYME_TRAIN_CODE_TOKENS", "false")
    scheduler = make_scheduler(template)
    tokenizer = template.tokenizer
    rollout = Rollout(template, scheduler, "a")
    (tail_id,) = tokenizer.encode(tail)

    async def run() -> None:
        assert await rollout.take([*head_of(template, CODE, "code"), tail_id])
        assert not await rollout.take([*head_of(template, ANSWER, "answer"), tail_id])

    asyncio.run(run())
    rollout.check()
    trained = [i for i, m in zip(rollout.ids, rollout.mask, strict=True) if m]
    end = tail if not tail[1:].strip() else ""
    # The tag that opens the block ends inside a token that begins the code.
    assert tokenizer.decode(trained) == f"<think>Look. <code>\n{ANSWER}answer{end}"
    # The hook of an engine, which reads the assistant's turn so far at the start of each turn.
    tokens = HookTokens.from_tokenizer(tokenizer)
    first = head_of(template, CODE, "code")
    row = SampledRow(tokens.texts, [])
    row.advance(first)
    assert row.inside_code
    row.advance([*first, tail_id])
    assert not row.inside_code
    n_first = len(rollout.ids) - len(head_of(template, ANSWER, "answer")) - 1
    assert not SampledRow(tokens.texts, rollout.ids[:n_first]).inside_code


@pytest.mark.parametrize(("prefix", "end"), [("", ""), ("<think>\n", "<|im_end|>")])
def test_the_text_of_a_repaired_turn_keeps_its_response_prefix(
    template: Any, scheduler: Any, monkeypatch: pytest.MonkeyPatch, prefix: str, end: str
) -> None:
    monkeypatch.setattr(template, "_get_response_prefix", lambda row: prefix)
    encode = template.tokenizer.encode
    request = Rollout(template, scheduler, "a").request
    choice = SimpleNamespace(
        # As ms-swift hands it over: with the prefix, without the end of text.
        message=SimpleNamespace(content=f"{prefix}{ANSWER}aNSwer>. So."),
        token_ids=encode(f"{ANSWER}aNSwer>. So.{end}"),
        finish_reason="stop",
        logprobs=None,
    )
    assert asyncio.run(take_turn(scheduler, request, choice, 1))["done"]
    assert request.messages[-1]["content"] == f"{prefix}{ANSWER}aNSwer>"


def test_a_supervised_row_has_the_ids_of_the_rollout(template: Any, scheduler: Any) -> None:
    tokenizer = template.tokenizer
    rollout = Rollout(template, scheduler, "a")

    async def run() -> None:
        assert await rollout.take(tokenizer.encode(f"{CODE}code><"))
        assert not await rollout.take(tokenizer.encode(f"{ANSWER}answer>."))

    asyncio.run(run())
    template.set_mode("train")
    try:
        row = [{"role": "user", "content": "?"}, {"role": "assistant", "content": rollout.text}]
        encoded = template.encode({"messages": row})
    finally:
        template.set_mode("transformers")
    suffix = tokenizer.encode("<|im_end|>\n")
    ids = encoded["input_ids"][-len(rollout.ids) - len(suffix) :]
    assert ids == rollout.ids + suffix
    labels = encoded["labels"][-len(ids) :]
    observed = tokenizer.encode(OBSERVED)
    at = len(rollout.ids) - len(tokenizer.encode(f"{ANSWER}answer>")) - len(observed)
    assert labels == [*ids[:at], *[-100] * len(observed), *ids[at + len(observed) :]]
