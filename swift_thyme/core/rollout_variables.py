"""The environment variables of rollouts, a part of the table of all variables."""

from __future__ import annotations

from swift_thyme.core.variables import Kind, Variable, count, group, number, seconds, switch, text

__all__ = ["ROLLOUT"]

ROLLOUT = (
    *group(
        "Rollout",
        "host/flag.py",
        count(
            "GEN_ITER_LIMIT",
            4,
            "turns of a trajectory; the last one cannot run code",
            "turns",
            owner="Thyme",
            option="--max-turns (thyme), --max_turns (ms-swift)",
        ),
    ),
    *group(
        "Rollout",
        "host/continuous_rollout.py",
        Variable(
            "THYME_ROLLOUT",
            Kind.CHOICE,
            "continuous",
            "with vLLM in colocate mode: continuous lets each trajectory go on when its code is "
            "done; turns waits after each turn for the slowest trajectory of all processes",
            choices=("continuous", "turns"),
        ),
        seconds(
            "THYME_ROLLOUT_DEADLINE_S",
            86400.0,
            "with continuous rollouts, what is not done so long after the rollout's beginning ends "
            "with the reason deadline and counts as truncated",
        ),
    ),
    *group(
        "Rollout",
        "host/picture_cache.py",
        count(
            "THYME_PICTURES_MB",
            1024,
            "decoded and resized pictures of a step that a process keeps; 0 prepares each picture "
            "anew every time",
            "MiB",
            low=0,
        ),
    ),
    *group(
        "Rollout",
        "host/kept_rollouts.py",
        count(
            "THYME_KEEP_TRAJECTORIES",
            4,
            "trajectories kept with their images per logging step, all processes together",
            "trajectories",
            low=0,
        ),
        count(
            "THYME_KEEP_MB", 2048, "disk that kept trajectories take, all processes together", "MiB"
        ),
        count(
            "THYME_REPORT_TRAJECTORIES",
            2,
            "kept trajectories that TensorBoard and W&B show as pictures at a time, as --report_to "
            "names them",
            "trajectories",
            low=0,
        ),
    ),
    *group(
        "Rollout",
        "host/tool_use_watch.py",
        count(
            "THYME_TOOL_USE_STEPS",
            8,
            "steps whose tool use is compared with that of as many earlier ones; the log warns "
            "where it fell; 0 compares nothing",
            "steps",
            low=0,
        ),
    ),
    *group(
        "Rollout",
        "core/thinking.py",
        text(
            "THYME_THINK_TAGS",
            "tags that the model puts around its thoughts, which rewards and logs read as <think> "
            "and </think>; not set: those of the template",
            "an opening and a closing tag, with a blank between, such as <mm:think> </mm:think>",
        ),
    ),
    *group(
        "Rollout",
        "sampling/sampling_settings.py",
        number(
            "THYME_CODE_TEMPERATURE",
            0.0,
            "temperature inside code, with <code> among the stop words; at most --temperature",
            "",
            0,
            10,
        ),
        switch("THYME_TRAIN_CODE_TOKENS", True, "whether tokens inside code are trained on"),
        switch("THYME_REPETITION_STOP", True, "whether a generation that evidently loops is ended"),
    ),
)
"""The variables of rollouts, but for those of the sandbox and the rewards."""
