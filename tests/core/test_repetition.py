"""When a loop is evident, and that ordinary files never are one."""

import random
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from swift_thyme.core.repetition import (
    CHECK_EVERY,
    COPIES,
    LEAST_TOKENS,
    MAX_PERIOD,
    RepetitionWatch,
    repetition_end,
)
from swift_thyme.sampling.code_span import TokenTexts
from swift_thyme.sampling.sampled_sequence import SampledRow
from tests.conftest import TINY_MODEL

LATENCY_TOKENS = 64
"""Tokens after which a loop that is evident must have been noticed."""


def evident_after(period: int) -> int:
    """Tokens that the copies must be long together, by the written definition."""
    return max(COPIES * period, LEAST_TOKENS)


def words(rng: random.Random, n: int) -> list[int]:
    return [rng.randrange(150_000) for _ in range(n)]


@pytest.mark.parametrize("n_before", [0, 1, 31, 500, 3000])
@pytest.mark.parametrize(
    "period", [1, 2, 3, 7, 31, 32, 33, 101, 102, 103, 150, 256, 300, MAX_PERIOD]
)
def test_a_loop_ends_soon_after_it_is_evident(period: int, n_before: int) -> None:
    rng = random.Random(period * 10_000 + n_before)
    block = words(rng, period)
    copies = evident_after(period) // period + 3 + LATENCY_TOKENS // period
    ids = words(rng, n_before) + block * copies
    end = repetition_end(ids)
    assert end is not None
    evident = n_before + evident_after(period)
    assert evident <= end < evident + CHECK_EVERY <= evident + LATENCY_TOKENS


@pytest.mark.parametrize("period", [1, 5, 64, 102, 103, 200, MAX_PERIOD])
def test_one_token_less_is_not_evident(period: int) -> None:
    rng = random.Random(period)
    run = evident_after(period) - 1
    # The run ends where a look is taken, so that this look sees all of it.
    before = -run % CHECK_EVERY + CHECK_EVERY
    block = words(rng, period)
    ids = words(rng, before) + (block * (run // period + 1))[:run] + words(rng, 100)
    assert len(ids[: before + run]) % CHECK_EVERY == 0
    assert repetition_end(ids) is None


def test_a_block_longer_than_the_longest_is_not_looked_for() -> None:
    rng = random.Random(0)
    assert repetition_end(words(rng, MAX_PERIOD + 1) * 10) is None


def test_a_block_that_repeats_its_own_beginning_is_found_with_its_whole_length() -> None:
    rng = random.Random(1)
    inner = words(rng, 3) * 100
    block = inner + words(rng, 50)
    assert repetition_end(inner + words(rng, 5)) is None
    end = repetition_end(block * 6)
    assert end is not None and end >= COPIES * len(block)


def test_one_changed_token_in_each_copy_is_no_loop() -> None:
    rng = random.Random(2)
    block = words(rng, 40)
    assert repetition_end([i for n in range(100) for i in [*block, 200_000 + n]]) is None


def test_the_looks_of_an_engine_and_of_a_recount_agree() -> None:
    rng = random.Random(3)
    texts = TokenTexts(lambda ids: "x")
    for _ in range(50):
        block = words(rng, rng.randint(1, 200))
        ids = words(rng, rng.randint(0, 300)) + block * (1000 // len(block) + 1)
        row, ended, position = SampledRow(texts, ()), None, 0
        while ended is None and position < len(ids):
            position += 1
            row.advance(ids[:position])
            if row.looping:
                ended = position
        assert ended == repetition_end(ids)


def test_what_is_kept_is_bounded() -> None:
    watch = RepetitionWatch()
    for start in range(0, 100 * CHECK_EVERY, CHECK_EVERY):
        watch.push(range(start, start + CHECK_EVERY))
    assert len(watch._tail) == COPIES * MAX_PERIOD


def _files(n: int) -> list[Path]:
    """Programs and prose of the installed packages, spread evenly over all of them."""
    root = Path(sysconfig.get_paths()["purelib"])
    patterns = ("*.py", "*.md", "*.rst", "LICENSE*", "METADATA")
    files = sorted({path for pattern in patterns for path in root.rglob(pattern)})
    files = [path for path in files if path.is_file() and path.stat().st_size > 1000]
    return files[:: len(files) // n][:n]


def _tiny_tokens() -> Callable[[str], list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(TINY_MODEL), model_max_length=10**9)
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False))


def _word_tokens() -> Callable[[str], list[int]]:
    """Like a large vocabulary: words with their space, digits, runs of marks and of spaces."""
    known: dict[str, int] = {}
    pattern = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\s\w]+|_+|\s+")
    return lambda text: [known.setdefault(m, len(known)) for m in pattern.findall(text)]


def _character_tokens() -> Callable[[str], list[int]]:
    return lambda text: list(map(ord, text))


@pytest.mark.filterwarnings("ignore")  # importing transformers warns about its own dependencies
@pytest.mark.parametrize(
    ("tokens", "most"), [(_word_tokens, 0), (_tiny_tokens, 2), (_character_tokens, 2)]
)
def test_of_a_thousand_programs_and_texts_hardly_any_is_cut(
    tokens: Callable[[], Callable[[str], list[int]]], most: int
) -> None:
    """Which files these are depends on what is installed; docs/sampling.md counts all of them."""
    files = _files(1000)
    assert len(files) == 1000
    encode, n_tokens, cut = tokens(), 0, []
    for path in files:
        # As long as the recipe's context: 10,240 tokens.
        ids = encode(path.read_text(encoding="utf-8", errors="replace")[:40_000])[:10_240]
        n_tokens += len(ids)
        if repetition_end(ids) is not None:
            cut.append(path)
    assert len(cut) <= most, cut
    assert n_tokens > 1_000_000
