"""What a question asks for, as far as it decides how an answer has to be compared."""

from __future__ import annotations

import re

__all__ = ["asks_for_a_fraction", "asks_for_a_name", "asks_for_a_set"]

_NAME = re.compile(
    r"\b(?:version|release|build|firmware|section|chapter|figure|clause|article|paragraph|plates?"
    r"|licen[cs]e|registration|seat|gate|platform|room|flight|train|bus|route|code|serial|model"
    r"|part|sku|isbn|barcode|id|identifier|username|password|phone|telephone|zip|postal|account"
    r"|invoice|ticket|signature|aspect|scores?|ip|address|called|names?|title|label(?:led|ed)?"
    r"|written|writes?|says?|reads?|printed|engraved|inscribed|spelled|spelt|jersey|scale|text"
    r"|apartment|suite|locker|lot|track|grade|size|odds|date|channel|exit|key|formula)\b",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"\b(?:how (?:many|much|long|far|tall|high|wide|deep|heavy|old|fast)|prices?|costs?|amounts?"
    r"|percent(?:age)?|values?|totals?|sum|average|mean|temperature|distance|weight|calculate"
    r"|compute)\b",
    re.IGNORECASE,
)
_FRACTION = re.compile(
    r"\b(?:fractions?|shares?|parts?|portions?|proportions?|probabilit(?:y|ies)|chance|ratio"
    r"|how much|what is the value|calculate|compute|simplif\w+|evaluate|area|length|slope|sum"
    r"|solve)\b",
    re.IGNORECASE,
)
_SET = re.compile(
    r"\b(?:list|name (?:all|two|three|four|the)|which (?:of|two|three|four)"
    r"|(?:what|which) (?:[\w-]+ ){0,3}(?:are|were|can|do|have|appear))\b",
    re.IGNORECASE,
)
_ORDERED = re.compile(
    r"\b(?:order\w*|rank\w*|sort\w*|ascending|descending|increasing|decreasing|sequence|steps?"
    r"|respective(?:ly)?|coordinates?|from|to|then|next|before|after|followed|clockwise"
    r"|anticlockwise|counterclockwise|left|right|top|bottom|front|back|upper|lower|first|second"
    r"|last|final|chronolog\w*|alphabet\w*|row by row|one by one|each|every|both|and|or|versus|vs"
    r"|winner|loser|title|names? of|called|text|slogan|phrase|sentence|motto|words?|lyrics|written"
    r"|says?|reads?|printed|label\w*|caption|headline|lines?|starts?|begins?|ends?|open\w*|clos\w+"
    r"|between|pairs?|than|most|largest|smallest|biggest|tallest|oldest|youngest|highest|lowest)\b"
    r"|[\u2192>]",
    re.IGNORECASE,
)


def asks_for_a_name(question: str) -> bool:
    """Tell whether digits may be a name, where 3.10 is not 3.1: versions, plates."""
    return _NAME.search(question) is not None and _AMOUNT.search(question) is None


def asks_for_a_fraction(question: str) -> bool:
    """Tell whether a/b is a number there, not a time signature, a date or a score."""
    if re.search(r"\b(?:signature|scores?|date|aspect)\b", question, re.IGNORECASE) is not None:
        return False
    return _FRACTION.search(question) is not None


def asks_for_a_set(question: str) -> bool:
    """Tell whether a question asks for several things and nothing in it gives them an order."""
    if question.count("?") > 1 or _ORDERED.search(question) is not None:
        return False
    return _SET.search(question) is not None
