"""Stage 0 of the tiny model: learning to see, with short exercises and no protocol text.

The language-model loss alone does not teach a model of this size to read from scratch in a
sensible time. So the vision tower first learns with direct heads (two digits, and the row and
column of the plate), and then the whole model does short exercises: name the window, read the
digits, both in one answer, and two of text alone (repeat a box, join two digits). The heads stay
as an auxiliary loss and are thrown away at the end.

The forward pass here is a batched copy of what transformers computes for images of exactly
VIEW_SIZE x VIEW_SIZE pixels (the original loops over images in Python); ``check_forward`` compares
the two. Plain torch, one process for training and some for drawing pictures.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch  # noqa: TID253 - training code; imported by the script that makes the checkpoint only
import torch.nn.functional as F  # noqa: TID253 - see above
from tiny_model.architecture import ShortPrompt
from tiny_model.picture_views import Views, ViewWorkers, draw_views
from torch import Tensor, nn  # noqa: TID253 - see above

from swift_thyme.testbed.data import locate_sentence, read_sentence
from swift_thyme.testbed.task import (
    GRID,
    PICTURE_SIZE,
    VIEW_SIZE,
    WINDOW_SIZE,
    Box,
)

__all__ = ["Network", "PretrainSettings", "Schedule", "check_forward", "pretrain", "to_patches"]

_log = logging.getLogger(__name__)

_PATCH, _MERGE = 14, 2
_SIDE = VIEW_SIZE // _PATCH
_IMAGE_TOKENS = (_SIDE // _MERGE) ** 2
_CORNERS = (PICTURE_SIZE - WINDOW_SIZE) // GRID + 1
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """How long and on what stage 0 runs."""

    device: str = "cpu"
    """Torch device of the training process."""
    seed: int = 0
    """Seed of weights, pictures and batches (with workers, the mix of pictures also depends on
    their speed)."""
    head_steps: int = 700
    """Steps of the vision tower with direct heads."""
    joint_steps: int = 2000
    """Steps of the whole model on the exercises."""
    batch_size: int = 256
    """Pictures per step."""
    lr: float = 1e-3
    """Peak learning rate (linear warm-up, cosine to zero in each of the two phases)."""
    workers: int = 2
    """Processes that draw pictures."""
    pool_size: int = 32768
    """Pictures kept; new ones replace the oldest while training goes on."""
    min_pool: int = 4096
    """Pictures drawn before the first step."""
    max_seconds: float = 1e9
    """Training is shortened (its schedule too) to fit into this; 15 % of it for the heads."""
    window_spread_px: float = 8.0
    """Deviation of the windows that the exercises name."""


class _Pool:
    """A ring of pictures on the training device, refilled by worker processes."""

    def __init__(self, settings: PretrainSettings, workers: ViewWorkers) -> None:
        self._workers = workers
        self._size = settings.pool_size
        self._device = torch.device(settings.device)
        shape = (self._size, VIEW_SIZE, VIEW_SIZE, 3)
        self._overview = torch.empty(shape, dtype=torch.uint8, device=self._device)
        self._crop = torch.empty(shape, dtype=torch.uint8, device=self._device)
        self._digits = torch.empty((self._size, 2), dtype=torch.long, device=self._device)
        self._corner = torch.empty((self._size, 2), dtype=torch.long, device=self._device)
        self._filled, self._next, self.drawn = 0, 0, 0
        while self.drawn < settings.min_pool:
            self._add(workers.wait(timeout_s=300.0))

    def _add(self, views: Views) -> None:
        where = (torch.arange(len(views.digits)) + self._next) % self._size
        where = where.to(self._device)
        self._overview[where] = torch.from_numpy(views.overview).to(self._device)
        self._crop[where] = torch.from_numpy(views.crop).to(self._device)
        self._digits[where] = torch.from_numpy(views.digits).to(self._device)
        self._corner[where] = torch.from_numpy(views.corner).to(self._device)
        self._next = (self._next + len(where)) % self._size
        self._filled = min(self._filled + len(where), self._size)
        self.drawn += len(where)

    def sample(self, count: int, generator: torch.Generator) -> _Batch:
        """Take over what the workers have drawn, and return a random batch."""
        for views in self._workers.ready():
            self._add(views)
        index = torch.randint(self._filled, (count,), generator=generator).to(self._device)
        return _Batch(
            to_patches(self._overview[index]),
            to_patches(self._crop[index]),
            self._digits[index],
            self._corner[index],
        )


class _Batch(NamedTuple):
    overview: Tensor  # (B, patches, channels x pixels of a patch)
    crop: Tensor
    digits: Tensor  # (B, 2)
    corner: Tensor  # (B, 2)


def to_patches(images: Tensor) -> Tensor:
    """Turn uint8 images (B, VIEW, VIEW, 3) into Qwen2.5-VL's patches (B, patches, 1176)."""
    mean = torch.tensor(_MEAN, device=images.device)
    std = torch.tensor(_STD, device=images.device)
    x = (images.float() / 255.0 - mean) / std
    merged = _SIDE // _MERGE
    x = x.reshape(-1, merged, _MERGE, _PATCH, merged, _MERGE, _PATCH, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return x.reshape(len(images), _SIDE * _SIDE, -1)


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class Network:
    """Batched forward passes over the modules of a Qwen2.5-VL model."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model = model
        self.visual = model.model.visual
        self.text = model.model.language_model
        vision = model.config.vision_config
        self._heads = vision.num_heads
        quarter = vision.hidden_size // vision.num_heads // 4
        steps = torch.arange(quarter, device=device) / quarter
        frequency = 10000.0**-steps
        merged = _SIDE // _MERGE
        row, column = torch.meshgrid(
            torch.arange(_SIDE, device=device), torch.arange(_SIDE, device=device), indexing="ij"
        )
        angles = []
        for index in (row, column):
            order = index.reshape(merged, _MERGE, merged, _MERGE).permute(0, 2, 1, 3).flatten()
            angles.append(order[:, None] * frequency[None, :])
        angle = torch.cat(angles, dim=-1)
        angle = torch.cat((angle, angle), dim=-1)
        self._cos, self._sin = angle.cos(), angle.sin()

    def see(self, patches: Tensor) -> Tensor:
        """Return the image tokens (B, _IMAGE_TOKENS, hidden) of patches (B, patches, 1176)."""
        batch = patches.shape[0]
        h = self.visual.patch_embed(patches.reshape(-1, patches.shape[-1]))
        h = h.reshape(batch, _SIDE * _SIDE, -1)
        for block in self.visual.blocks:
            x = block.attn.qkv(block.norm1(h))
            q, k, v = x.reshape(batch, _SIDE * _SIDE, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            q = q * self._cos + _rotate_half(q) * self._sin
            k = k * self._cos + _rotate_half(k) * self._sin
            x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            h = h + block.attn.proj(x)
            h = h + block.mlp(block.norm2(h))
        tokens: Tensor = self.visual.merger(h.reshape(-1, h.shape[-1]))
        return tokens.reshape(batch, _IMAGE_TOKENS, -1)

    def read(self, ids: Tensor, positions: Tensor, images: Tensor) -> Tensor:
        """Return logits (B, L, vocabulary).

        Args:
            ids: Token ids (B, L), image tokens expanded.
            positions: Rotary positions (3, B, L).
            images: Image tokens (N, hidden) of all rows, in order of appearance.
        """
        embedded = self.text.embed_tokens(ids)
        mask = (ids == self.model.config.image_token_id).unsqueeze(-1)
        embedded = embedded.masked_scatter(mask, images)
        hidden = self.text(
            inputs_embeds=embedded,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden)
        return logits


class _Exercise:
    """One kind of short exercise: a fixed text whose numbers (and images) vary."""

    def __init__(
        self, model: Any, tokenizer: Any, prompt: str, answer: str, images: str, device: Any
    ) -> None:
        vision = "<|vision_start|><|image_pad|><|vision_end|>"
        user = f"<|im_start|>user\n{vision if images.startswith('o') or images == 'c' else ''}"
        text = f"{user}{prompt}<|im_end|>\n<|im_start|>assistant\n"
        n_prompt = None
        pieces = []
        image_id = model.config.image_token_id
        for part in (text, answer.replace("<image>", vision) + "<|im_end|>\n"):
            for token in tokenizer.encode(part, add_special_tokens=False):
                pieces += [token] * (_IMAGE_TOKENS if token == image_id else 1)
            n_prompt = n_prompt or len(pieces)
        assert n_prompt is not None
        self.images = images
        self.ids = torch.tensor(pieces, device=device)
        kinds = (self.ids == image_id).int()[None]
        grid = torch.tensor([[1, _SIDE, _SIDE]] * len(images), device=device)
        positions, _ = model.model.get_rope_index(
            self.ids[None],
            mm_token_type_ids=kinds,
            image_grid_thw=grid if images else None,
            attention_mask=torch.ones_like(self.ids)[None],
        )
        self.positions = positions[:, 0]
        # Where the numbers are: the placeholder numbers below occur nowhere else.
        self.slots = {
            value: (self.ids == tokenizer.encode(str(value))[0]).nonzero().flatten()
            for value in (*_EXAMPLE_BOX, *_EXAMPLE_DIGITS, _EXAMPLE_NUMBER)
        }
        weight = torch.zeros(len(pieces), device=device)
        weight[n_prompt:] = 1.0
        for where in self.slots.values():
            weight[where[where >= n_prompt]] = 5.0
        weight[kinds[0].bool()] = 0.0
        # Marks around an image inside the answer are given, not written.
        for mark in ("<|vision_start|>", "<|vision_end|>"):
            weight[self.ids == tokenizer.convert_tokens_to_ids(mark)] = 0.0
        self.weight = weight


_EXAMPLE_BOX = Box(112, 208, 112 + WINDOW_SIZE + GRID, 208 + WINDOW_SIZE + GRID)
_EXAMPLE_DIGITS = (3, 7)
_EXAMPLE_NUMBER = 64


class _Exercises:
    """All kinds of exercises, and the loss on a batch of each."""

    def __init__(self, network: Network, tokenizer: Any, device: torch.device) -> None:
        self.network = network

        def single(value: int) -> int:
            ids = tokenizer.encode(str(value), add_special_tokens=False)
            if len(ids) != 1:
                raise ValueError(f"{value} must be one token, not {ids}")
            return int(ids[0])

        self._corner_ids = torch.tensor(
            [single(v) for v in range(0, PICTURE_SIZE + 1, GRID)], device=device
        )
        self._digit_ids = torch.tensor([single(v) for v in range(10)], device=device)
        self._number_ids = torch.tensor([single(v) for v in range(10, 100)], device=device)
        locate = locate_sentence(_EXAMPLE_BOX)
        read = read_sentence("".join(str(v) for v in _EXAMPLE_DIGITS))
        box = str(tuple(_EXAMPLE_BOX))
        number = str(_EXAMPLE_NUMBER)
        kinds = {
            "read": (ShortPrompt.READ, read, "c"),
            "locate": (ShortPrompt.LOCATE, locate, "o"),
            "both": (ShortPrompt.BOTH, f"{locate}<image>{read}\n{number}", "oc"),
            "repeat": (f"{ShortPrompt.REPEAT} {box}", f"{locate} {box}", ""),
            "join": (f"{ShortPrompt.JOIN} {read}", number, ""),
        }
        self.kinds = {
            name: _Exercise(network.model, tokenizer, prompt, answer, images, device)
            for name, (prompt, answer, images) in kinds.items()
        }

    def fill(self, exercise: _Exercise, digits: Tensor, corner: Tensor) -> Tensor:
        """Return ids (B, L) of an exercise with these digits (B, 2) and corners (B, 2)."""
        ids = exercise.ids.repeat(len(digits), 1)
        size = WINDOW_SIZE // GRID
        values = {
            **{
                name: self._corner_ids[column]
                for name, column in zip(
                    _EXAMPLE_BOX,
                    (corner[:, 0], corner[:, 1], corner[:, 0] + size, corner[:, 1] + size),
                    strict=True,
                )
            },
            **{name: self._digit_ids[digits[:, i]] for i, name in enumerate(_EXAMPLE_DIGITS)},
            _EXAMPLE_NUMBER: self._number_ids[digits[:, 0] * 10 + digits[:, 1] - 10],
        }
        for name, where in exercise.slots.items():
            ids[:, where] = values[name][:, None]
        return ids

    def run(self, tasks: Sequence[_Task]) -> list[_Outcome]:
        """Run exercises in one padded forward pass; return one outcome for each."""
        length = max(len(self.kinds[task.name].ids) for task in tasks)
        ids, positions, images = [], [], []
        for task in tasks:
            exercise = self.kinds[task.name]
            own = self.fill(exercise, task.digits, task.corner)
            padding = length - own.shape[1]
            # Padding follows the text, so with causal attention it changes nothing before it.
            ids.append(F.pad(own, (0, padding)))
            where = F.pad(exercise.positions, (0, padding))
            positions.append(where[:, None, :].expand(3, len(own), -1))
            if task.images:
                images.append(torch.cat(task.images, dim=1).flatten(0, 1))
        rows = torch.cat(ids)
        logits = self.network.read(rows, torch.cat(positions, dim=1), torch.cat(images))
        outcomes, start = [], 0
        for task in tasks:
            weight = self.kinds[task.name].weight[1:]
            part = slice(start, start + len(task.digits))
            of_task = logits[part, : len(weight)].float()
            target = rows[part, 1 : len(weight) + 1]
            each = F.cross_entropy(of_task.transpose(1, 2), target, reduction="none")
            loss = (each * weight).sum() / (weight.sum() * len(target))
            outcomes.append(_Outcome(loss, (of_task.argmax(-1) == target)[:, weight > 1.0]))
            start = part.stop
        return outcomes


class _Task(NamedTuple):
    """Rows of one exercise."""

    name: str
    digits: Tensor  # (B, 2)
    corner: Tensor  # (B, 2)
    images: tuple[Tensor, ...]  # each (B, _IMAGE_TOKENS, hidden), in order of appearance


class _Outcome(NamedTuple):
    """What came of one task."""

    loss: Tensor  # ()
    right: Tensor  # (B, numbers), bool: was the number the likeliest token, given what precedes it


class _Heads(nn.Module):
    """Direct heads on the image tokens: attention pooling, then one linear layer per question."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        sizes = (10, 10, _CORNERS, _CORNERS)
        self.score = nn.Linear(hidden, len(sizes))
        self.out = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        weight = self.score(tokens).softmax(dim=1)
        pooled = torch.einsum("btk,btd->kbd", weight, tokens)
        return [layer(vector) for layer, vector in zip(self.out, pooled, strict=True)]


def _head_loss(heads: _Heads, overview: Tensor, crop: Tensor, batch: _Batch) -> Tensor:
    of_crop, of_overview = heads(crop), heads(overview)
    return (
        F.cross_entropy(of_crop[0], batch.digits[:, 0])
        + F.cross_entropy(of_crop[1], batch.digits[:, 1])
        + F.cross_entropy(of_overview[2], batch.corner[:, 0])
        + F.cross_entropy(of_overview[3], batch.corner[:, 1])
    )


class Schedule:
    """Linear warm-up and cosine decay over steps or over time, whichever ends first."""

    def __init__(self, steps: int, seconds: float) -> None:
        self._steps, self._seconds = steps, seconds
        self._started = time.monotonic()
        self.step = -1

    def advance(self) -> float | None:
        """Return the next step's learning rate factor, or None at the end."""
        self.step += 1
        elapsed = (time.monotonic() - self._started) / self._seconds
        progress = max(self.step / self._steps, elapsed)
        if progress >= 1.0:
            return None
        warm = min(1.0, (self.step + 1) / min(100, max(1, self._steps // 10)))
        return warm * 0.5 * (1.0 + math.cos(math.pi * progress))


def check_forward(model: Any, tokenizer: Any) -> float:
    """Return the largest logit difference between this module's forward pass and transformers'.

    Args:
        model: The model, float32, on the CPU.
        tokenizer: Its tokenizer.
    """
    device = torch.device("cpu")
    network = Network(model, device)
    exercises = _Exercises(network, tokenizer, device)
    views = draw_views((0, 2000), 1, 0.0)
    overview = to_patches(torch.from_numpy(views.overview))
    crop = to_patches(torch.from_numpy(views.crop))
    exercise = exercises.kinds["both"]
    ids = exercises.fill(exercise, torch.from_numpy(views.digits), torch.from_numpy(views.corner))
    with torch.no_grad():
        tokens = torch.cat([network.see(overview), network.see(crop)], dim=1).flatten(0, 1)
        ours = network.read(ids, exercise.positions[:, None, :], tokens)
        theirs = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=torch.cat([overview[0], crop[0]]),
            image_grid_thw=torch.tensor([[1, _SIDE, _SIDE]] * 2),
        ).logits
    return float((ours - theirs).abs().max())


def _evaluate(exercises: _Exercises, heads: _Heads, settings: PretrainSettings) -> dict[str, float]:
    """Measure teacher-forced accuracy on fresh pictures, and what can be read without a crop."""
    network, device = exercises.network, torch.device(settings.device)
    views = draw_views((settings.seed, 3000), 512, 0.0)
    digits = torch.from_numpy(views.digits).to(device)
    corner = torch.from_numpy(views.corner).to(device)
    with torch.no_grad():
        overview = network.see(to_patches(torch.from_numpy(views.overview).to(device)))
        crop = network.see(to_patches(torch.from_numpy(views.crop).to(device)))
        tasks = {
            "read": _Task("read", digits, corner, (crop,)),
            "locate": _Task("locate", digits, corner, (overview,)),
            "both": _Task("both", digits, corner, (overview, crop)),
            "repeat": _Task("repeat", digits, corner, ()),
            "join": _Task("join", digits, corner, ()),
            "read without crop": _Task("read", digits, corner, (overview,)),
        }
        outcomes = exercises.run(list(tasks.values()))
        result = {
            name: outcome.right.all(dim=1).float().mean().item()
            for name, outcome in zip(tasks, outcomes, strict=True)
        }
        of_crop, of_overview = heads(crop), heads(overview)
        result["head digits"] = (
            ((of_crop[0].argmax(-1) == digits[:, 0]) & (of_crop[1].argmax(-1) == digits[:, 1]))
            .float()
            .mean()
            .item()
        )
        distance = torch.stack([of_overview[2].argmax(-1), of_overview[3].argmax(-1)], dim=1)
        near = ((distance - corner).abs() <= 1).all(dim=1)
        result["head window within one step"] = near.float().mean().item()
    return result


def pretrain(model: Any, tokenizer: Any, settings: PretrainSettings) -> dict[str, float]:
    """Run stage 0 on a model in place.

    Args:
        model: The model in float32; it is moved to the device and left there.
        tokenizer: Its tokenizer.
        settings: See there.

    Returns:
        Accuracies on 512 fresh pictures, by exercise (whole answers; with the true text before
        each number given).
    """
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    torch.set_float32_matmul_precision("high")
    # The vision tower computes in the width of the text model, so one set of heads fits both.
    heads = _Heads(model.config.vision_config.out_hidden_size).to(device)
    model.to(device).train()
    network = Network(model, device)
    exercises = _Exercises(network, tokenizer, device)
    generator = torch.Generator().manual_seed(settings.seed)
    started = time.monotonic()
    with ViewWorkers(settings.workers, settings.seed, settings.window_spread_px) as workers:
        pool = _Pool(settings, workers)
        _log.info("%d pictures after %.0f s", pool.drawn, time.monotonic() - started)
        for phase, steps, share in (
            ("heads", settings.head_steps, 0.15),
            ("joint", settings.joint_steps, 0.85),
        ):
            module = network.visual if phase == "heads" else model
            trained = [*module.parameters(), *heads.parameters()]
            optimizer = torch.optim.AdamW(
                trained,
                lr=settings.lr,
                betas=(0.9, 0.98),
                weight_decay=0.01,
                fused=device.type == "cuda",
            )
            schedule = Schedule(steps, share * settings.max_seconds)
            while (factor := schedule.advance()) is not None:
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * factor
                batch = pool.sample(settings.batch_size, generator)
                overview, crop = network.see(torch.cat([batch.overview, batch.crop])).chunk(2)
                loss = _head_loss(heads, overview, crop, batch)
                losses = {"heads": loss.detach()}
                if phase == "joint":
                    tasks = _training_tasks(batch, overview, crop)
                    outcomes = exercises.run(tasks)
                    loss = 0.25 * loss + torch.stack([o.loss for o in outcomes]).sum()
                    for task, outcome in zip(tasks, outcomes, strict=True):
                        losses[task.name] = outcome.loss.detach()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                if schedule.step % 250 == 0:
                    _log.info(
                        "%s step %d, %.0f s, %d pictures: %s",
                        phase,
                        schedule.step,
                        time.monotonic() - started,
                        pool.drawn,
                        ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items()),
                    )
            _log.info("%s: %d steps, %.0f s", phase, schedule.step, time.monotonic() - started)
    model.eval()
    return _evaluate(exercises, heads, settings)


def _training_tasks(batch: _Batch, overview: Tensor, crop: Tensor) -> list[_Task]:
    """Share a batch out among the exercises (those of text alone take less of it)."""
    half, eighth = len(batch.digits) // 2, len(batch.digits) // 8
    first, second, few = slice(half), slice(half, None), slice(eighth)
    random_corner = torch.randint_like(batch.corner, _CORNERS)
    digits, corner = batch.digits, batch.corner
    return [
        _Task("read", digits[first], corner[first], (crop[first],)),
        _Task("locate", digits[second], corner[second], (overview[second],)),
        _Task("both", digits[first], corner[first], (overview[first], crop[first])),
        _Task("repeat", digits[few], random_corner[few], ()),
        _Task("join", digits[few], corner[few], ()),
    ]
