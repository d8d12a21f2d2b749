"""Numbers with and without units: reading them and comparing them exactly.

Values are fractions, so ``0.1`` equals ``1/10`` and nothing depends on floating point. Where two
values differ only by rounding, or a unit is missing that could have been meant, the comparison is
undecided rather than guessed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction

from swift_thyme.answers.names import asks_for_a_fraction, asks_for_a_name
from swift_thyme.answers.number_words import MAGNITUDES, changes_a_number, read_number
from swift_thyme.answers.units import TABLE, UNITS, find_unit, spellings_of
from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import clean, words_of

__all__ = ["Quantity", "parse_quantity", "compare_quantities"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and what stands behind it."""

    value: Fraction
    """The number as written, before any conversion of units."""
    dimension: str | None = None
    """What a known unit measures ("length", "percent", ...); None without a known unit."""
    factor: Fraction = Fraction(1)
    """Size of the unit in the base unit of its dimension."""
    noun: str | None = None
    """Words after the number that are no known unit ("dogs")."""
    decimals: int = 0
    """Digits written after the decimal point."""
    padded: bool = False
    """Whether it is written with leading zeros, as codes and serial numbers are."""
    magnitude: int = 1
    """What "thousand", "K" and the like have multiplied; such numbers are often rounded."""
    letter: str = ""
    """The letter that stood for the magnitude; it may mean something else ("5K", "5T")."""
    written: str = ""
    """The digits as written, without separators; empty for number words."""
    year: bool = False
    """Whether words were read as a year ("twenty twenty")."""

    @property
    def base_value(self) -> Fraction:
        """The value in the base unit of the dimension."""
        return self.value * self.factor


_MONEY_MAGNITUDES = {"k": 1000, "m": 10**6, "b": 10**9, "t": 10**12, "cr": 10**7, "l": 10**5}
# A letter right behind the digits, as on the axes of charts; a small m is a metre.
_LETTER = re.compile(r"(?:([kKMBT])|(Cr|cr|L))(?![\w/^])")
_LETTERS = {"k": 1000, "K": 1000, "M": 10**6, "B": 10**9, "T": 10**12}
_NUMBER = re.compile(
    r"""(?P<sign>[-+\u2212]?)\s*
    (?P<currency>[$\u20ac\u00a3\u00a5\u20b9]?)\s*
    (?P<inner_sign>[-+\u2212]?)
    (?:
        (?P<whole>\d+)\s+(?P<mixed_top>\d+)\s*/\s*(?P<mixed_bottom>\d+)
      | (?P<top>\d+)\s*/\s*(?P<bottom>\d+)
      | (?P<decimal>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?:\.\d+)?
            |\d+\.\d*|\.\d+|\d+)
        (?:[eE](?P<exponent>[-+]?\d{1,3})(?![\w.])
         |\s*(?:\u00d7|x|\*|\\times|\\cdot)\s*10\^\{?(?P<power>[-\u2212+]?\d{1,3})\}?)?
    )""",
    re.VERBOSE,
)
_FRACTION = re.compile(
    r"(\d)?\s*\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}|(?<!\d)\s*(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
)
_VULGAR = re.compile("(\\d)?\\s*([\u00bc-\u00be\u2150-\u215e\u2189])")
_AND_FRACTION = re.compile(r"\A([-+]?\d+)\s+and\s+(?=\d+\s*/\s*\d+)")
_WORDS_AFTER_DIGITS = re.compile(r"\A(\d+)\s+(and\s+(?:a\s+half|a\s+quarter|three\s+quarters))\b")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|rm|textrm)\s*\{([^{}]*)\}")
_NOUN = re.compile(r"[^\W\d_][^\W\d_'-]*(?:[ -][^\W\d_][^\W\d_'-]*){0,3}\Z")
# Words that make a number mean something else than itself.
_HEDGES = frozenset(
    "and or not but to than more less least most over under between plus minus times if nor no "
    "per of out either maybe perhaps x percent".split()
)
_MONEY = frozenset(("dollars", "euros", "pounds sterling", "yen", "rupees"))
_RELATED = (
    frozenset(("time", "months")),
    frozenset(("energy", "food energy")),
    frozenset(("mass", "pounds sterling")),
    _MONEY,
)
# Where a K behind a number is no thousand.
_OTHER_K = re.compile(
    r"\b(?:temperature|kelvin|resolution|race|run|running|marathon|karats?|carats?|gold)\b",
    re.IGNORECASE,
)
_LONGEST_NUMBER = 40


