"""The summary of a trajectory in ms-swift's ``rollout_infos``: the one writer and the one reader.

``rollout_infos`` is a dict of JSON values that ms-swift carries from the scheduler to the trainer,
over HTTP in server mode, and hands to reward functions. The keys below begin with ``thyme_``. A
reward function of a user may read them; a scheduler of a user may write ``thyme_statuses`` alone,
which is enough for ``code_orm``.

===========================  ====================================================================
``thyme_turns``              sampled turns
``thyme_blocks``             code blocks written, executed or not
``thyme_blocks_ran``         executed blocks that ended with ``ok``
``thyme_statuses``           how each executed block ended, in order
``thyme_images``             returned images that entered the context
``thyme_tool_used``          whether a block ran and its output entered the context
``thyme_sampled_tokens``     tokens that the model sampled
``thyme_boundary_repairs``   turns whose closing tag ended inside a token that carried more
``thyme_sandbox_s``          seconds in the sandbox
``thyme_end_reason``         a value of :class:`~swift_thyme.core.summary.EndReason`
``thyme_response_prefix``    what the template put in front of the assistant's turn
``thyme_block_records``      a dict for each executed block: ``status``, ``turn``, ``images`` (name,
                             width, height of each), ``repairs``, ``duration_s``, ``offset``,
                             ``n_ids``, ``tokens``, ``entered``
===========================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.summary import EndReason, TrajectorySummary

__all__ = ["read_infos", "write_infos"]


def write_infos(summary: TrajectorySummary, response_prefix: str = "") -> dict[str, Any]:
    """Return a summary as JSON values, for ``rollout_infos``.

    Args:
        summary: What is recorded of the trajectory.
        response_prefix: What the template put in front of the assistant's turn, as text.
    """
    return {
        "thyme_turns": summary.turns,
        "thyme_blocks": summary.blocks_written,
        "thyme_blocks_ran": summary.blocks_ran,
        "thyme_statuses": summary.statuses,
        "thyme_images": summary.images,
        "thyme_tool_used": summary.tool_used,
        "thyme_sampled_tokens": summary.sampled_tokens,
        "thyme_boundary_repairs": summary.boundary_repairs,
        "thyme_sandbox_s": round(summary.sandbox_s, 4),
        "thyme_end_reason": summary.end_reason.value if summary.end_reason else None,
        "thyme_response_prefix": response_prefix,
        "thyme_block_records": [_block_values(block) for block in summary.blocks],
    }


def _block_values(block: BlockRecord) -> dict[str, Any]:
    return {
        "status": block.status,
        "turn": block.turn,
        "images": [[image.name, image.width, image.height] for image in block.images],
        "repairs": list(block.repairs),
        "duration_s": round(block.duration_s, 4),
        "offset": block.offset,
        "n_ids": block.n_ids,
        "tokens": block.tokens,
        "entered": block.entered,
    }


def read_infos(infos: Mapping[str, Any] | None) -> TrajectorySummary | None:
    """Return the summary that a scheduler recorded; None where it recorded none.

    Blocks that were read back have neither code nor output, and their images no bytes: those are in
    the sample itself.

    Args:
        infos: ``rollout_infos`` of one sample. Where another scheduler wrote ``thyme_statuses``
            alone, the summary holds one block for each of them.
    """
    if not infos or not any(name in infos for name in ("thyme_statuses", "thyme_end_reason")):
        return None
    blocks = [_block(values) for values in infos.get("thyme_block_records") or ()]
    if not blocks:
        blocks = _blocks_by_status(infos)
    reason = infos.get("thyme_end_reason")
    known = {item.value for item in EndReason}
    return TrajectorySummary(
        turns=int(infos.get("thyme_turns") or infos.get("num_turns") or 1),
        blocks_written=max(int(infos.get("thyme_blocks") or 0), len(blocks)),
        blocks=blocks,
        blocks_recorded="thyme_statuses" in infos or bool(blocks),
        sampled_tokens=int(infos.get("thyme_sampled_tokens") or 0),
        boundary_repairs=int(infos.get("thyme_boundary_repairs") or 0),
        end_reason=EndReason(reason) if reason in known else None,
    )


def _block(values: Mapping[str, Any]) -> BlockRecord:
    tokens = values.get("tokens")
    return BlockRecord(
        status=str(values["status"]),
        turn=int(values.get("turn") or 0),
        images=tuple(
            ReturnedImage(b"", int(width), int(height), str(name))
            for name, width, height in values.get("images") or ()
        ),
        repairs=tuple(map(str, values.get("repairs") or ())),
        duration_s=float(values.get("duration_s") or 0.0),
        offset=int(values.get("offset") or 0),
        n_ids=int(values.get("n_ids") or 0),
        tokens=None if tokens is None else int(tokens),
        entered=bool(values.get("entered", True)),
    )


def _blocks_by_status(infos: Mapping[str, Any]) -> list[BlockRecord]:
    """Return blocks from a record of statuses alone; the first of them hold the images."""
    statuses: Sequence[Any] = infos.get("thyme_statuses") or ()
    images = tuple(ReturnedImage(b"", 0, 0, "") for _ in range(int(infos.get("thyme_images") or 0)))
    return [
        BlockRecord(str(status), images=images if index == 0 else ())
        for index, status in enumerate(statuses)
    ]
