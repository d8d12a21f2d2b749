"""Trajectory metrics next to the rewards, in ``logging.jsonl``, TensorBoard and what else reports.

A trainer callback (``thyme`` in ms-swift's ``callbacks_map``): after each step it gathers the
summaries of the trajectories that ended on all ranks and hands their means to the trainer's own
metric store, so that they are averaged, prefixed (``eval_``) and reported like the rewards. Every
sampled trajectory counts, also those that ``--dynamic_sample true`` throws away. It also hands each
scored rollout to :mod:`swift_thyme.host.kept_rollouts`, which keeps a few of those that are trained
on, and those to :mod:`swift_thyme.host.shown_rollouts`.
"""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from swift.callbacks.base import TrainerCallback  # noqa: TID253 - the host's base class

from swift_thyme.core.errors import DataError, HostError
from swift_thyme.core.execution import ExecutionStatus
from swift_thyme.core.images import named_path
from swift_thyme.core.rollout_infos import read_infos
from swift_thyme.core.summary import TrajectorySummary
from swift_thyme.host.code_sessions import SandboxSteps
from swift_thyme.host.continuous_rollout import use_continuous_rollouts
from swift_thyme.host.evaluation_counts import RightAndWrong
from swift_thyme.host.expert_weights import send_experts_as_in_checkpoints
from swift_thyme.host.first_probe import probe_job
from swift_thyme.host.image_tokens import show_text
from swift_thyme.host.input_images import path_problem, quoted_paths
from swift_thyme.host.kept_rollouts import Keeper, KeepSettings
from swift_thyme.host.missing_rewards import leaves_gaps
from swift_thyme.host.old_logprobs import skip_old_logprobs
from swift_thyme.host.picture_cache import shared_pictures
from swift_thyme.host.response_prefix import check_server, prefix_of
from swift_thyme.host.server_watch import watch_server
from swift_thyme.host.shown_rollouts import Showcase
from swift_thyme.host.step_times import StepTimes, mean_times, watch_times
from swift_thyme.host.tool_use_watch import ToolUseWatch

__all__ = ["ThymeCallback", "merge_reward_metrics", "missing_images", "trajectory_metrics"]

logger = logging.getLogger(__name__)

MAX_NAMED_ROWS = 5
_TRAINER_NAMES = (
    "_log_rollout",
    "_compute_rewards_per_func",
    "_metrics",
    "reward_func_names",
)
"""What tells ms-swift's GRPO trainer from its other trainers, and Megatron's."""
TEACHER_COLUMNS = ("teacher_prompt", "teacher_images")
"""Columns that make ms-swift encode a row for a teacher of its own (OPSD)."""
SUMMED_REWARD_METRICS = frozenset(
    {
        "judge_calls",
        "judge_cached",
        "judge_failed",
        "judge_requests",
        "rewards_unscored",
        "rewards_filled",
    }
)
"""Reward metrics that are counts; the others are shares and latencies."""
COUNTS = frozenset(
    {
        "thyme/trajectories",
        "thyme/images_total",
        *(f"thyme/{name}" for name in SUMMED_REWARD_METRICS),
    }
)
"""Metrics of which an evaluation has the sum of its batches, not their mean."""


