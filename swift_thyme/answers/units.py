"""Units of measurement: the table, and compound ones such as ``kg/m^3`` or "square feet"."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["TABLE", "UNITS", "find_unit", "spellings_of"]

TABLE: dict[str, dict[str, tuple[str, ...]]] = {
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
        "1e-3": ("ml", "mL", "milliliter", "millilitre"),
        "1e-2": ("cl", "cL", "centiliter", "centilitre"),
        "1": ("l", "L", "liter", "litre"),
        "3.785411784": ("gal", "gallon"),
    },
    "area": {"1e4": ("ha", "hectare"), "4046.8564224": ("acre",)},
    "speed": {"5/18": ("kph", "kmh"), "0.44704": ("mph",)},
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
    "rupees": {"1": ("₹", "inr", "rs", "rupee")},
    "yen": {"1": ("¥", "jpy", "yen")},
    "pixels": {"1": ("px", "pixel")},
}


def _spellings() -> dict[str, tuple[str, Fraction]]:
    found: dict[str, tuple[str, Fraction]] = {}
    for dimension, units in TABLE.items():
        for factor, names in units.items():
            for name in names:
                found[name] = (dimension, Fraction(factor))
                if name.isascii() and len(name) > 3:
                    found.setdefault(f"{name}s", (dimension, Fraction(factor)))
    return found


UNITS = _spellings()
"""Dimension and size in its base unit, by spelling."""
_NAMED_POWERS = {
    (("length", 2),): ("area", Fraction(1)),
    (("length", 3),): ("volume", Fraction(1000)),
    (("length", 1), ("time", -1)): ("speed", Fraction(1)),
}
_FACTOR = re.compile(
    r"(?P<prefix>(?:sq|square|cubic|cu)\.?\s+)?(?P<name>[^\W\d]+|°[CF]?|%)"
    r"\s*(?:\^?\{?(?P<power>-?[1-9])\}?|(?P<word>squared|cubed))?"
)
_JOIN = re.compile(r"\s*(?P<over>/|\bper\b)\s*|\s*[·⋅*]\s*|\s*\\cdot\s*")


def find_unit(text: str) -> tuple[str, Fraction] | None:
    """Return dimension and size of the unit that a whole text is; None for anything else."""
    text = text.strip()
    return _simple(text) or _compound(text)


def _simple(text: str) -> tuple[str, Fraction] | None:
    known = UNITS.get(text)
    if known is None and len(text) > 2:
        # Two letters or fewer keep their case: mW and MW, mm and Mm are not the same.
        known = UNITS.get(text.casefold())
    return known


def _compound(text: str) -> tuple[str, Fraction] | None:
    powers: dict[str, int] = {}
    factor = Fraction(1)
    at, sign = 0, 1
    while True:
        match = _FACTOR.match(text, at)
        unit = _simple(match.group("name")) if match is not None else None
        if match is None or unit is None:
            return None
        power = int(match.group("power") or {"squared": 2, "cubed": 3}.get(match.group("word"), 1))
        if match.group("prefix"):
            if power != 1:
                return None
            power = 2 if match.group("prefix").startswith("sq") else 3
        powers[unit[0]] = powers.get(unit[0], 0) + sign * power
        factor *= unit[1] ** (sign * power)
        at = match.end()
        if at == len(text):
            break
        join = _JOIN.match(text, at)
        if join is None:
            return None
        # "kg/m s" and "a/b/c" are read differently by different people.
        if sign < 0:
            return None
        sign, at = (-1 if join.group("over") else 1), join.end()
    key = tuple(sorted((name, power) for name, power in powers.items() if power))
    if not key:
        return None
    if len(key) == 1 and key[0][1] == 1:
        return key[0][0], factor
    name, scale = _NAMED_POWERS.get(key, ("*".join(f"{n}^{p}" for n, p in key), Fraction(1)))
    return name, factor * scale


def spellings_of(dimension: str, factor: Fraction) -> list[str]:
    """Return every listed spelling of a unit, with those of squares, cubes and speeds."""
    names = [name for name, unit in UNITS.items() if unit == (dimension, factor)]
    words = {name: unit[1] for name, unit in UNITS.items() if unit[0] == "length"}
    if dimension in ("area", "volume"):
        power, scale = (2, 1) if dimension == "area" else (3, 1000)
        prefixes = ("square ", "sq ", "sq. ") if power == 2 else ("cubic ", "cu ")
        for name, size in words.items():
            if size**power * scale == factor:
                names += [f"{name}^{power}", f"{name}{power}", *(p + name for p in prefixes)]
    if dimension == "speed":
        times = [(name, unit[1]) for name, unit in UNITS.items() if unit[0] == "time"]
        names += [
            f"{name}{over}{time}"
            for name, size in words.items()
            for time, seconds in times
            if size / seconds == factor
            for over in ("/", " per ")
        ]
    return names
