"""Child process that compares mathematical expressions with math-verify.

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

__all__ = ["main", "compare"]

_MEMORY_BYTES = 4 << 30
_LAST_RESORT_S = 30
"""Seconds after which the kernel ends a comparison whose parent is gone and cannot kill it."""


def compare(answer: str, reference: str) -> str:
    """Return "right", "wrong" or "undecided" for two expressions."""
    from math_verify import verify

    expected, given = _parse(reference), _parse(answer)
    if not expected or not given:
        return "undecided"
    # verify() swallows errors of sympy and then says False, which is no proof of a difference.
    if verify(expected, given, timeout_seconds=None):
        return "right"
    exact = "." not in answer and "." not in reference
    return "wrong" if exact and len(expected) == len(given) == 2 else "undecided"


def _parse(text: str) -> list[Any]:
    """Return math-verify's reading of a whole text as one expression: [expression, text]."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    wrapped = text if "$" in text else f"${text}$"
    found: list[Any] = parse(
        wrapped,
        extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()],
        parsing_timeout=None,
    )
    return found


def main() -> None:
    """Serve requests from stdin until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    import math_verify.grader
    import math_verify.parser

    # Its warning asks for an outer time limit, which the parent process is.
    math_verify.grader.TIMEOUT_WARNING_SHOWN = True
    math_verify.parser.TIMEOUT_WARNING_SHOWN = True
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
