r"""Mathematics as people write it, rewritten to LaTeX with every sign accounted for.

``2√3``, ``pi/2``, ``exp(16)``, ``x**2``, ``\sqrt(5)`` and ``30^\circ`` become LaTeX that has one
reading. A text with anything unknown in it gives None: parsers of LaTeX drop what they cannot read
and would then compare the rest.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from swift_thyme.answers.units import UNITS

__all__ = ["INFINITY", "Relation", "is_read", "split_items", "to_latex", "to_relation"]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<scientific>(?:\d+(?:\.\d+)?|\.\d+)[eE][-+]?\d+)(?![\w.])
    | (?P<number>\d+(?:\{?,\}?\d{3})+(?!\d)(?:\.\d+)?|\d+\.\d+|\.\d+|\d+)
    | (?P<command>\\[a-zA-Z]+|\\.)
    | (?P<word>[A-Za-z]+)
    | (?P<power>\*\*)
    | (?P<sign>[-+*/^_(){}\[\]!|\u00b7\u00d7\u00f7\u22c5\u2212\u2013\u221a\u221b\u03c0\u221e\u00b0])
    | (?P<greek>[\u03b1-\u03c9])
    | (?P<vulgar>[\u00bc-\u00be\u2150-\u215e])
    )""",
    re.VERBOSE,
)
_FUNCTIONS = frozenset("sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh ln".split())
_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi "
    "chi psi omega".split()
)
_DROPPED = frozenset(("\\left", "\\right", "\\,", "\\;", "\\:", "\\!", "\\displaystyle", "\\ "))
_OPERATORS = {
    "*": "\\cdot ",
    "\u00b7": "\\cdot ",
    "\u22c5": "\\cdot ",
    "\u00d7": "\\cdot ",
    "\\times": "\\cdot ",
    "\\cdot": "\\cdot ",
    "\u00f7": "/",
    "\\div": "/",
    "\u2212": "-",
    "\u2013": "-",
    "+": "+",
    "-": "-",
    "/": "/",
}
_RELATION = re.compile(r"\\leq?\b|\\geq?\b|<=|>=|\u2264|\u2265|=|<|>|\\lt\b|\\gt\b")
_RELATIONS = {"\\le": "<=", "\\leq": "<=", "\u2264": "<=", "\\ge": ">=", "\\geq": ">="} | {
    "\u2265": ">=",
    "\\lt": "<",
    "\\gt": ">",
}
_ROMAN = re.compile(r"\\(?:mathrm|text|textrm|rm|operatorname)\s*\{\s*([A-Za-z]+)\s*\}")
INFINITY = re.compile(r"\s*([-+]?)\s*(?:\\infty|\u221e|infinity|oo)\s*")
"""An end of an interval that is no number; the group is its sign."""
_LARGEST_POWER = 400
_OPENING = {"(": ")", "[": "]", "{": "}"}


class Relation(NamedTuple):
    """Two sides and what stands between them; ``sign`` is empty for a lone expression."""

    left: str
    sign: str
    right: str


class _Unread(Exception):
    """Part of the text has no known meaning."""


