"""The short exercises of vision pre-training: fixed texts whose numbers, words and images vary."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch  # noqa: TID253 - training code
import torch.nn.functional as F  # noqa: TID253 - training code
from tiny_model.pretrain import Network
from torch import Tensor  # noqa: TID253 - training code

from prove import base_model
from prove.items import clear_sentence, disc_sentence, locate_sentence, read_sentence, turn_sentence
from prove.pictures import COLOURS, TURNS, WINDOW, Window

__all__ = ["Exercises", "Outcome", "Scenes", "Task"]

_IMAGE_TOKENS, _SIDE = 16, 8
_WEIGHT = 5.0
"""Of the tokens that say something, among those that are always the same."""

# Example values, which stand for the fields below; each occurs nowhere else in an exercise.
_FIRST, _SECOND = Window(111, 112, 113, 114), Window(121, 122, 123, 124)
_DIGITS, _MORE_DIGITS = ("131", "132"), ("133", "134")
_JOINED, _ADDEND, _TURN = "141", "151", 161
_FIELDS = {
    **{str(v): f"first{i}" for i, v in enumerate(_FIRST)},
    **{str(v): f"second{i}" for i, v in enumerate(_SECOND)},
    **{v: f"digit{i}" for i, v in enumerate((*_DIGITS, *_MORE_DIGITS))},
    _JOINED: "joined",
    _ADDEND: "addend",
    str(_TURN): "turn",
    " pink": "disc",
    " clear": "pale",
    " yellow": "plate",
}


class Scenes(NamedTuple):
    """A batch; as ``views.Views``, with images as patches (B, 64, 1176)."""

    overview: Tensor
    crop: Tensor
    upright: Tensor
    digits: Tensor
    turn: Tensor
    plate: Tensor
    corner: Tensor
    disc: Tensor
    pale: Tensor


class Task(NamedTuple):
    """Rows of one exercise."""

    name: str
    ids: dict[str, Tensor]
    """Token ids (B,) by field."""
    images: tuple[Tensor, ...]
    """Each (B, 16, hidden), in the order in which they appear."""


class Outcome(NamedTuple):
    """What came of one task."""

    loss: Tensor  # ()
    right: Tensor  # (B, fields), bool: was it the likeliest token, given what precedes it


class _Exercise:
    """One exercise as ids, positions and weights of the loss."""

    def __init__(self, model: Any, tokenizer: Any, prompt: str, answer: str, device: Any) -> None:
        vision = "<|vision_start|><|image_pad|><|vision_end|>"
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        image_id = model.config.image_token_id
        pieces: list[int] = []
        asked = 0
        for part in (text, f"{answer}<|im_end|>\n"):
            asked = len(pieces)
            part = part.replace("<image>", vision)
            for token in tokenizer.encode(part, add_special_tokens=False):
                pieces += [token] * (_IMAGE_TOKENS if token == image_id else 1)
        images = (prompt + answer).count("<image>")
        self.ids = torch.tensor(pieces, device=device)
        kinds = (self.ids == image_id).int()[None]
        grid = torch.tensor([[1, _SIDE, _SIDE]] * images, device=device)
        positions, _ = model.model.get_rope_index(
            self.ids[None],
            mm_token_type_ids=kinds,
            image_grid_thw=grid if images else None,
            attention_mask=torch.ones_like(self.ids)[None],
        )
        self.positions = positions[:, 0]
        weight = torch.zeros(len(pieces), device=device)
        weight[asked:] = 1.0
        self.slots: dict[str, Tensor] = {}
        for value, field in _FIELDS.items():
            [token] = tokenizer.encode(value, add_special_tokens=False)
            where = (self.ids == token).nonzero().flatten()
            if len(where):
                self.slots[field] = where
                weight[where[where >= asked]] = _WEIGHT
        weight[kinds[0].bool()] = 0.0
        # Marks around an image inside the answer are given, not written.
        for mark in ("<|vision_start|>", "<|vision_end|>"):
            weight[self.ids == tokenizer.convert_tokens_to_ids(mark)] = 0.0
        self.weight = weight


def _texts() -> dict[str, tuple[str, str]]:
    """Return prompt and answer of each exercise."""
    asked = "<image>\nWhat number is on the yellow plate?"
    both = "<image>\nWhat numbers are on the yellow plate and on the blue plate?"
    look = f"{clear_sentence(False)} {locate_sentence('yellow', _FIRST)}"
    looks = f"{look} {locate_sentence('blue', _SECOND)}"
    read = f"{turn_sentence(0)} {read_sentence(_DIGITS)}"  # type: ignore[arg-type]
    reads = f"{read} {read_sentence(_MORE_DIGITS)}"  # type: ignore[arg-type]
    box = ", ".join(str(v) for v in _FIRST)
    code = ", ".join(f"{v} * s" for v in _FIRST)
    return {
        "read": ("<image>\nRead the plate.", f"{read} The answer is {_JOINED}."),
        "turn": ("<image>\nRead the plate.", turn_sentence(_TURN)),
        "two": ("Read both plates.", f"<image>\n<image>{reads}"),
        "locate": (asked, look),
        "pair": (both, looks),
        "disc": (
            "<image>\nWhat colour is the disc?",
            f"{clear_sentence(False)} {disc_sentence('pink')} The answer is pink.",
        ),
        "whole": (asked, f"{look}<image>{read} The answer is {_JOINED}."),
        "repeat": (f"Repeat it. ({box})", f"image.crop(({code}))"),
        "join": (
            f"Join the digits. Add {_ADDEND} to it. {read_sentence(_DIGITS)}",  # type: ignore[arg-type]
            f"print({_JOINED} + {_ADDEND})",
        ),
    }


class Exercises:
    """All exercises, and the loss on a batch of each."""

    def __init__(self, network: Network, tokenizer: Any, device: torch.device) -> None:
        self.network = network

        def ids(texts: list[str]) -> Tensor:
            tokens = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
            assert all(len(token) == 1 for token in tokens), texts
            return torch.tensor([token[0] for token in tokens], device=device)

        self._numbers = ids([str(n) for n in range(base_model.MOST_NUMBER + 1)])
        self._turns = ids([str(turn) for turn in TURNS])
        self._discs = ids([f" {colour}" for colour in COLOURS])
        self._pale = ids([" clear", " pale"])
        self._plates = ids([" yellow", " blue"])
        self._kinds = {
            name: _Exercise(network.model, tokenizer, prompt, answer, device)
            for name, (prompt, answer) in _texts().items()
        }

    def _box(self, corner: Tensor, name: str) -> dict[str, Tensor]:
        """Return the fields of a window with its left top ``corner`` (B, 2)."""
        values = (corner[:, 0], corner[:, 1], corner[:, 0] + WINDOW, corner[:, 1] + WINDOW)
        return {f"{name}{i}": self._numbers[value] for i, value in enumerate(values)}

    def tasks(self, scenes: Scenes, seen: Any, only: tuple[str, ...] = ()) -> list[Task]:
        """Share a batch out among the exercises.

        Args:
            scenes: The batch.
            seen: Its image tokens: ``overview``, ``crop``, ``upright``.
            only: Names of exercises; empty takes all.
        """
        size = len(scenes.turn)
        half, quarter = size // 2, size // 4
        digits = self._numbers[scenes.digits]
        joined = self._numbers[scenes.digits[:, 0] * 10 + scenes.digits[:, 1]]
        read = {"digit0": digits[:, 0], "digit1": digits[:, 1], "joined": joined}
        asked = torch.where(
            scenes.plate[:, None].bool(), scenes.corner[:, 2:], scenes.corner[:, :2]
        )
        pale = {"pale": self._pale[scenes.pale]}
        locate = {**pale, "plate": self._plates[scenes.plate], **self._box(asked, "first")}
        pair = {
            **pale,
            "plate": self._plates[torch.zeros_like(scenes.plate)],
            **self._box(scenes.corner[:, :2], "first"),
            **self._box(scenes.corner[:, 2:], "second"),
        }
        # The second plate of `two` is that of the next row.
        after = torch.roll(torch.arange(size, device=scenes.turn.device), 1)
        two = {
            "digit0": digits[:, 0],
            "digit1": digits[:, 1],
            "digit2": digits[after, 0],
            "digit3": digits[after, 1],
        }
        lies = torch.multinomial((scenes.turn > 0).float() + 1e-6, quarter, replacement=True)
        free = torch.randint_like(asked, 0, 24)
        addend = self._numbers[torch.randint(10, 100, (size,), device=scenes.turn.device)]
        disc = {**pale, "disc": self._discs[scenes.disc]}
        rows: dict[str, tuple[Any, dict[str, Tensor], tuple[Tensor, ...]]] = {
            "read": (slice(half), read, (seen.upright,)),
            "turn": (lies, {"turn": self._turns[scenes.turn]}, (seen.crop,)),
            "two": (slice(quarter), two, (seen.upright, seen.upright[after])),
            "locate": (slice(half, None), locate, (seen.overview,)),
            "pair": (slice(quarter, half), pair, (seen.overview,)),
            "disc": (slice(quarter), disc, (seen.overview,)),
            "whole": (slice(half), {**locate, **read}, (seen.overview, seen.upright)),
            "repeat": (slice(quarter), self._box(free, "first"), ()),
            "join": (slice(quarter), {**read, "addend": addend}, ()),
        }
        return [
            Task(name, {k: v[part] for k, v in ids.items()}, tuple(i[part] for i in images))
            for name, (part, ids, images) in rows.items()
            if not only or name in only
        ]

    def run(self, tasks: list[Task]) -> list[Outcome]:
        """Run exercises in one padded forward pass; return one outcome for each."""
        length = max(len(self._kinds[task.name].ids) for task in tasks)
        ids, positions, images = [], [], []
        for task in tasks:
            exercise = self._kinds[task.name]
            own = exercise.ids.repeat(len(next(iter(task.ids.values()))), 1)
            for field, where in exercise.slots.items():
                own[:, where] = task.ids[field][:, None]
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
        for task, own in zip(tasks, ids, strict=True):
            weight = self._kinds[task.name].weight[1:]
            part = slice(start, start + len(own))
            start = part.stop
            of_task = logits[part, : len(weight)].float()
            target = rows[part, 1 : len(weight) + 1]
            each = F.cross_entropy(of_task.transpose(1, 2), target, reduction="none")
            loss = (each * weight).sum() / (weight.sum() * len(target))
            outcomes.append(Outcome(loss, (of_task.argmax(-1) == target)[:, weight > 1.0]))
        return outcomes
