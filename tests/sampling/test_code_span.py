"""The decision "is the next token inside code", without an engine."""

import random

import pytest

from swift_thyme.core.reading import TagScanner, read
from swift_thyme.sampling.code_span import CodeSpan, TokenTexts, assistant_turn

TEXT = (
    "<think>a<code>\nx = '<code>'\n</code>b<sandbox_output>1 <code> </code></sandbox_output>"
    "<CODE>y</Code> c<code>z</code>\n<<code><<co</code>a<code >b</code><sandbox_output><code>"
)
TAGS = ("<code>", "</code>", "<sandbox_output>", "</sandbox_output>")


class Vocabulary:
    """One token per distinct piece of text."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.texts = TokenTexts(lambda ids: "".join(self.pieces[i] for i in ids))

    def encode(self, pieces: list[str]) -> list[int]:
        for piece in pieces:
            if piece not in self.pieces:
                self.pieces.append(piece)
        return [self.pieces.index(piece) for piece in pieces]


def inside_after(text: str) -> bool:
    span = CodeSpan()
    for character in text:
        span.push(character)
    return span.inside


@pytest.mark.parametrize("seed", range(50))
def test_tags_may_be_split_over_tokens_in_any_way(seed: int) -> None:
    rng = random.Random(seed)
    vocabulary, span, position = Vocabulary(), CodeSpan(), 0
    while position < len(TEXT):
        piece = TEXT[position : position + rng.randint(1, 9)]
        span.push_ids(vocabulary.texts, vocabulary.encode([piece]))
        position += len(piece)
        assert span.inside is inside_after(TEXT[:position]), TEXT[:position]


@pytest.mark.parametrize("seed", range(200))
def test_it_reads_tags_as_the_protocol_does(seed: int) -> None:
    rng = random.Random(seed)
    pieces = [*TAGS, "<CODE>", "</CoDe>", "x", "<", ">", "</", "code", "\n"]
    text = ""
    for _ in range(30):
        text += rng.choice(pieces)
        assert inside_after(text) is read(text).has_open_block, text


@pytest.mark.parametrize(
    ("pieces", "inside"),
    [
        (["<code>"], True),
        (["<", "co", "de", ">"], True),
        (["<code>", "a", "</code>"], False),
        (["<code>a</code><code>"], True),
        (["<code", " >"], False),
        (["<code>", "</code", ">\n"], False),
        (["<code>x</code> <code>y</code> <code>"], True),
        (["</code>"], False),
        (["a closing </code> tag, then an opening <code> tag"], True),
        (["<CODE>", "never closed"], True),
        (["<code>", "<sandbox_output>", "</code>"], True),
        (["<sandbox_output>printed <code></sandbox_output>"], False),
        ([], False),
    ],
)
def test_the_state_after_a_text(pieces: list[str], inside: bool) -> None:
    vocabulary, span = Vocabulary(), CodeSpan()
    span.push_ids(vocabulary.texts, vocabulary.encode(pieces))
    assert span.inside is inside


def test_what_is_kept_of_a_long_text_is_bounded() -> None:
    span = CodeSpan()
    for word in ("word ", "<", "<sandbox_outpu", "<co") * 2_000:
        span.push(word)
        assert len(span.unfinished) < len("</sandbox_output>")


def test_a_token_costs_the_same_late_in_a_long_text() -> None:
    vocabulary, span = Vocabulary(), CodeSpan()
    ids = vocabulary.encode(["<code>", "x", " = ", "1", "\n", "<", "a"])[1:] * 100
    span.push_ids(vocabulary.texts, ids)
    scanner = span._scanner
    state = {name: getattr(scanner, name) for name in TagScanner.__slots__}
    for _ in range(100):
        span.push_ids(vocabulary.texts, ids)
    assert {name: getattr(scanner, name) for name in TagScanner.__slots__} == state


def test_only_the_assistants_turn_counts_in_a_prompt() -> None:
    assert assistant_turn([9, 1, 2, 9, 5, 6], {9}) == [5, 6]
    assert assistant_turn([9, 1, 9], {9}) == []
    assert assistant_turn([1, 2], {9}) == []
    assert assistant_turn([1, 2], ()) == []
    assert assistant_turn([8, 1, 9, 2, 3], {8, 9}) == [2, 3]


def test_a_tokens_text_is_decoded_once() -> None:
    calls: list[list[int]] = []

    def decode(ids: list[int]) -> str:
        calls.append(ids)
        return "<CODE>"

    texts = TokenTexts(decode)
    assert [texts[7], texts[7]] == ["<CODE>", "<CODE>"]
    assert calls == [[7]]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        *[("word", True), ("a < b", True), ("<|image_pad|>", True), ("</x", True)],
        *[("a <", False), ("</s", False), ("x</", False), ("<sand", False)],
        *[("<CODE>x", False), ("</code>", False)],
    ],
)
def test_only_a_token_with_which_a_tag_may_begin_is_looked_at(text: str, plain: bool) -> None:
    texts = TokenTexts(lambda ids: text)
    _ = texts[0]
    assert (0 in texts.plain) is plain


def test_the_mask_leaves_out_what_came_inside_a_block() -> None:
    vocabulary, span = Vocabulary(), CodeSpan()
    pieces = ["a", "<code>", "x", "</", "code>", "b", "<code>y</code>", "c"]
    mask = span.text_mask(vocabulary.texts, vocabulary.encode(pieces))
    assert mask == [1, 1, 0, 0, 0, 1, 1, 1]