class _Reader:
    """Recursive reader of one expression; every method returns LaTeX."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        text = _ROMAN.sub(r" \1 ", text)
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise _Unread
            at = match.end()
            token = match.group(match.lastgroup)
            if token not in _DROPPED:
                self.tokens.append((match.lastgroup, token))
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise _Unread
        self.at += 1
        return token

    def whole(self) -> str:
        found = self.sum()
        if self.at != len(self.tokens):
            raise _Unread
        return found

    def sum(self) -> str:
        found = ""
        if self.peek() in ("-", "+", "\u2212", "\u2013"):
            found = _OPERATORS[self.take()]
        found += self.product()
        while self.peek() in ("-", "+", "\u2212", "\u2013"):
            found += _OPERATORS[self.take()] + self.product()
        return found

    def product(self) -> str:
        """Read factors from the left, so that 1/2x is one half of x; the result is bracketed."""
        found = self.power()
        while True:
            operator = _OPERATORS.get(self.peek(), "")
            if operator in ("\\cdot ", "/"):
                self.take()
                sign = _OPERATORS[self.take()] if self.peek() in ("-", "\u2212") else ""
                factor = f"({sign}{self.power()})" if sign else self.power()
                if operator == "/" and self.starts_factor():
                    # "1/2x" and "a/bc" have two readings.
                    raise _Unread
                if operator == "/":
                    found = f"\\frac{{{found}}}{{{factor}}}"
                else:
                    found += operator + factor
            elif self.starts_factor():
                if self.kind() in ("number", "scientific", "vulgar"):
                    raise _Unread
                found += "\\cdot " + self.power()
            else:
                return found

    def starts_factor(self) -> bool:
        token = self.peek()
        if self.kind() in ("number", "scientific", "word", "greek", "vulgar"):
            return True
        if self.kind() == "command":
            return token not in _OPERATORS
        return token in ("(", "{", "\u221a", "\u221b", "\u03c0")

    def power(self) -> str:
        base = self.atom()
        while self.peek() in ("^", "**", "!", "\u00b0"):
            token = self.take()
            if token == "!":
                base = f"({base})!"
            elif token == "\u00b0":
                base = f"({base}\\cdot \\frac{{\\pi}}{{180}})"
            else:
                exponent = self.exponent()
                if exponent == "degrees":
                    base = f"({base}\\cdot \\frac{{\\pi}}{{180}})"
                else:
                    base = f"({base})^{{{exponent}}}"
        return base

    def exponent(self) -> str:
        if self.peek() == "{":
            self.take()
            if self.peek() in ("\\circ", "\u00b0"):
                self.take()
                self.take("}")
                return "degrees"
            found = self.sum()
            self.take("}")
            return found
        if self.peek() in ("\\circ",):
            self.take()
            return "degrees"
        sign = _OPERATORS[self.take()] if self.peek() in ("-", "\u2212", "+") else ""
        found = self.atom()
        # Powers of powers are read from the right.
        if self.peek() in ("^", "**"):
            self.take()
            found = f"({found})^{{{self.exponent()}}}"
        return sign + found

    def group(self) -> str:
        opening = self.take()
        if opening not in ("(", "{", "["):
            raise _Unread
        found = self.sum()
        self.take(_OPENING[opening])
        return f"({found})"

    def argument(self) -> str:
        """Read what a root or function stands before, with or without brackets."""
        if self.peek() in ("(", "{"):
            return self.group()
        found = self.atom()
        if self.peek() in ("\u00b0", "^") and self.is_degrees():
            found = f"({found}\\cdot \\frac{{\\pi}}{{180}})"
        if self.starts_factor() or self.peek() in ("^", "**", "!"):
            # "sin 2x" and the root sign before "2x" have two readings.
            raise _Unread
        return found

    def is_degrees(self) -> bool:
        """Take a degree sign, in any spelling, if one is next."""
        before = self.at
        if self.take() == "\u00b0" or self.exponent() == "degrees":
            return True
        self.at = before
        return False

    def atom(self) -> str:
        kind, token = self.kind(), self.peek()
        if kind == "number":
            return self.number()
        if kind == "scientific":
            return self.scientific()
        if token in ("(", "{"):
            return self.group()
        if kind == "vulgar":
            self.take()
            part = Fraction(unicodedata.numeric(token)).limit_denominator(10)
            return f"\\frac{{{part.numerator}}}{{{part.denominator}}}"
        if kind == "greek" or token in ("\u03c0", "\u221a", "\u221b"):
            self.take()
            if token in ("\u221a", "\u221b"):
                root = "" if token == "\u221a" else "[3]"
                return f"\\sqrt{root}{{{self.argument()}}}"
            if token == "\u03c0":
                return "\\pi "
            return self.letter(unicodedata.name(token).split()[-1])
        if kind == "command":
            return self.named(self.take()[1:])
        if kind == "word":
            return self.word()
        raise _Unread

    def scientific(self) -> str:
        """Read 1e-7, which is not e minus 7."""
        digits, _, power = self.take().casefold().partition("e")
        if abs(int(power[:9])) > _LARGEST_POWER:
            raise _Unread
        value = Fraction(digits) * Fraction(10) ** int(power)
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"

    def number(self) -> str:
        value = Fraction(re.sub(r"[{},]", "", self.take()))
        if self.peek() in ("\\frac", "\\dfrac", "\\tfrac") and value.denominator == 1:
            # A mixed number; 3 before a fraction of letters is a factor.
            after = [token for _, token in self.tokens[self.at + 1 : self.at + 7]]
            if len(after) == 6 and after[1].isdigit() and after[4].isdigit():
                return f"({value}+{self.atom()})"
        if self.kind() == "vulgar" and value.denominator == 1:
            return f"({value}+{self.atom()})"
        if value.denominator == 1:
            return str(value.numerator)
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"

    def word(self) -> str:
        word = self.take()
        if len(word) == 1:
            return self.letter(word)
        name = word if word in ("sqrt", "exp", "pi", "cbrt") else word.casefold()
        if name in _FUNCTIONS or name in _NAMES or name in ("sqrt", "exp", "cbrt", "pi", "infty"):
            return self.named(name)
        if word in UNITS or word.casefold() in UNITS or len(word) > 2:
            if word.endswith("pi") and len(word) == 2:
                return self.named("pi")
            raise _Unread
        return "\\cdot ".join(self.letter(letter) for letter in word)

    def letter(self, name: str) -> str:
        name = name if len(name) == 1 else f"\\{name.casefold()} "
        if self.peek() == "_":
            self.take()
            index = self.take()
            if index == "{":
                index = self.take()
                self.take("}")
            if not index.isalnum():
                raise _Unread
            return f"{name}_{{{index}}}"
        return name

    def named(self, name: str) -> str:
        name = _NAMES.get(name, name)
        if name in ("frac", "dfrac", "tfrac"):
            return f"\\frac{{{self.part()}}}{{{self.part()}}}"
        if name in ("sqrt", "cbrt"):
            root = "[3]" if name == "cbrt" else ""
            if self.peek() == "[":
                self.take()
                root = f"[{self.sum()}]"
                self.take("]")
            return f"\\sqrt{root}{{{self.argument()}}}"
        if name == "exp":
            return f"e^{{{self.group()}}}"
        if name == "pi":
            return "\\pi "
        if name in _FUNCTIONS:
            outer = ""
            if self.peek() in ("^", "**"):
                self.take()
                outer = self.exponent()
                if outer in ("degrees", "-1"):
                    raise _Unread
            found = f"\\{name}({self.argument()})"
            return f"({found})^{{{outer}}}" if outer else found
        if name in _GREEK:
            return self.letter(name)
        raise _Unread

    def part(self) -> str:
        if self.peek() == "{":
            return self.group()
        kind, token = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        if kind == "number" and len(token) == 2 and token.isdigit():
            # \frac12
            self.tokens[self.at] = (kind, token[1])
            return token[0]
        if (kind == "number" and len(token) == 1) or (kind == "word" and len(token) == 1):
            return self.take()
        raise _Unread


def to_latex(text: str) -> str | None:
    """Return LaTeX for an expression without relations; None where any part is unknown."""
    try:
        return _Reader(text).whole()
    except (_Unread, RecursionError):
        return None


def to_relation(text: str) -> Relation | None:
    """Return both sides of an equation or inequality, or a lone expression."""
    signs = _RELATION.findall(text)
    if len(signs) > 1:
        return None
    sides = [to_latex(side) for side in _RELATION.split(text)]
    if any(side is None for side in sides):
        return None
    left, right = sides[0] or "", (sides[1] or "") if signs else ""
    sign = _RELATIONS.get(signs[0], signs[0]) if signs else ""
    return Relation(left, sign, right)


def split_items(text: str) -> tuple[str, list[str]]:
    """Return the brackets around a tuple, interval or set and its items; one item without any."""
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])", "", text).replace("\\{", "{").replace("\\}", "}")
    text = text.strip()
    if text[:1] not in _OPENING or text[-1:] not in _OPENING.values():
        return "", [text]
    depth, parts, start = 0, [], 1
    for index, sign in enumerate(text):
        depth += (sign in _OPENING) - (sign in _OPENING.values())
        if depth == 0 and index < len(text) - 1:
            return "", [text]
        if sign == "," and depth == 1:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:-1])
    return (text[0] + text[-1], parts) if len(parts) > 1 else ("", [text])


def is_read(text: str) -> bool:
    """Tell whether every sign of an expression, relation, tuple or set has a known meaning."""
    _, items = split_items(text)
    return all(INFINITY.fullmatch(item) or to_relation(item) for item in items)
