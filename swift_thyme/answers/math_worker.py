"""Child process that compares mathematical expressions with latex2sympy and sympy.

It is a process of its own because sympy can run for ever inside one C call, where neither a thread
nor an alarm can stop it; the parent kills this process instead. It imports neither torch nor swift.

Protocol: after start, and for each request, one line of JSON on stdout. A request is one line
``["answer", "reference"]``, a reply one of ``"right"``, ``"wrong"``, ``"undecided"``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

from swift_thyme.answers.expressions import INFINITY, Relation, split_items, to_relation

__all__ = ["main", "compare"]

_MEMORY_BYTES = 4 << 30
_LAST_RESORT_S = 30
"""Seconds after which the kernel ends a comparison whose parent is gone and cannot kill it."""


def compare(answer: str, reference: str) -> str:
    """Return "right", "wrong" or "undecided" for two expressions, relations, tuples or sets."""
    given_brackets, given = split_items(answer)
    brackets, expected = split_items(reference)
    if brackets != given_brackets:
        return "undecided"
    if len(given) != len(expected):
        return "wrong" if all(to_relation(item) for item in given + expected) else "undecided"
    if brackets == "{}":
        table = [[_compare_items(g, e) for g in given] for e in expected]
        if all(row.count("right") == 1 for row in table):
            columns = {row.index("right") for row in table}
            return "right" if len(columns) == len(table) else "undecided"
        return "wrong" if any(set(row) == {"wrong"} for row in table) else "undecided"
    found = {_compare_items(g, e) for g, e in zip(given, expected, strict=True)}
    return next(v for v in ("wrong", "undecided", "right") if v in found)


def _compare_items(answer: str, reference: str) -> str:
    infinite = [INFINITY.fullmatch(text) for text in (answer, reference)]
    if any(infinite):
        signs = [match.group(1).strip() == "-" if match else None for match in infinite]
        return "right" if signs[0] == signs[1] else "wrong"
    given, expected = to_relation(answer), to_relation(reference)
    if given is None or expected is None:
        return "undecided"
    if given.sign == expected.sign == "":
        exact = "." not in answer and "." not in reference
        return _same_value(_sympy(given.left), _sympy(expected.left), exact)
    if given.sign and expected.sign:
        return _same_relation(given, expected)
    named, bare = (given, expected) if given.sign else (expected, given)
    left, value = _sympy(named.left), _sympy(bare.left)
    if named.sign != "=" or not left.is_Symbol or left in value.free_symbols:
        return "undecided"
    exact = "." not in answer and "." not in reference
    return _same_value(_sympy(named.right), value, exact)


def _sympy(latex: str) -> Any:
    from latex2sympy2_extended import latex2sympy

    return latex2sympy(latex)


def _same_value(a: Any, b: Any, exact: bool) -> str:
    """Compare two expressions; a difference counts only if it is seen at a point with 30 digits."""
    import sympy

    if a == b:
        return "right"
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    same_symbols = a.free_symbols == b.free_symbols
    differs = False
    for start in (sympy.Rational(13, 7), sympy.Rational(29, 11)):
        point = {s: start + sympy.Rational(i, 3) for i, s in enumerate(symbols)}
        x, y = (sympy.N(e.subs(point), 30) for e in (a, b))
        if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
            return "undecided"
        # Relative, so that tiny values are not all equal to zero.
        differs = differs or abs(x - y) > sympy.Float("1e-20") * max(abs(x), abs(y))
    if differs:
        return "wrong" if exact and same_symbols else "undecided"
    return "right" if sympy.simplify(a - b) == 0 else "undecided"


def _same_relation(given: Relation, expected: Relation) -> str:
    """Compare equations and inequalities; two of them are the same up to a constant factor."""
    import sympy

    sides = []
    for relation in (given, expected):
        difference = _sympy(relation.left) - _sympy(relation.right)
        # Everything becomes "difference < 0" or "= 0".
        sides.append(-difference if relation.sign.startswith(">") else difference)
    a, b = sides
    signs = [relation.sign.replace(">", "<") for relation in (given, expected)]
    if not a.free_symbols or a.free_symbols != b.free_symbols:
        # "1 + 1 = 2" is true like "2 + 2 = 4" and still something else.
        return "undecided"
    ratio = sympy.simplify(a / b)
    if ratio.is_number and ratio != 0 and ratio.is_finite:
        if signs[0] == signs[1]:
            return "right" if signs[0] == "=" or ratio > 0 else "wrong"
        return "wrong"
    polynomials = [sympy.Poly(e, *sorted(a.free_symbols, key=str)) for e in sides]
    return "wrong" if all(p.total_degree() == 1 for p in polynomials) else "undecided"


def main() -> None:
    """Serve requests from stdin until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    # Parsers are built on first use, which must not count against the limit of the first pair.
    compare(r"\frac{x}{2}", "x/2")
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        answer, reference = json.loads(line)
        # Without a handler SIGALRM ends the process, also inside a C call that never returns.
        signal.alarm(_LAST_RESORT_S)
        try:
            reply = compare(answer, reference)
        except (Exception, RecursionError, MemoryError):  # noqa: BLE001 - model text reaches a parser
            reply = "undecided"
        signal.alarm(0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
