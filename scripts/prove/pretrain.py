"""Vision pre-training of the proof's models, in plain torch: to see, no word of the protocol.

    python -m prove.pretrain OUT --size 2m --device cuda --seconds 400 [--seed 0]

The vision tower first learns with direct heads, then the whole model does short exercises: name
windows, read digits, say how a plate lies, name the disc, copy a box, write a sum. The heads stay
as an auxiliary loss and are thrown away at the end. What it can do on fresh pictures goes to
``OUT.pretrain.json``. ``--steps`` ends it earlier, to try it on a CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch  # noqa: TID253 - training code
import torch.nn.functional as F  # noqa: TID253 - training code
from tiny_model.architecture import save_model
from tiny_model.pretrain import Network, Schedule, to_patches
from torch import Tensor, nn  # noqa: TID253 - training code

from prove import base_model
from prove.exercises import Exercises, Scenes
from prove.views import CORNERS, ViewWorkers, draw_views

_log = logging.getLogger("pretrain")
_HEAD_SHARE = 0.2
"""Share of the time that the direct heads get for themselves."""
_RATES = {"2m": 2e-3, "14m": 1e-3}


class _Pool:
    """A ring of scenes on the training device, refilled by worker processes."""

    def __init__(self, size: int, least: int, workers: ViewWorkers, device: torch.device) -> None:
        self._workers, self._device, self._size = workers, device, size
        self._columns: list[Tensor] | None = None
        self._next, self.drawn = 0, 0
        while self.drawn < least:
            self._add(workers.wait(timeout_s=300.0))

    def _add(self, views: Any) -> None:
        arrays = [torch.from_numpy(array).to(self._device) for array in views]
        if self._columns is None:
            self._columns = [
                torch.empty((self._size, *a.shape[1:]), dtype=a.dtype, device=self._device)
                for a in arrays
            ]
        count = len(arrays[0])
        where = ((torch.arange(count) + self._next) % self._size).to(self._device)
        for column, array in zip(self._columns, arrays, strict=True):
            column[where] = array
        self._next = (self._next + count) % self._size
        self.drawn += count

    def sample(self, count: int, generator: torch.Generator) -> Scenes:
        for views in self._workers.ready():
            self._add(views)
        assert self._columns is not None
        filled = min(self.drawn, self._size)
        index = torch.randint(filled, (count,), generator=generator).to(self._device)
        return scenes_of([column[index] for column in self._columns])


def scenes_of(columns: list[Tensor]) -> Scenes:
    """Return a batch; the first three columns are images (B, VIEW, VIEW, 3)."""
    return Scenes(*(to_patches(column) for column in columns[:3]), *columns[3:])


class _Heads(nn.Module):
    """Direct heads on the image tokens: attention pooling, then one linear layer per question."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        sizes = (10, 10, 4, 2, *(CORNERS,) * 4, 6, 2)
        self.score = nn.Linear(hidden, len(sizes))
        self.out = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        weight = self.score(tokens).softmax(dim=1)
        pooled = torch.einsum("btk,btd->kbd", weight, tokens)
        return [layer(vector) for layer, vector in zip(self.out, pooled, strict=True)]


class Seen(NamedTuple):
    """Image tokens of a batch, each (B, 16, hidden)."""

    overview: Tensor
    crop: Tensor
    upright: Tensor


def _see(network: Network, scenes: Scenes) -> Seen:
    tokens = network.see(torch.cat([scenes.overview, scenes.crop, scenes.upright]))
    return Seen(*tokens.chunk(3))


def _head_answers(heads: _Heads, seen: Seen, scenes: Scenes) -> list[tuple[Tensor, Tensor]]:
    """Return logits and truth of each head."""
    of_overview, of_crop, of_upright = heads(seen.overview), heads(seen.crop), heads(seen.upright)
    return [
        (of_upright[0], scenes.digits[:, 0]),
        (of_upright[1], scenes.digits[:, 1]),
        (of_crop[2], scenes.turn),
        (of_crop[3], scenes.plate),
        *((of_overview[4 + i], scenes.corner[:, i]) for i in range(4)),
        (of_overview[8], scenes.disc),
        (of_overview[9], scenes.pale),
    ]


