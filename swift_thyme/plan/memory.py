"""Memory of a GPU in a job, term by term.

What a step holds at once decides, and a step has three moments that differ:

* *weights go to vLLM*: under ZeRO-3 each process gathers what it sends, by default all of it;
* *backward*: activations, logits with their gradients, and the layers that ZeRO-3 has gathered;
* *the optimizer's step*: gradients in 32 bits.

vLLM's share, the trainer's own state and what CUDA and NCCL take are there in all of them. The
constants of this module are the only ones; docs/your_model.md has the measured peaks beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

from swift_thyme.plan.sizes import ModelSizes

__all__ = ["GIB", "Estimate", "Job", "engine_needs_gib", "estimate", "state_bytes"]

GIB = 2**30

WEIGHT_BYTES, GRADIENT_BYTES, ADAM_BYTES = 2, 2, 12
"""Of a parameter: weights and gradients in 16 bits; two moments and a copy of it in 32 bits."""
STEP_BYTES = 4
"""Of a parameter: its gradient in 32 bits, for the optimizer's step."""
STEP_PARAMETERS = 1e9
"""At most so many at a time (DeepSpeed's ``sub_group_size``)."""
LORA_SHARE = 0.01
"""Parameters of adapters, as a share of the language model's."""
LIVE_PARAMETERS = 1e9
"""That ZeRO-3 keeps gathered (``stage3_max_live_parameters``)."""
LOGIT_BYTES = 10
"""Of a logit: itself, divided by the temperature, its logarithm, and gradients of these."""
LAYER_NUMBERS = 2
"""How often a layer's inner numbers are held while it is computed again: values and gradients."""
CONTEXT_GIB = 0.6
"""CUDA's context and the kernels of torch and vLLM."""
NCCL_GIB = 0.9
"""Buffers of NCCL between GPUs."""
ENGINE_WORK_GIB = 3.0
"""Of vLLM's share: activations of its longest prompt with pictures, and CUDA graphs."""
SLACK = 1.1
"""Torch keeps freed pieces that fit nothing, as a share of what comes and goes."""
CACHE_BLOCK_TRAJECTORIES = 2
"""Trajectories of full length that vLLM's cache has to hold at least; more go in turns."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job of GRPO, or of supervised training where ``share`` is 0."""

    gpus: int = 1
    card_gib: float = 80.0
    full: bool = True
    """Full training; else LoRA."""
    zero: int = 3
    """Stage of ZeRO."""
    reference: bool = True
    """Whether a full training keeps a reference model (``--beta`` above 0)."""
    share: float = 0.0
    """``--vllm_gpu_memory_utilization``."""
    tensor_parallel: int = 1
    sleeps: bool = False
    """``--sleep_level 1``: vLLM's memory is free while the trainer computes."""
    offloads: bool = False
    """Optimizer and weights of the trainer wait in the host's memory while vLLM samples."""
    batches: int = 1
    """``--move_model_batches``: in how many pieces weights go to vLLM."""
    length: int = 8192
    """Most tokens of a trajectory, pictures included."""
    trained: int = 3196
    """Of these, the last ones, whose logits are computed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory of one GPU in GiB, by term."""

    engine: float
    state: float
    """Weights, reference, gradients and optimizer."""
    sending: float
    backward: float
    stepping: float
    fixed: float
    """CUDA's and NCCL's."""
    peak: float
    """Of the whole job."""

    @property
    def moment(self) -> str:
        """When the trainer needs most beyond its state."""
        moments = {
            "weights go to vLLM": self.sending,
            "backward": self.backward,
            "the optimizer's step": self.stepping,
        }
        return max(moments, key=lambda name: moments[name])


def state_bytes(job: Job, sizes: ModelSizes) -> float:
    """Return what a process keeps between steps: weights, reference, gradients, optimizer.

    Args:
        job: The job.
        sizes: The model's. Its vision tower is frozen, as in the recipe.
    """
    trained = sizes.text if job.full else sizes.text * LORA_SHARE
    weights = float(sizes.parameters * WEIGHT_BYTES)
    if job.full and job.reference and job.share:
        weights *= 2
    optimizer, gradients = trained * ADAM_BYTES, trained * GRADIENT_BYTES
    if job.zero >= 1:
        optimizer /= job.gpus
    if job.zero >= 2:
        gradients /= job.gpus
    if job.zero >= 3:
        weights /= job.gpus
    return weights + optimizer + gradients


def estimate(job: Job, sizes: ModelSizes) -> Estimate:
    """Return the memory of one GPU.

    Args:
        job: The job.
        sizes: The model's.
    """
    engine = job.share * job.card_gib
    state = state_bytes(job, sizes) / GIB
    sharded = job.zero >= 3 and job.gpus > 1
    sending = 0.0
    if job.share and sharded:
        # One piece is at least a layer, or the embeddings.
        piece = max(sizes.parameters / job.batches, sizes.vocabulary * sizes.hidden)
        sending = piece * WEIGHT_BYTES / GIB
    backward = _activations(job, sizes) / GIB
    if sharded:
        backward += min(LIVE_PARAMETERS, sizes.parameters) * WEIGHT_BYTES / GIB
    trained = sizes.text if job.full else sizes.text * LORA_SHARE
    stepping = min(trained / job.gpus, STEP_PARAMETERS) * STEP_BYTES / GIB
    fixed = CONTEXT_GIB + (NCCL_GIB if job.gpus > 1 else 0.0)
    waiting = 0.0 if job.offloads else state
    sampling = engine + (waiting if job.sleeps else state) + sending * SLACK
    if job.share:
        # Offloaded or not: what sends and what receives are there together.
        received = sizes.parameters * WEIGHT_BYTES / job.tensor_parallel / GIB
        sampling = max(sampling, received + state + sending * SLACK)
    training = state + max(backward, stepping) * SLACK
    if not job.sleeps:
        training += engine
    return Estimate(
        engine=engine,
        state=state,
        sending=sending,
        backward=backward,
        stepping=stepping,
        fixed=fixed,
        peak=max(sampling, training) + fixed,
    )


def engine_needs_gib(job: Job, sizes: ModelSizes) -> float:
    """Return the least memory with which vLLM runs: weights, its work, and some trajectories.

    Args:
        job: The job.
        sizes: The model's.
    """
    weights = sizes.parameters * WEIGHT_BYTES / job.tensor_parallel
    spread = min(job.tensor_parallel, sizes.heads)
    cache = CACHE_BLOCK_TRAJECTORIES * job.length * sizes.cache_bytes_per_token / spread
    return (weights + cache) / GIB + ENGINE_WORK_GIB


def _activations(job: Job, sizes: ModelSizes) -> float:
    """Return bytes of one trajectory: inputs of layers, one layer in full, and the logits."""
    kept = sizes.layers * job.length * sizes.hidden
    layer = LAYER_NUMBERS * job.length * (4 * sizes.wide + 6 * sizes.hidden)
    logits = job.trained * sizes.vocabulary * LOGIT_BYTES
    return (kept + layer) * WEIGHT_BYTES + logits
