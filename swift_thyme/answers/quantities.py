"""Numbers with and without units: reading them and comparing them exactly.

Values are fractions, so ``0.1`` equals ``1/10`` and nothing depends on floating point. Where two
values differ only by rounding, or a unit is missing that could have been meant, the comparison is
undecided rather than guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import clean, number_word, words_of

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

    @property
    def base_value(self) -> Fraction:
        """The value in the base unit of the dimension."""
        return self.value * self.factor


_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "length": {
        "1e-9": ("nm", "nanometer", "nanometre"),
        "1e-6": ("um", "µm", "μm", "micrometer", "micrometre", "micron"),
        "1e-3": ("mm", "millimeter", "millimetre"),
        "1e-2": ("cm", "centimeter", "centimetre"),
        "1e-1": ("dm", "decimeter", "decimetre"),
        "1": ("m", "meter", "metre"),
        "1000": ("km", "kilometer", "kilometre"),
        "0.0254": ("in", "inch", "inches"),
        "0.3048": ("ft", "foot", "feet"),
        "0.9144": ("yd", "yard"),
        "1609.344": ("mi", "mile"),
    },
    "mass": {
        "1e-6": ("mg", "milligram"),
        "1e-3": ("g", "gram", "gramme"),
        "1": ("kg", "kilo", "kilogram"),
        "1000": ("t", "tonne", "metric ton"),
        "0.45359237": ("lb", "lbs", "pound"),
        "0.028349523125": ("oz", "ounce"),
    },
    "time": {
        "1e-3": ("ms", "millisecond"),
        "1": ("s", "sec", "secs", "second"),
        "60": ("min", "mins", "minute"),
        "3600": ("h", "hr", "hrs", "hour"),
        "86400": ("d", "day"),
        "604800": ("week", "wk"),
    },
    "months": {"1": ("month",), "12": ("year", "yr", "yrs")},
    "volume": {
        "1e-3": ("ml", "mL", "milliliter", "millilitre", "cm^3", "cubic centimeter"),
        "1e-2": ("cl", "cL", "centiliter", "centilitre"),
        "1": ("l", "L", "liter", "litre"),
        "1000": ("m^3", "cubic meter", "cubic metre"),
    },
    "area": {
        "1e-6": ("mm^2", "square millimeter", "square millimetre"),
        "1e-4": ("cm^2", "sq cm", "square centimeter", "square centimetre"),
        "1": ("m^2", "sq m", "square meter", "square metre"),
        "1e4": ("ha", "hectare"),
        "1e6": ("km^2", "sq km", "square kilometer", "square kilometre"),
    },
    "speed": {
        "1": ("m/s", "meters per second", "metres per second"),
        "5/18": ("km/h", "kph", "kmh", "kilometers per hour", "kilometres per hour"),
        "0.44704": ("mph", "miles per hour"),
    },
    "angle": {"1": ("°", "deg", "degree")},
    "celsius": {"1": ("°C", "degrees celsius", "degree celsius", "celsius")},
    "fahrenheit": {"1": ("°F", "degrees fahrenheit", "degree fahrenheit", "fahrenheit")},
    "power": {
        "1e-3": ("mW", "milliwatt"),
        "1": ("W", "watt"),
        "1e3": ("kW", "kilowatt"),
        "1e6": ("MW", "megawatt"),
    },
    "energy": {"1": ("J", "joule"), "1e3": ("kJ", "kilojoule"), "3.6e6": ("kWh",)},
    "food energy": {"1": ("cal", "calorie"), "1000": ("kcal", "kilocalorie")},
    "voltage": {"1e-3": ("mV", "millivolt"), "1": ("V", "volt"), "1e3": ("kV", "kilovolt")},
    "current": {"1e-3": ("mA", "milliamp"), "1": ("A", "amp", "ampere")},
    "resistance": {"1": ("Ω", "ohm"), "1e3": ("kΩ", "kiloohm")},
    "frequency": {
        "1": ("Hz", "hertz"),
        "1e3": ("kHz", "kilohertz"),
        "1e6": ("MHz", "megahertz"),
        "1e9": ("GHz", "gigahertz"),
    },
    "force": {"1": ("N", "newton"), "1e3": ("kN", "kilonewton")},
    "pressure": {
        "1": ("Pa", "pascal"),
        "1e3": ("kPa", "kilopascal"),
        "1e6": ("MPa", "megapascal"),
    },
    "data": {
        "1": ("B", "byte"),
        "1e3": ("KB", "kB", "kilobyte"),
        "1e6": ("MB", "megabyte"),
        "1e9": ("GB", "gigabyte"),
        "1e12": ("TB", "terabyte"),
    },
    "percent": {"1/100": ("%", "percent", "per cent", "percentage")},
    "dollars": {
        "1": ("$", "usd", "dollar", "us dollar"),
        "1/100": ("cent", "¢"),
    },
    "euros": {"1": ("€", "eur", "euro")},
    "pounds sterling": {"1": ("£", "gbp", "pound sterling")},
    "yen": {"1": ("¥", "jpy", "yen")},
    "pixels": {"1": ("px", "pixel")},
}


def _spellings() -> dict[str, tuple[str, Fraction]]:
    found: dict[str, tuple[str, Fraction]] = {}
    for dimension, units in _TABLE.items():
        for factor, names in units.items():
            for name in names:
                found[name] = (dimension, Fraction(factor))
                if name.isascii() and len(name) > 3:
                    found.setdefault(f"{name}s", (dimension, Fraction(factor)))
    return found


_UNITS = _spellings()
_MAGNITUDES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "mn": 10**6,
    "billion": 10**9,
    "bn": 10**9,
    "trillion": 10**12,
}
_MONEY_MAGNITUDES = {"k": 1000, "m": 10**6, "b": 10**9}
_NUMBER = re.compile(
    r"""(?P<sign>[-+\u2212]?)\s*
    (?P<currency>[$\u20ac\u00a3\u00a5]?)\s*
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
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|rm|textrm)\s*\{([^{}]*)\}")
_NOUN = re.compile(r"[^\W\d_][^\W\d_'-]*(?:[ -][^\W\d_][^\W\d_'-]*){0,3}\Z")
# Words that make a number mean something else than itself.
_HEDGES = frozenset(
    "and or not but to than more less least most over under between plus minus times if nor no "
    "per of out either maybe perhaps x percent".split()
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
    value = _value(match)
    decimal = match.group("decimal") or ""
    decimals = len(decimal.partition(".")[2])
    padded = len(decimal) > 1 and decimal[0] == "0" and decimal.isdecimal()
    return _with_unit(value, rest.strip(), match.group("currency"), decimals, padded)


def _prepare(text: str) -> str:
    text = _LATEX_TEXT.sub(r" \1 ", clean(text))
    text = text.replace("\\%", "%").replace("\\$", "$").replace("^\\circ", "°")
    text = text.replace("^{\\circ}", "°").replace("\\,", " ").replace("{,}", ",")
    text = text.replace("\u2212", "-")
    return _FRACTION.sub(r"\1/\2", text).strip().rstrip(".,;:?").strip()


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
    """Read "twenty-one dogs": a number word below one hundred, then a unit or noun."""
    words = text.split(" ")
    for count in (2, 1):
        value = number_word(" ".join(words[:count])) if len(words) >= count else None
        if value is not None:
            return _with_unit(Fraction(value), " ".join(words[count:]), "", 0, False)
    return None


def _with_unit(
    value: Fraction, rest: str, currency: str, decimals: int, padded: bool
) -> Quantity | None:
    words = rest.split(" ", 1)
    magnitude = _MAGNITUDES.get(words[0].casefold())
    if magnitude is None and currency:
        magnitude = _MONEY_MAGNITUDES.get(words[0].casefold())
    if magnitude is not None:
        value *= magnitude
        rest = words[1].strip() if len(words) > 1 else ""
    if currency:
        dimension, factor = _UNITS[currency]
        if rest and _UNITS.get(rest.casefold(), ("",))[0] != dimension:
            return None
        return Quantity(value, dimension, factor, None, decimals, padded)
    if not rest:
        return Quantity(value, None, Fraction(1), None, decimals, padded)
    known = _UNITS.get(rest) or _UNITS.get(rest.replace("^{2}", "^2").replace("^{3}", "^3"))
    if known is None and len(rest) > 2:
        # Two letters or fewer keep their case: mW and MW, mm and Mm are not the same.
        known = _UNITS.get(rest.casefold())
    if known is not None:
        return Quantity(value, known[0], known[1], None, decimals, padded)
    if _NOUN.match(rest) is None or _HEDGES.intersection(words_of(rest)):
        return None
    return Quantity(value, None, Fraction(1), rest.casefold(), decimals, padded)


def compare_quantities(reference: Quantity, answer: Quantity, question: str = "") -> Verdict:
    """Compare two quantities; the question tells which unit was asked for."""
    if reference.padded != answer.padded:
        # A code such as 007 is not the number 7, but a clock or a count may be.
        return Verdict.UNDECIDED if reference.value == answer.value else Verdict.WRONG
    if reference.dimension and answer.dimension:
        if reference.dimension == answer.dimension:
            return _by_value(reference, answer, reference.base_value, answer.base_value)
        same = reference.value == answer.value
        return Verdict.UNDECIDED if same else Verdict.WRONG
    if reference.dimension or answer.dimension:
        return _one_unit(reference, answer, question)
    nouns = {reference.noun, answer.noun} - {None}
    by_value = _by_value(reference, answer, reference.value, answer.value)
    if len(nouns) == 2 and not _same_noun(*nouns):
        return Verdict.UNDECIDED
    return by_value


def _one_unit(reference: Quantity, answer: Quantity, question: str) -> Verdict:
    """Compare where only one side names its unit."""
    united, bare = (reference, answer) if reference.dimension else (answer, reference)
    if united.dimension == "percent" and united.base_value == bare.value and not bare.noun:
        return Verdict.RIGHT
    if united.value == bare.value:
        asked = bare.noun is None and _mentions(question, united)
        return Verdict.RIGHT if asked else Verdict.UNDECIDED
    assert united.dimension is not None
    for factor in _TABLE[united.dimension]:
        if united.base_value == bare.value * Fraction(factor):
            return Verdict.UNDECIDED
    return _by_value(united, bare, united.value, bare.value)


def _by_value(left: Quantity, right: Quantity, a: Fraction, b: Fraction) -> Verdict:
    if a == b:
        return Verdict.RIGHT
    if a.denominator == 1 and b.denominator == 1 and not (left.decimals or right.decimals):
        return Verdict.WRONG
    # One may be a rounded form of the other; whether that is good enough is for a judge.
    if a * b > 0 and abs(a - b) <= max(abs(a), abs(b)) / 20:
        return Verdict.UNDECIDED
    return Verdict.WRONG


def _same_noun(a: str | None, b: str | None) -> bool:
    return (a or "").rstrip("s") == (b or "").rstrip("s")


def _mentions(question: str, quantity: Quantity) -> bool:
    """Tell whether the question names the unit of a quantity."""
    if not question:
        return False
    padded = f" {_spaced(question)} "
    for name, (dimension, factor) in _UNITS.items():
        if dimension != quantity.dimension or factor != quantity.factor:
            continue
        if f" {_spaced(name)} " in padded and (len(name) > 1 or not name.isalpha()):
            return True
    return False


def _spaced(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+|[^\w\s]", text.casefold()))