def _evaluate(
    network: Network, exercises: Exercises, heads: _Heads, seed: int, device: torch.device
) -> dict[str, float]:
    """Measure on fresh scenes; numbers with the true text before each of them given."""
    views = draw_views((seed, 3000), 512)
    scenes = scenes_of([torch.from_numpy(array).to(device) for array in views])
    with torch.no_grad():
        seen = _see(network, scenes)
        tasks = exercises.tasks(scenes, seen)
        result = {task.name: 0.0 for task in tasks}
        for task, outcome in zip(tasks, exercises.run(tasks), strict=True):
            result[task.name] = outcome.right.all(dim=1).float().mean().item()
        blind = exercises.tasks(scenes, seen._replace(upright=seen.overview), only=("read",))
        [outcome] = exercises.run(blind)
        result["read without crop"] = outcome.right.all(dim=1).float().mean().item()
        names = (
            *("digit 1", "digit 2", "turn", "plate", "yellow x", "yellow y", "blue x", "blue y"),
            *("disc", "pale"),
        )
        for name, (logits, truth) in zip(names, _head_answers(heads, seen, scenes), strict=True):
            near = (logits.argmax(-1) - truth).abs() <= (1 if name[-1] in "xy" else 0)
            result[f"head {name}"] = near.float().mean().item()
    return {name: round(value, 4) for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=base_model.SIZES, default="2m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--steps", type=int, default=10**9, help="at most, in both phases together")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pool", type=int, default=65536)
    parser.add_argument("--least", type=int, default=4096, help="scenes before the first step")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    torch.set_float32_matmul_precision("high")
    started = time.monotonic()
    generator = torch.Generator().manual_seed(args.seed)
    lr = args.lr or _RATES[args.size]
    with ViewWorkers(args.workers, args.seed) as workers:
        processor = base_model.make_processor()
        model = base_model.make_model(processor, args.size, args.seed).to(device).train()
        heads = _Heads(model.config.vision_config.out_hidden_size).to(device)
        network = Network(model, device)
        exercises = Exercises(network, processor.tokenizer, device)
        pool = _Pool(args.pool, args.least, workers, device)
        _log.info("%d scenes after %.0f s", pool.drawn, time.monotonic() - started)
        for phase, share in (("heads", _HEAD_SHARE), ("joint", 1 - _HEAD_SHARE)):
            module = network.visual if phase == "heads" else model
            trained = [*module.parameters(), *heads.parameters()]
            optimizer = torch.optim.AdamW(
                trained, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=device.type == "cuda"
            )
            schedule = Schedule(max(1, int(args.steps * share)), args.seconds * share)
            while (factor := schedule.advance()) is not None:
                for group in optimizer.param_groups:
                    group["lr"] = lr * factor
                scenes = pool.sample(args.batch_size, generator)
                seen = _see(network, scenes)
                answers = _head_answers(heads, seen, scenes)
                loss = torch.stack([F.cross_entropy(*answer) for answer in answers]).sum()
                losses = {"heads": loss.detach()}
                if phase == "joint":
                    tasks = exercises.tasks(scenes, seen)
                    outcomes = exercises.run(tasks)
                    loss = 0.1 * loss + torch.stack([o.loss for o in outcomes]).sum()
                    for task, outcome in zip(tasks, outcomes, strict=True):
                        losses[task.name] = outcome.loss.detach()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                if schedule.step % 250 == 0:
                    text = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
                    _log.info(
                        "%s step %d, %.0f s, %d scenes: %s",
                        phase, schedule.step, time.monotonic() - started, pool.drawn, text,
                    )  # fmt: skip
            _log.info("%s: %d steps, %.0f s", phase, schedule.step, time.monotonic() - started)
        drawn = pool.drawn
    model.eval()
    result = _evaluate(network, exercises, heads, args.seed, device)
    save_model(model, processor, args.out)
    report = {
        "size": args.size, "seed": args.seed, "lr": lr, "scenes": drawn,
        "seconds": round(time.monotonic() - started, 1), **result,
    }  # fmt: skip
    args.out.with_name(f"{args.out.name}.pretrain.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