def trajectory_metrics(summaries: Sequence[TrajectorySummary]) -> dict[str, float]:
    """Return the means that are logged for a set of ended trajectories.

    Args:
        summaries: The trajectories, at least one.

    Returns:
        Metric name to value; ``thyme/trajectories`` is their number. Rates are shares in [0, 1];
        ``thyme/code_success_rate`` is missing where no block was executed, because a share of
        nothing is not zero.
    """
    n = len(summaries)
    statuses = Counter(status for summary in summaries for status in summary.statuses)
    executed = statuses.total()
    images = sum(summary.images for summary in summaries)
    metrics = {
        "thyme/trajectories": float(n),
        "thyme/tool_use_rate": sum(summary.tool_used for summary in summaries) / n,
        "thyme/no_code_rate": sum(summary.blocks_written == 0 for summary in summaries) / n,
        "thyme/turns": sum(summary.turns for summary in summaries) / n,
        "thyme/blocks": sum(summary.blocks_written for summary in summaries) / n,
        "thyme/blocks_ran": sum(summary.blocks_ran for summary in summaries) / n,
        "thyme/images": images / n,
        "thyme/images_total": float(images),
        "thyme/sampled_tokens": sum(summary.sampled_tokens for summary in summaries) / n,
        "thyme/boundary_repairs": sum(summary.boundary_repairs for summary in summaries) / n,
        "thyme/sandbox_s": sum(summary.sandbox_s for summary in summaries) / n,
    }
    if executed:
        metrics["thyme/code_success_rate"] = statuses[ExecutionStatus.OK.value] / executed
        for status, count in sorted(statuses.items()):
            if status != ExecutionStatus.OK.value:
                metrics[f"thyme/status/{status}"] = count / executed
    reasons = Counter(s.end_reason.value if s.end_reason else "unknown" for s in summaries)
    for reason, count in sorted(reasons.items()):
        metrics[f"thyme/end/{reason}"] = count / n
    return metrics