def parse_quantity(text: str) -> Quantity | None:
    """Read a text that is one number with at most a unit or a short noun behind it.

    Returns None for anything else: ranges, lists, sentences, hedged numbers ("5 or 6").
    """
    text = _prepare(text)
    if not text or len(text) > 120:
        return None
    match = _NUMBER.match(text)
    if match is None:
        return _from_words(text)
    if match.end() - match.start() > _LONGEST_NUMBER or _zero_division(match):
        return None
    rest = text[match.end() :]
    if rest[:1].isdigit() or re.match(r"\s*[,.:/+*^=<>\u00d7\u2013\u2014_-]\s*[\d(\\a-zA-Z]", rest):
        return None
    decimal = match.group("decimal") or ""
    written = re.sub(r"[,\s$\u20ac\u00a3\u00a5\u20b9+]", "", match.group(0)).replace("\u2212", "-")
    read = Quantity(
        _value(match),
        decimals=len(decimal.partition(".")[2]),
        padded=len(decimal) > 1 and decimal[0] == "0" and decimal.isdecimal(),
        written=written,
    )
    return _with_unit(read, rest, match.group("currency"))


def _prepare(text: str) -> str:
    text = _LATEX_TEXT.sub(r" \1 ", clean(text))
    text = text.replace("\\%", "%").replace("\\$", "$").replace("^\\circ", "°")
    text = text.replace("^{\\circ}", "°").replace("\\,", " ").replace("{,}", ",")
    text = text.replace("\u2212", "-")
    text = _VULGAR.sub(_plain_fraction, text)
    text = _FRACTION.sub(_latex_fraction, text)
    text = _AND_FRACTION.sub(r"\1 ", text.strip())
    halves = _WORDS_AFTER_DIGITS.match(text)
    if halves is not None:
        parts = {"a half": "1/2", "a quarter": "1/4", "three quarters": "3/4"}
        part = parts[" ".join(halves.group(2).split()[1:])]
        text = f"{halves.group(1)} {part}{text[halves.end() :]}"
    return text.strip().rstrip(".,;:?").strip()


def _plain_fraction(match: re.Match[str]) -> str:
    part = Fraction(unicodedata.numeric(match.group(2))).limit_denominator(10)
    whole = f"{match.group(1)} " if match.group(1) else ""
    return f"{whole}{part.numerator}/{part.denominator}"


def _latex_fraction(match: re.Match[str]) -> str:
    whole, top, short_top, bottom, short_bottom = match.groups()
    lead = f"{whole} " if whole else ""
    return f"{lead}{top or short_top}/{bottom or short_bottom}"


def _zero_division(match: re.Match[str]) -> bool:
    bottom = match.group("bottom") or match.group("mixed_bottom")
    return bottom is not None and int(bottom) == 0


def _value(match: re.Match[str]) -> Fraction:
    if match.group("whole") is not None:
        value = Fraction(int(match.group("whole"))) + Fraction(
            int(match.group("mixed_top")), int(match.group("mixed_bottom"))
        )
    elif match.group("top") is not None:
        value = Fraction(int(match.group("top")), int(match.group("bottom")))
    else:
        digits = re.sub(r"[,\s]", "", match.group("decimal"))
        value = Fraction(digits.rstrip(".") or "0")
        power = match.group("exponent") or match.group("power")
        if power is not None:
            value *= Fraction(10) ** int(power)
    negative = "-" in match.group("sign") or "-" in match.group("inner_sign")
    return -value if negative else value


