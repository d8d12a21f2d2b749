"""The ``o3`` scheduler: runs the model's code between the turns of an ms-swift rollout.

An adapter between ms-swift's multi-turn hooks and :class:`swift_thyme.core.trajectory.Trajectory`:

* ``on_turn_end`` runs for all samples of a turn at once; that is where code is executed;
* ``step`` is called one by one; it only hands over the ids that ``on_turn_end`` prepared.

Token-exact: the ids that the engine sampled are the ids that are trained on (mask 1); the ids of
the observation follow them with mask 0. Log-probabilities stay with the sampled ids. Where the last
sampled id ends a tag and carries more, it is left out, and the rest of the tag follows with mask 0.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from swift.rollout.multi_turn import MultiTurnScheduler  # noqa: TID253 - the host's base class

from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.core.images import data_uri
from swift_thyme.core.rollout_infos import write_infos
from swift_thyme.core.summary import EndReason
from swift_thyme.core.trajectory import DEFAULT_MAX_IMAGES, Limits, Trajectory, TurnOutcome
from swift_thyme.host import flag as o3
from swift_thyme.host.code_sessions import shared_sessions
from swift_thyme.host.input_images import InputPicture, PictureReader, place_images
from swift_thyme.host.template_codec import TemplateCodec
from swift_thyme.sampling.code_span import CodeSpan
from swift_thyme.sampling.tokens import HookTokens

if TYPE_CHECKING:
    from swift_thyme.sandbox import BackendSession, InputImage

__all__ = ["O3Scheduler", "limits_from_arguments"]

logger = logging.getLogger(__name__)

TRUNCATED = (EndReason.LENGTH_LIMIT, EndReason.IMAGE_LIMIT, EndReason.REPETITION)
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


def _row(request: Any) -> str:
    question = str((request.data_dict or {}).get("question") or request.messages[-1])
    return f"the row with question {question[:200]!r}"


class O3Scheduler(MultiTurnScheduler):  # type: ignore[misc]  # ms-swift has no type information
    """ms-swift scheduler that executes code blocks between turns.

    Registered as ``o3`` in ms-swift's ``multi_turns``. Needs a template of the Qwen2-VL family.
    """

    def __init__(
        self, infer_engine: Any = None, max_turns: int | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(infer_engine, max_turns, *args, **kwargs)
        template = self._template or getattr(infer_engine, "template", None)
        if template is None or not hasattr(template, "image_token_id"):
            raise SettingsError(
                "the o3 scheduler needs a template of the Qwen2-VL family, got "
                f"{type(template).__name__}; see --template and --model_type"
            )
        self._codec_template = template
        self._sampling = o3.sampling_settings()
        limits = limits_from_arguments(o3.host_arguments(), template, max_turns)
        self._limits = limits._replace(stop_repetition=self._sampling.stop_repetition)
        self._trajectories: dict[str, Trajectory] = {}
        self._turns: dict[str, _Turn] = {}
        self._pictures = PictureReader()
        self._placed: dict[str, _PlacedImages] = {}
        self._tokens = HookTokens.from_tokenizer(template.tokenizer)
        # Where each trajectory stands, for the loss mask of tokens inside code.
        self._spans: dict[str, CodeSpan] = {}
        self._sessions = shared_sessions()
        logger.info("o3 scheduler: %s", self._limits)

    async def on_trajectory_start(self, requests: list[Any]) -> None:
        """Begin a trajectory for each request (hook of ms-swift)."""
        await self._sessions.start()
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
        outcome = await trajectory.advance(token_ids, response_choice.finish_reason)
        mask = self._loss_mask(infer_request.uuid, token_ids[: outcome.kept])
        trained = [p for p, m in zip(logprobs, mask, strict=False) if m]
        if logprobs and not trained:
            # ms-swift would take an empty list for "not given" and use the choice's own.
            response_choice.logprobs = None
        if trajectory.summary.end_reason is EndReason.SANDBOX_FAILURE:
            await self._sessions.confirm()
        if not outcome.done:
            self._turns[infer_request.uuid] = _Turn(outcome, mask, trained)
            return {"done": False}
        summary = trajectory.summary
        del self._trajectories[infer_request.uuid], self._spans[infer_request.uuid]
        self._placed.pop(infer_request.uuid, None)
        infos = write_infos(summary)
        result: dict[str, Any] = {
            "done": True,
            "rollout_infos": {**infos, "images": list(infer_request.images)},
        }
        if summary.end_reason in TRUNCATED:
            response_choice.finish_reason = "length"
        elif response_choice.finish_reason == "length":
            # A tag ended the turn before the engine did.
            response_choice.finish_reason = "stop"
        if outcome.kept < len(token_ids) or 0 in mask:
            ids = token_ids[: outcome.kept] + outcome.appended_ids
            said = response_choice.message.content
            self._replace_text(infer_request, said, self._decode(token_ids), self._decode(ids))
            result["response_token_ids"] = ids
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

    def _replace_text(self, infer_request: Any, said: str, sampled: str, text: str) -> None:
        """Let the last message end with a text in place of what the turn sampled.

        Args:
            infer_request: Its last message ends with ``said``.
            said: The turn's text as ms-swift has it.
            sampled: The text of its ids.
            text: The text of those that stay, and of those that are appended.
        """
        message = infer_request.messages[-1]
        if not isinstance(message["content"], str) or not message["content"].endswith(said):
            return
        # ms-swift puts a response prefix before the turn's text, and takes an end of text off it.
        prefix = next(n for n in range(len(said) + 1) if sampled.startswith(said[n:]))
        kept = len(message["content"]) - (len(said) - prefix)
        message["content"] = message["content"][:kept] + text

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def check_finished(self, infer_request: Any, response_choice: Any, current_turn: int) -> bool:
        """Tell ms-swift whether the trajectory is over; ``on_turn_end`` has decided it."""
        return infer_request.uuid not in self._trajectories

    def step(self, infer_request: Any, response_choice: Any, current_turn: int) -> dict[str, Any]:
        """Append the observation to the request (hook of ms-swift)."""
        outcome, mask, logprobs = self._turns.pop(infer_request.uuid)
        token_ids, _, _ = self.prepare_response_continuation(response_choice)
        appended = outcome.appended_ids
        if not self._sampling.train_code_tokens:
            self._spans[infer_request.uuid].push_ids(self._tokens.texts, appended)
        new_images = [data_uri(image.data) for image in outcome.images]
        infer_request.images = [*infer_request.images, *new_images]
        return {
            "infer_request": infer_request,
            "response_token_ids": token_ids[: outcome.kept] + appended,
            "response_loss_mask": mask + [0] * len(appended),
            "rollout_logprobs": logprobs,
        }
