"""The tensor work, on real tensors."""

import pytest

pytest.importorskip("torch")
import torch  # noqa: TID253 - under test

from swift_thyme.sampling.logits import LogitsEditor, RowEdits

CPU = torch.device("cpu")
NEVER = float("-inf")


def make_logits() -> torch.Tensor:
    return torch.randn((4, 9), generator=torch.Generator().manual_seed(0))


def test_forbidden_tokens_are_ruled_out_in_every_row() -> None:
    logits, before = make_logits(), make_logits()
    LogitsEditor([2, 5], CPU).forbid(logits)
    assert (logits[:, [2, 5]] == NEVER).all()
    kept = [i for i in range(9) if i not in (2, 5)]
    assert torch.equal(logits[:, kept], before[:, kept])


def test_each_row_gets_its_own_edit_and_the_others_none() -> None:
    logits, before = make_logits(), make_logits()
    editor = LogitsEditor([], CPU)
    editor.edit(logits, RowEdits(greedy=[2], scaled=[(0, 4.0)], ended=[(3, 7)]))
    assert torch.equal(logits[0], before[0] * 4)
    assert torch.equal(logits[1], before[1])
    best = int(before[2].argmax())
    assert logits[2, best] == before[2, best]
    assert torch.isfinite(logits[2]).sum() == 1
    assert torch.softmax(logits[3], 0)[7] == 1


def test_the_remembered_rows_follow_the_batch() -> None:
    editor = LogitsEditor([], CPU)
    for greedy in ([1, 3], [1, 3], [0], [0, 1, 2, 3]):
        logits, before = make_logits(), make_logits()
        editor.edit(logits, RowEdits(greedy, [], []))
        for row in range(4):
            assert (torch.isfinite(logits[row]).sum() == 1) == (row in greedy)
            assert logits[row].argmax() == before[row].argmax()


@pytest.mark.parametrize("penalty", [0.5, 1.05, 2.0])
def test_a_penalty_after_the_edit_cannot_change_the_arg_max(penalty: float) -> None:
    logits, before = make_logits(), make_logits()
    LogitsEditor([], CPU).edit(logits, RowEdits([0, 1, 2, 3], [], []))
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    assert torch.equal(torch.softmax(penalised, 1).argmax(1), before.argmax(1))