def _from_words(text: str) -> Quantity | None:
    """Read "twenty-one dogs": a number in words, then a unit or noun."""
    found = read_number(text)
    if found is None:
        return None
    rest = " ".join(text.split()[found.length :])
    if found.year and rest:
        return None
    round_words = found.value >= 1000 and found.value % 1000 == 0
    read = Quantity(found.value, magnitude=1000 if round_words else 1, year=found.year)
    return _with_unit(read, rest, "")


def _with_unit(read: Quantity, rest: str, currency: str) -> Quantity | None:
    """Read what stands behind a number: magnitudes, then a unit or a noun, to the end."""
    letter = _LETTER.match(rest)
    if letter is not None and (letter.group(1) or currency == "\u20b9"):
        size = _LETTERS.get(letter.group(0)) or _MONEY_MAGNITUDES[letter.group(0).casefold()]
        read = _multiplied(read, size, letter.group(0))
        rest = rest[letter.end() :].strip()
    else:
        rest = rest.strip()
        while rest:
            word, _, tail = rest.partition(" ")
            size = MAGNITUDES.get(word.casefold(), 0)
            if not size and currency:
                size = _MONEY_MAGNITUDES.get(word.casefold(), 0)
            if not size:
                break
            read, rest = _multiplied(read, size, ""), tail.strip()
    if currency:
        dimension, factor = UNITS[currency]
        if rest and UNITS.get(rest.casefold(), ("",))[0] != dimension:
            return None
        return replace(read, dimension=dimension, factor=factor)
    if not rest:
        return read
    known = find_unit(rest)
    if known is not None:
        return replace(read, dimension=known[0], factor=known[1])
    words = words_of(rest)
    if _NOUN.match(rest) is None or _HEDGES.intersection(words):
        return None
    if any(changes_a_number(word) for word in words):
        return None
    return replace(read, noun=rest.casefold())


def _multiplied(read: Quantity, size: int, letter: str) -> Quantity:
    return replace(
        read,
        value=read.value * size,
        magnitude=read.magnitude * size,
        letter=letter or read.letter,
        written=f"{read.written} x {size}" if read.written else "",
    )


def compare_quantities(reference: Quantity, answer: Quantity, question: str = "") -> Verdict:
    """Compare two quantities; the question tells which unit was asked for.

    A noun that stands on one side only has been read only where the question has it too.
    """
    if not all(_noun_is_read(one, other, question) for one, other in _both_ways(reference, answer)):
        return Verdict.UNDECIDED
    verdict = _compare(reference, answer, question)
    if verdict is Verdict.RIGHT and not _same_writing(reference, answer, question):
        return Verdict.UNDECIDED
    if verdict is Verdict.WRONG and _has_other_reading(reference, answer):
        return Verdict.UNDECIDED
    return verdict


def _both_ways(a: Quantity, b: Quantity) -> tuple[tuple[Quantity, Quantity], ...]:
    return (a, b), (b, a)


def _compare(reference: Quantity, answer: Quantity, question: str) -> Verdict:
    if reference.padded != answer.padded:
        # A code such as 007 is not the number 7, but a clock or a count may be.
        return Verdict.UNDECIDED if reference.value == answer.value else Verdict.WRONG
    if reference.dimension and answer.dimension:
        if reference.dimension == answer.dimension:
            return _by_value(reference, answer, reference.base_value, answer.base_value)
        if {reference.dimension, answer.dimension} == {"celsius", "fahrenheit"}:
            return _by_value(reference, answer, _in_celsius(reference), _in_celsius(answer))
        same = reference.value == answer.value
        related = _are_related(reference.dimension, answer.dimension)
        return Verdict.UNDECIDED if same or related else Verdict.WRONG
    if reference.dimension or answer.dimension:
        return _one_unit(reference, answer, question)
    return _by_value(reference, answer, reference.value, answer.value)


def _in_celsius(quantity: Quantity) -> Fraction:
    if quantity.dimension == "celsius":
        return quantity.value
    return (quantity.value - 32) * Fraction(5, 9)


def _are_related(one: str, other: str) -> bool:
    """Tell whether two dimensions may measure the same, without a fixed factor between them."""
    if "^" in one or "^" in other:
        # A newton metre is a joule.
        return True
    return any({one, other} <= family for family in _RELATED)