def merge_reward_metrics(drained: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Merge what the rewards of each rank counted: counts are added, the rest is averaged.

    Args:
        drained: What ``host.reward_functions.drain_metrics`` returned, one entry per rank.
    """
    merged = {}
    for name in sorted({name for metrics in drained for name in metrics}):
        values = [metrics[name] for metrics in drained if name in metrics]
        total = sum(values)
        merged[f"thyme/{name}"] = total if name in SUMMED_REWARD_METRICS else total / len(values)
    return merged


def missing_images(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Describe the rows whose image files do not exist, or whose code could not open them.

    Args:
        rows: Rows as ms-swift's dataset yields them; ``images`` holds paths or
            ``{"bytes", "path"}`` dicts.
    """
    problems = []
    for index, row in enumerate(rows):
        images = row.get("images") or []
        files = [path for path in map(named_path, images) if path is not None]
        found = [f"no file {path!r}" for path in files if not Path(path).is_file()]
        for path in quoted_paths(row.get("messages") or [])[: len(images)]:
            problem = path_problem(path) if path else None
            if problem is not None:
                found.append(f"the prompt quotes the image path {path!r}, which {problem}")
        question = row.get("question") or row["messages"][-1]["content"] if found else ""
        problems += [
            f"row {index + 1} (question {str(question)[:120]!r}, "
            f"solution {row.get('solution')!r}): {text}"
            for text in found
        ]
    return problems


def _is_grpo(trainer: Any) -> bool:
    """Tell ms-swift's own GRPO trainer from those of TRL, Megatron and Ray."""
    return any(
        kind.__name__ == "GRPOTrainer" and kind.__module__.startswith("swift.rlhf_trainers.")
        for kind in type(trainer).__mro__
    )


def draw_from(trainer: Any, samples: Sequence[Any], keeper: Keeper) -> None:
    """Let the keeper draw from samples that ms-swift's GRPO trainer has scored.

    Args:
        trainer: The trainer; it holds the rewards of all processes, in the order of the processes.
        samples: The samples of this process.
        keeper: Where drawn samples go.
    """
    from swift.rlhf_trainers.utils import get_even_process_data

    rewards = trainer._rewards_per_func
    totals = (rewards * trainer.reward_weights.unsqueeze(0)).nansum(dim=1)
    rows = get_even_process_data(trainer, rewards.tolist())
    advantages = [sample.advantages for sample in samples]
    keeper.consider(
        samples,
        "train" if trainer.model.training else "eval",
        functools.partial(show_text, trainer.template),
        [
            {
                name: None if math.isnan(value) else value
                for name, value in zip(trainer.reward_func_names, row, strict=True)
            }
            for row in rows
        ],
        get_even_process_data(trainer, totals.tolist()),
        [None if advantage is None else float(advantage) for advantage in advantages],
        lambda sample: prefix_of(trainer.template, sample.extra.get("chat_template_kwargs")),
    )


def _refuse_teacher_columns(columns: Sequence[str]) -> None:
    """Stop where rows hold a view of a teacher's own.

    ms-swift then encodes each completion a second time, without its loss mask, and stops at the
    first observation because the two lengths differ.
    """
    found = [name for name in TEACHER_COLUMNS if name in columns]
    if found:
        raise DataError(
            f"the training set has a column {found[0]}, from which ms-swift makes a second view of "
            "each row, without the loss mask of observations: remove the column"
        )


class ThymeCallback(TrainerCallback):  # type: ignore[misc]  # ms-swift has no type information
    """Logs trajectory metrics, keeps trajectories, and checks the image files at the start."""

    def __init__(self, args: Any, trainer: Any) -> None:
        super().__init__(args, trainer)
        self._keep_settings = KeepSettings.from_env()
        self._sandbox_steps = SandboxSteps()
        self._tool_use = ToolUseWatch()
        self._keeper: Keeper | None = None
        self._watching = False
        self._seen_rollouts = False
        # Read off the samples: with `swift rollout` the scheduler runs in the server, and what it
        # recorded comes back with them.
        self._sampled: list[TrajectorySummary] = []
        self._scores: list[Any] = []
        self._evaluated = RightAndWrong()
        self._showcase: Showcase | None = None
        self._times = StepTimes()
        self._updating: AbstractContextManager[None] = nullcontext()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop where rows, sandbox, engine or judge cannot serve the first step.

        The rows whose image files are missing or cannot be placed are named.
        """
        self._watch_rollouts()
        self._check_rows(state)
        probe_job(self.trainer)
        self._times.take()

    def _check_rows(self, state: Any) -> None:
        dataset: Any = getattr(self.trainer, "train_dataset", None)
        columns = getattr(dataset, "column_names", None) or []
        _refuse_teacher_columns(columns)
        if not state.is_world_process_zero or "images" not in columns:
            return
        wanted = [c for c in ("images", "question", "solution", "messages") if c in columns]
        problems = missing_images(dataset.select_columns(wanted))
        if problems:
            shown = "\n  ".join(problems[:MAX_NAMED_ROWS])
            raise DataError(
                f"{len(problems)} images of the training set cannot be used (row numbers are those "
                f"of the set as ms-swift loaded it):\n  {shown}"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand the metrics of the step's rollouts to the trainer."""
        # The next step has other pictures.
        shared_pictures().clear()
        if self._watching and not self._seen_rollouts:
            raise HostError(
                "ms-swift's GRPO trainer made a step and showed no rollout to _log_rollout, so "
                "trajectories can be neither counted nor kept; `thyme doctor` says more"
            )
        self._report("train")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the optimizer's time, which is outside of the trainer's methods."""
        self._updating = self._times.phase("update")
        self._updating.__enter__()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End what ``on_pre_optimizer_step`` began."""
        updating, self._updating = self._updating, nullcontext()
        updating.__exit__(None, None, None)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End an evaluation, and leave it out of the next step's time."""
        self._evaluated = RightAndWrong()
        self._times.take()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand the metrics of an evaluation step's rollouts to the trainer."""
        self._report("eval")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the trajectories that were drawn since the last log, and show some of them."""
        if self._keeper is None:
            return
        kept = self._keeper.flush(int(state.global_step))
        if not state.is_world_process_zero:
            return
        if self._showcase is None:
            trainer: Any = self.trainer
            self._showcase = Showcase(
                self._keep_settings.shown, trainer.callback_handler.callbacks, int(state.max_steps)
            )
        self._showcase.show(kept, int(state.global_step))

    def _watch_rollouts(self) -> None:
        """Look at the samples of each rollout once they are scored."""
        trainer: Any = self.trainer
        if self._watching:
            return
        absent = [name for name in _TRAINER_NAMES if not hasattr(trainer, name)]
        if absent and _is_grpo(trainer):
            raise HostError(
                f"ms-swift's GRPO trainer has no {absent[0]}, so trajectories can be neither "
                "counted nor kept; `thyme doctor` says more"
            )
        if absent:
            logger.warning(
                "this is not ms-swift's own GRPO trainer: no trajectories are counted or kept"
            )
            return
        if _is_grpo(trainer) and leaves_gaps(trainer):
            raise HostError(
                "ms-swift's GRPO trainer was loaded after the rewards, so a reward that is missing "
                "would count as zero; `thyme doctor` says more"
            )
        log_rollout = trainer._log_rollout
        score = trainer._compute_rewards_per_func
        self._watching = True
        if getattr(trainer, "vllm_mode", None) == "server":
            watch_server(trainer)
        if _is_grpo(trainer):
            use_continuous_rollouts(trainer, self._times)
            send_experts_as_in_checkpoints()
            skip_old_logprobs(trainer)
        keeper = self._start_keeping()

        # The last stage of a rollout: rewards and advantages are known, and nothing is encoded yet
        # for the next one.
        @functools.wraps(log_rollout)
        def watch_and_log(samples: list[Any]) -> Any:
            self._seen_rollouts = True
            check_server(samples, trainer.template)
            if keeper is not None:
                draw_from(trainer, samples, keeper)
            return log_rollout(samples)

        # Every sample is scored once, before dynamic sampling throws groups away.
        @functools.wraps(score)
        def count_and_score(samples: list[Any]) -> Any:
            read = (read_infos(sample.rollout_infos) for sample in samples)
            self._sampled += [summary for summary in read if summary is not None]
            scores = score(samples)
            self._scores.append(scores)
            return scores

        trainer._log_rollout = watch_and_log
        trainer._compute_rewards_per_func = count_and_score
        if _is_grpo(trainer):
            watch_times(trainer, self._times)

    def _start_keeping(self) -> Keeper | None:
        """Make the keeper; None where nothing is to be kept."""
        trainer: Any = self.trainer
        if self._keep_settings.per_step == 0:
            return None
        accelerator = trainer.accelerator
        self._keeper = Keeper(
            self._keep_settings,
            trainer.args.output_dir,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            seed=trainer.args.seed,
        )
        return self._keeper if self._keeper.active else None

    def _report(self, mode: str) -> None:
        from accelerate.utils import gather_object

        from swift_thyme.host.reward_functions import drain_metrics

        ended, self._sampled = self._sampled, []
        scores, self._scores = self._scores, []
        taken = self._times.take() if mode == "train" else {}
        # One exchange for all: what it costs is the waiting for each other.
        ranks = gather_object([(ended, drain_metrics(), taken)])
        summaries = [summary for ended, _, _ in ranks for summary in ended]
        metrics = merge_reward_metrics([drained for _, drained, _ in ranks])
        if summaries:
            metrics.update(trajectory_metrics(summaries))
        if mode == "train":
            metrics.update(mean_times([taken for _, _, taken in ranks]))
        if self._watching:
            store = self.trainer._metrics[mode]
            for name, value in metrics.items():
                store[name].append(value)
            if mode == "eval":
                self._count_evaluated(store, scores)
        if mode == "train":
            self._sandbox_steps.settle(summaries)
            fallen = self._tool_use.settle(summaries)
            if fallen is not None and self.trainer.accelerator.is_main_process:
                logger.warning("%s", fallen)

    def _count_evaluated(self, store: dict[str, list[float]], scores: Sequence[Any]) -> None:
        """Put sums in the place of what ms-swift would take the mean of."""
        self._evaluated.add(self.trainer.reward_func_names, scores)
        for name in COUNTS & store.keys():
            store[name] = [sum(store[name])]
        counts = self._evaluated.metrics()
        for name in [name for name in store if name.startswith(("thyme/right/", "thyme/wrong/"))]:
            if name not in counts:
                del store[name]
        store.update({name: [count] for name, count in counts.items()})
