"""The command ``thyme plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from swift_thyme.commands.messages import say
from swift_thyme.core.errors import SettingsError
from swift_thyme.host.gpu_memory import card_gib
from swift_thyme.plan.choose import Choice, Wish, choose_rl, choose_sft
from swift_thyme.plan.commands import rl_lines, sft_lines
from swift_thyme.plan.known import find_sizes
from swift_thyme.plan.memory import GIB, WEIGHT_BYTES
from swift_thyme.plan.sizes import ModelSizes

__all__ = ["plan_command"]

_H100_GIB = 79.6
"""What nvidia-smi says of a card of 80 GB."""
_WORDS_TOKENS = 1200
"""System prompt, question and format."""
TUNERS = ("full", "lora")


def plan_command(
    model: Annotated[
        str,
        typer.Option(
            "--model", help="folder, name, or size (3B, 7B, 8B, 30B-A3B); no hub is asked"
        ),
    ],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of all hosts together")],
    gpu_gib: Annotated[
        float | None,
        typer.Option(
            "--gpu-gib", min=1, help="memory of a GPU; not given: of those here, else 79.6"
        ),
    ] = None,
    tuner: Annotated[
        str | None, typer.Option("--tuner", help="full or lora; not given: full where it fits")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="of a picture after resizing")
    ] = 2408448,
    length: Annotated[
        int, typer.Option("--length", min=512, help="most tokens of a trajectory")
    ] = 10240,
    completion: Annotated[
        int, typer.Option("--completion", min=64, help="most tokens of a completion")
    ] = 3196,
) -> None:
    """Say what a model takes per GPU, and write the commands that train it."""
    if tuner is not None and tuner not in TUNERS:
        raise SettingsError(f"--tuner {tuner}: expected {' or '.join(TUNERS)}")
    sizes = find_sizes(model)
    picture = sizes.picture_tokens(max_pixels)
    if picture + _WORDS_TOKENS + completion > length:
        raise SettingsError(
            f"--length {length}: a picture of --max-pixels {max_pixels} takes {picture} tokens, "
            f"the words about {_WORDS_TOKENS}, the completion {completion}; raise --length, or "
            "lower one of the others"
        )
    wish = Wish(gpus, gpu_gib or card_gib() or _H100_GIB, length, completion, tuner)
    rl = choose_rl(wish, sizes)
    sft = choose_sft(wish, sizes)
    say(_model_line(model, sizes, picture))
    say(f"GPUs      {gpus} of {wish.card_gib:.1f} GiB")
    say("\n".join(["", _heading("SFT", sft), *_terms(sft), "", sft_lines(sft, model, max_pixels)]))
    say("\n".join(["", _heading("GRPO", rl), *_terms(rl), "", rl_lines(rl, model, max_pixels)]))


def _model_line(model: str, sizes: ModelSizes, picture: int) -> str:
    shapes = "" if sizes.name == model else f" (shapes of {sizes.name})"
    return (
        f"model     {model}{shapes}: {sizes.parameters / 1e9:.2f} B parameters, "
        f"{sizes.vision / 1e9:.2f} B of them frozen vision;\n"
        f"          {sizes.parameters * WEIGHT_BYTES / GIB:.1f} GiB of weights, "
        f"{sizes.cache_bytes_per_token / 1024:.0f} KiB of cache a token, "
        f"{picture} tokens for the largest picture"
    )


def _heading(what: str, choice: Choice) -> str:
    job = choice.job
    ways = ["full training" if job.full else "LoRA", f"ZeRO-{job.zero}"]
    if job.tensor_parallel > 1:
        ways.append(f"vLLM over {job.tensor_parallel} GPUs")
    if job.sleeps:
        ways.append("vLLM sleeps while the trainer computes")
    if job.offloads:
        ways.append("the trainer waits in the host's memory")
    return f"{what}: {', '.join(ways)}; about {choice.estimate.peak:.1f} GiB a GPU"


def _terms(choice: Choice) -> list[str]:
    memory, job = choice.estimate, choice.job
    lines = [
        f"  {memory.state:6.1f} GiB  weights, gradients, optimizer"
        + (", reference" if job.full and job.reference and job.share else ""),
        f"  {max(memory.sending, memory.backward, memory.stepping):6.1f} GiB  {memory.moment}",
        f"  {memory.fixed:6.1f} GiB  CUDA" + (" and NCCL" if job.gpus > 1 else ""),
    ]
    if job.share:
        lines.insert(0, f"  {memory.engine:6.1f} GiB  vLLM's share")
    return lines