def _noun_is_read(one: Quantity, other: Quantity, question: str) -> bool:
    """Tell whether the noun of one quantity is the other's too, or one that was asked for."""
    if one.noun is None:
        return True
    if other.noun is not None:
        return _singular(one.noun) == _singular(other.noun)
    asked = {_singular(word) for word in words_of(question)}
    return all(_singular(word) in asked for word in words_of(one.noun))


def _same_writing(reference: Quantity, answer: Quantity, question: str) -> bool:
    """Tell whether two equal values are as equal where a name could be meant (3.10, 4/4, 1E5)."""
    for one in (reference, answer):
        if one.letter in ("k", "K") and _OTHER_K.search(question) is not None:
            return False
    if not reference.written or not answer.written or reference.written == answer.written:
        return True
    slashes = "/" in reference.written and "/" in answer.written
    if slashes and question and not asks_for_a_fraction(question):
        return False
    return not asks_for_a_name(question)


def _has_other_reading(reference: Quantity, answer: Quantity) -> bool:
    """Tell whether a difference may go away when a letter or a year's words are read otherwise."""
    for one, other in _both_ways(reference, answer):
        if one.letter and (
            (
                one.value / one.magnitude in (other.value, other.value / other.magnitude)
                and one.magnitude != other.magnitude
            )
            or (other.dimension is not None and one.dimension is None)
        ):
            return True
        if one.year and not (1000 <= other.value <= 2999 and other.value.denominator == 1):
            return True
    return False


def _one_unit(reference: Quantity, answer: Quantity, question: str) -> Verdict:
    """Compare where only one side names its unit."""
    united, bare = (reference, answer) if reference.dimension else (answer, reference)
    if united.dimension == "percent" and united.base_value == bare.value and not bare.noun:
        return Verdict.RIGHT
    if united.value == bare.value:
        asked = bare.noun is None and _mentions(question, united)
        return Verdict.RIGHT if asked else Verdict.UNDECIDED
    assert united.dimension is not None
    factors = {Fraction(factor) for factor in TABLE.get(united.dimension, {})}
    powers = {"area": 2, "volume": 3}
    if united.dimension in powers:
        power = powers[united.dimension]
        scale = 1000 if power == 3 else 1
        factors |= {Fraction(factor) ** power * scale for factor in TABLE["length"]}
    elif united.dimension not in TABLE:
        # A compound unit has more conversions than can be tried.
        return Verdict.UNDECIDED
    if any(united.base_value == bare.value * factor for factor in factors):
        return Verdict.UNDECIDED
    return _by_value(united, bare, united.value, bare.value)


def _by_value(left: Quantity, right: Quantity, a: Fraction, b: Fraction) -> Verdict:
    if a == b:
        return Verdict.RIGHT
    rounded = left.decimals or right.decimals or left.magnitude != right.magnitude
    if a.denominator == 1 and b.denominator == 1 and not rounded:
        return Verdict.WRONG
    # One may be a rounded form of the other; whether that is good enough is for a judge.
    if a * b > 0 and abs(a - b) <= max(abs(a), abs(b)) / 20:
        return Verdict.UNDECIDED
    return Verdict.WRONG


def _singular(noun: str) -> str:
    for ending, short in (("people", "person"), ("children", "child"), ("men", "man")):
        if noun.endswith(ending):
            return noun.removesuffix(ending) + short
    for ending, short in (("ies", "y"), ("xes", "x"), ("shes", "sh"), ("ches", "ch")):
        if noun.endswith(ending):
            return noun.removesuffix(ending) + short
    return noun.rstrip("s")


def _mentions(question: str, quantity: Quantity) -> bool:
    """Tell whether the question names the unit of a quantity."""
    if not question or quantity.dimension is None:
        return False
    question = question.replace("\u00b2", "^2").replace("\u00b3", "^3")
    padded = f" {_spaced(question)} "
    return any(
        f" {_spaced(name)} " in padded and (len(name) > 1 or not name.isalpha())
        for name in spellings_of(quantity.dimension, quantity.factor)
    )


def _spaced(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+|[^\w\s]", text.casefold()))
