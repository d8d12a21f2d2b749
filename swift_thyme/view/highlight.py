"""Colours of Python code, as runs of characters; Pygments reads the code, the page colours it."""

from __future__ import annotations

import functools

from pygments.lexers.python import PythonLexer
from pygments.token import Token

__all__ = ["highlight"]

_CLASSES = (
    (Token.Comment, "c"),
    (Token.Keyword, "k"),
    (Token.Operator.Word, "k"),
    (Token.Literal.String, "s"),
    (Token.Literal.Number, "m"),
    (Token.Name.Builtin, "b"),
    (Token.Name.Exception, "b"),
    (Token.Name.Function, "f"),
    (Token.Name.Class, "f"),
    (Token.Name.Decorator, "f"),
)
PLAIN = "p"


def highlight(code: str) -> str:
    """Return the runs of a program, each a letter and a length: ``k2p1c9``.

    The letters are: comment, keyword, string, (m) number, builtin, function, plain. Lengths count
    UTF-16 units, as JavaScript does; together they cover the program.
    """
    return _runs(code)


@functools.lru_cache(maxsize=4096)
def _runs(code: str) -> str:
    lexer = PythonLexer(ensurenl=False, stripnl=False, stripall=False)
    runs: list[tuple[str, int]] = []
    for _, kind, text in lexer.get_tokens_unprocessed(code):
        letter = next((letter for token, letter in _CLASSES if kind in token), PLAIN)
        length = len(text.encode("utf-16-le", "surrogatepass")) // 2
        if runs and runs[-1][0] == letter:
            length += runs.pop()[1]
        runs.append((letter, length))
    return "".join(f"{letter}{length}" for letter, length in runs)
