"""Normal forms of short answers; pure functions of text."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["clean", "normalise", "words_of", "NEGATIONS"]

_WRAPPERS = (
    re.compile(r"\A\\\[(.*)\\\]\Z", re.DOTALL),
    re.compile(r"\A\\\((.*)\\\)\Z", re.DOTALL),
    re.compile(r"\A\\(?:boxed|fbox)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}\Z", re.DOTALL),
    re.compile(r"\A\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}\Z", re.DOTALL),
    re.compile(r"\A\*\*([^*]+)\*\*\Z", re.DOTALL),
    re.compile(r"\A\*([^*]+)\*\Z", re.DOTALL),
    re.compile(r"\A`+([^`]+)`+\Z", re.DOTALL),
    re.compile(r"\A\"([^\"]*)\"\Z", re.DOTALL),
    re.compile(r"\A'([^']*)'\Z", re.DOTALL),
    re.compile(r"\A\u201c([^\u201d]*)\u201d\Z", re.DOTALL),
)
_DOLLARS = re.compile(r"\A(\${1,2})([^$]+)\1\Z", re.DOTALL)
_LEAD_IN = re.compile(
    r"""\A(?:so[,\s]+|therefore[,\s]+|thus[,\s]+|hence[,\s]+)?
    (?:
        (?:(?:the|my)\s+)?(?:final\s+|correct\s+|right\s+|best\s+)?(?:answer|result)\s*
            (?:is\s*:?|:|=)(?!\s*(?:not|n't)\b)
      | (?:it|this|that)\s*(?:is|'s)\s+(?!\s*not\b)
      | there\s+(?:are|is)\s+(?!\s*not?\b)
      | (?:approximately|about|around|roughly|nearly)\s+(?=[\d$£€¥])
    )\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_ARTICLE = re.compile(r"\A(?:a|an|the)\s+", re.IGNORECASE)
_EDGE = " \t\r\n,;:?\"'`*_\u201c\u201d\u3002"
_LATEX_SPACE = re.compile(r"\\[,;:!]|~")
_SPACE = re.compile(r"\s+")
_JOINERS = re.compile(r"(?<=\w)[-\u2010-\u2015_](?=\w\w)")
_EXCLAIMED = re.compile(r"(?<=[^\W\d]{2})!+\Z")
_SUPERSCRIPTS = re.compile("[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_POSSESSIVE = re.compile(r"[\u2018\u2019]")

NEGATIONS = frozenset(
    "not no never none neither nor without cannot isn't aren't wasn't don't doesn't can't".split()
)
"""Words after which a phrase may mean its opposite."""


def _power(raised: re.Match[str]) -> str:
    return "^" + unicodedata.normalize("NFKC", raised.group(0)).replace("\u2212", "-")


def clean(text: str) -> str:
    r"""Take wrappers and lead-ins off an answer: ``**The answer is \boxed{4}.**`` -> ``4``."""
    # NFKC would turn a raised 2 into a plain one, and so 5 squared into 52.
    text = _SUPERSCRIPTS.sub(_power, text)
    text = unicodedata.normalize("NFC", text).strip()
    while True:
        before = text
        text = text.strip()
        stripped = text.rstrip(".\u3002") if not text.endswith("...") else text
        for wrapper in _WRAPPERS:
            match = wrapper.match(stripped)
            if match is not None:
                stripped = match.group(1).strip()
        match = _DOLLARS.match(stripped)
        if match is not None:
            stripped = match.group(2).strip()
        text = _LEAD_IN.sub("", stripped, count=1)
        if text == before or not text:
            return text or before


def normalise(text: str) -> str:
    """Return a form in which spellings of the same short text are equal.

    Case, width, spacing, hyphens, quotes, punctuation at the edges and a leading article do not
    matter; word order, signs, digits and everything else do.
    """
    text = unicodedata.normalize("NFKC", _LATEX_SPACE.sub(" ", clean(text))).casefold()
    text = _POSSESSIVE.sub("'", text)
    text = _JOINERS.sub(" ", text) if not any(c.isdigit() for c in text) else text
    text = _EXCLAIMED.sub("", _SPACE.sub(" ", text).strip(_EDGE).rstrip("."))
    without = _ARTICLE.sub("", text)
    return without or text


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower case."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", unicodedata.normalize("NFKC", text).casefold())
