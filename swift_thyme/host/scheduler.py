"""The ``o3`` scheduler: runs the model's code between the turns of an ms-swift rollout.

An adapter between ms-swift's multi-turn hooks and :class:`swift_thyme.core.trajectory.Trajectory`:

* ``on_turn_end`` runs for all samples of a turn at once; that is where code is executed;
* ``step`` is called one by one; it only hands over the ids that ``on_turn_end`` prepared.

Token-exact: the ids that the engine sampled are the ids that are trained on (mask 1); the ids of
the observation follow them with mask 0. Log-probabilities stay with the sampled ids. Where the last
sampled id ends a tag and carries more, it is left out, and the rest of the tag follows with mask 0.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from swift_thyme.core.errors import DataError, EngineError, SettingsError
from swift_thyme.core.images import data_uri
from swift_thyme.core.rollout_infos import write_infos
from swift_thyme.core.summary import EndReason
from swift_thyme.core.trajectory import DEFAULT_MAX_IMAGES, Limits, Trajectory, TurnOutcome
from swift_thyme.host import flag as o3
from swift_thyme.host.code_sessions import shared_sessions
from swift_thyme.host.engine_probe import probe_async_engine
from swift_thyme.host.image_tokens import hook_tokens, keeps_placeholders, show_text
from swift_thyme.host.input_images import InputPicture, PictureReader, place_images
from swift_thyme.host.response_prefix import (
    ResponsePrefix,
    prefix_of,
    thinking_tags,
    warn_about_format,
)
from swift_thyme.host.server_rollout import ServerRollout
from swift_thyme.host.template_check import check_template
from swift_thyme.host.template_codec import TemplateCodec
from swift_thyme.host.template_repairs import repair_loaded_models
from swift_thyme.sampling.code_span import CodeSpan

if TYPE_CHECKING:
    from swift_thyme.sandbox import BackendSession, InputImage

__all__ = ["O3Scheduler", "limits_from_arguments"]

logger = logging.getLogger(__name__)

TRUNCATED = (
    EndReason.LENGTH_LIMIT,
    EndReason.IMAGE_LIMIT,
    EndReason.REPETITION,
    EndReason.DEADLINE,
)
"""End reasons that count as truncated, for ``--overlong_filter``."""


class _Turn(NamedTuple):
    """A turn after which the trajectory goes on, until ms-swift asks for the next request."""

    outcome: TurnOutcome
    loss_mask: list[int]
    """One entry per kept id."""
    logprobs: list[float]
    """One entry per kept id that is trained on."""


class _PlacedImages(NamedTuple):
    """The images of a trajectory, until its sandbox session is open."""

    images: list[InputImage]
    pictures: list[InputPicture]
    """Held so that the other trajectories of the row share them."""


def limits_from_arguments(arguments: Any, template: Any, max_turns: int | None) -> Limits:
    """Bring ms-swift's limits together, so that the rollout stays within the tightest of each.

    Args:
        arguments: ms-swift's argument object, or None where the scheduler is used on its own.
        template: The template; its ``max_length`` counts.
        max_turns: The turn limit that ms-swift hands to the scheduler.
    """
    uses_vllm = bool(getattr(arguments, "use_vllm", True))
    lengths = [getattr(template, "max_length", None)]
    lengths.append(getattr(getattr(template, "model_info", None), "max_model_len", None))
    if uses_vllm:
        lengths.append(getattr(arguments, "vllm_max_model_len", None))
    known = [length for length in lengths if length]
    per_prompt = getattr(arguments, "vllm_limit_mm_per_prompt", None) or {}
    in_total = getattr(arguments, "completion_length_limit_scope", None) == "total"
    return Limits(
        max_turns=max_turns,
        max_images=per_prompt.get("image", DEFAULT_MAX_IMAGES),
        max_sampled_tokens=arguments.max_completion_length if in_total else None,
        max_total_tokens=min(known) if known else None,
    )


def _check_numbers(logprobs: Sequence[float]) -> None:
    if any(math.isnan(logprob) for logprob in logprobs):
        raise EngineError(
            "the engine computes log-probabilities that are not numbers (NaN), so what it samples "
            "says nothing about the model; try another --torch_dtype or another --attn_impl, or "
            "--use_vllm false"
        )


def _row(request: Any) -> str:
    question = str((request.data_dict or {}).get("question") or request.messages[-1])
    return f"the row with question {question[:200]!r}"


class O3Scheduler(ServerRollout):
    """ms-swift scheduler that executes code blocks between turns.

    Registered as ``o3`` in ms-swift's ``multi_turns``.
    """

    def __init__(
        self, infer_engine: Any = None, max_turns: int | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(infer_engine, max_turns, *args, **kwargs)
        template = self._template or getattr(infer_engine, "template", None)
        repair_loaded_models()
        check_template(template)
        self._codec_template: Any = template
        self._sampling = o3.sampling_settings()
        limits = limits_from_arguments(o3.host_arguments(), template, max_turns)
        self._limits = limits._replace(stop_repetition=self._sampling.stop_repetition)
        self._trajectories: dict[str, Trajectory] = {}
        self._turns: dict[str, _Turn] = {}
        # All ids of the turns so far, of which the completion is made: ms-swift's own text has the
        # template's prefix in front of every turn.
        self._ids: dict[str, list[int]] = {}
        self._pictures = PictureReader()
        self._placed: dict[str, _PlacedImages] = {}
        self._tokens = hook_tokens(template)
        # Where each trajectory stands, for the loss mask of tokens inside code.
        self._spans: dict[str, CodeSpan] = {}
        self._sessions = shared_sessions()
        self._engine_tried = False
        if infer_engine is not None:
            # `swift rollout`: its event loop runs already, and a server that cannot run code must
            # not get ready.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, self._sessions.start()).result()
        elif getattr(o3.host_arguments(), "vllm_mode", "server") != "server":
            # A trainer makes its scheduler before its engine, which takes longer to load.
            self._sessions.warm_up()
        self._thinking = thinking_tags(template)
        warn_about_format(prefix_of(template), self._thinking)
        logger.info("o3 scheduler: %s", self._limits)

    async def start(self) -> None:
        """Make sure, once, that code runs here and that a server's engine has the hook.

        Raises:
            SandboxDeadError: No code runs; the message says why.
            EngineError: The engine cannot sample, or samples without the hook.
        """
        await self._sessions.start()
        engine = getattr(self.infer_engine, "engine", None)
        if engine is not None and not self._engine_tried:
            await probe_async_engine(engine, self._codec_template.tokenizer)
            self._engine_tried = True

    async def leave(self, name: str) -> None:
        """Forget a trajectory and close its sandbox session; harmless after its end."""
        trajectory = self._trajectories.pop(name, None)
        self._placed.pop(name, None)
        self._spans.pop(name, None)
        self._turns.pop(name, None)
        self._ids.pop(name, None)
        if trajectory is not None:
            await trajectory.close()

    async def on_trajectory_start(self, requests: list[Any]) -> None:
        """Begin a trajectory for each request (hook of ms-swift)."""
        await self.start()
        for request in requests:
            self._placed[request.uuid] = self._read_images(request)
            # The engine appends its turns to `messages`; the prompt's length is asked for later.
            prompt = [dict(message) for message in request.messages]
            self._trajectories[request.uuid] = Trajectory(
                TemplateCodec(self._codec_template, prompt, list(request.images)),
                self._limits,
                functools.partial(self._open_session, request),
                prompt_images=len(request.images),
                name=request.uuid,
            )
            self._spans[request.uuid] = CodeSpan()
            self._ids[request.uuid] = []

    async def _open_session(self, request: Any) -> BackendSession:
        try:
            return await self._sessions.open(self._placed.pop(request.uuid).images)
        except ValueError as error:
            raise DataError(f"{_row(request)}: {error}") from error

    def _read_images(self, request: Any) -> _PlacedImages:
        """Read the prompt's images and give them the paths that generated code will open.

        Raises:
            DataError: One cannot be used; the message names the row.
        """
        row = _row(request)
        pictures = [
            self._pictures.read(image, f"image {index} of {row}")
            for index, image in enumerate(request.images, 1)
        ]
        return _PlacedImages(place_images(request.messages, pictures, row), pictures)

    async def on_turn_end(
        self, infer_request: Any, response_choice: Any, current_turn: int
    ) -> dict[str, Any]:
        """Run the code that the turn ends with, or end the trajectory (hook of ms-swift)."""
        trajectory = self._trajectories[infer_request.uuid]
        token_ids, _, logprobs = self.prepare_response_continuation(response_choice)
        self._check_guard(token_ids)
        _check_numbers(logprobs)
        outcome = await trajectory.advance(token_ids, response_choice.finish_reason)
        all_ids = self._ids[infer_request.uuid]
        all_ids += [*token_ids[: outcome.kept], *outcome.appended_ids]
        mask = self._loss_mask(infer_request.uuid, token_ids[: outcome.kept])
        trained = [p for p, m in zip(logprobs, mask, strict=False) if m]
        if logprobs and not trained:
            # ms-swift would take an empty list for "not given" and use the choice's own.
            response_choice.logprobs = None
        if outcome.done:
            await self._sessions.ended(trajectory.summary)
        if not outcome.done:
            self._turns[infer_request.uuid] = _Turn(outcome, mask, trained)
            return {"done": False}
        summary = trajectory.summary
        del self._trajectories[infer_request.uuid], self._spans[infer_request.uuid]
        infer_request.messages[-1]["content"] = self._completion(infer_request)
        self._placed.pop(infer_request.uuid, None)
        infos = write_infos(summary, self._prefix(infer_request).text)
        result: dict[str, Any] = {
            "done": True,
            "rollout_infos": {**infos, "images": list(infer_request.images)},
        }
        if summary.end_reason in TRUNCATED:
            response_choice.finish_reason = "length"
        elif response_choice.finish_reason in ("length", EndReason.DEADLINE.value):
            # A tag ended the turn before the engine did.
            response_choice.finish_reason = "stop"
        if outcome.kept < len(token_ids) or 0 in mask:
            result["response_token_ids"] = token_ids[: outcome.kept] + outcome.appended_ids
            result["response_loss_mask"] = mask + [0] * len(outcome.appended_ids)
            result["rollout_logprobs"] = trained
        return result

    def _check_guard(self, token_ids: Sequence[int]) -> None:
        if not self._tokens.forbidden.isdisjoint(token_ids):
            raise SettingsError(
                "the engine sampled a token that stands for an image, which the sampling hook "
                "rules out, so it samples without the hook; --O3 true loads it, and "
                "`swift rollout` needs the flag (and --external_plugins) as well as `swift rlhf`"
            )

    def _loss_mask(self, uuid: str, token_ids: Sequence[int]) -> list[int]:
        if self._sampling.train_code_tokens:
            return [1] * len(token_ids)
        return self._spans[uuid].text_mask(self._tokens.texts, token_ids)

    def _completion(self, infer_request: Any) -> str:
        """Return the text of a trajectory that is over, as rewards and logs read it."""
        template = self._codec_template
        ids = template.skip_stop_tokens(self._ids.pop(infer_request.uuid))
        if keeps_placeholders(template):
            text = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        else:
            text = show_text(template, ids)
        return self._thinking.canonical(self._prefix(infer_request).text + text)

    def _prefix(self, infer_request: Any) -> ResponsePrefix:
        return prefix_of(self._codec_template, infer_request.chat_template_kwargs)

    def check_finished(self, infer_request: Any, response_choice: Any, current_turn: int) -> bool:
        """Tell ms-swift whether the trajectory is over; ``on_turn_end`` has decided it."""
        return infer_request.uuid not in self._trajectories

    def step(self, infer_request: Any, response_choice: Any, current_turn: int) -> dict[str, Any]:
        """Append the observation to the request (hook of ms-swift)."""
        outcome, mask, logprobs = self._turns.pop(infer_request.uuid)
        token_ids, _, _ = self.prepare_response_continuation(response_choice)
        appended = outcome.appended_ids
        # The engine samples after the prefix; later prompts and training begin with it. ms-swift
        # adds it by itself in colocate mode alone.
        prefix = self._prefix(infer_request).token_ids if current_turn == 1 else ()
        if not self._sampling.train_code_tokens:
            self._spans[infer_request.uuid].push_ids(self._tokens.texts, appended)
        new_images = [data_uri(image.data) for image in outcome.images]
        infer_request.images = [*infer_request.images, *new_images]
        return {
            "infer_request": infer_request,
            "response_token_ids": [*prefix, *token_ids[: outcome.kept], *appended],
            "response_loss_mask": [0] * len(prefix) + mask + [0] * len(appended),
            "rollout_logprobs": logprobs,
        }
