"""Programs that must do in the sandbox what they do in plain Python."""
# ruff: noqa: E501 - one program a line

import pytest

from swift_thyme.sandbox import SandboxSession

# name: (program, what it prints)
# fmt: off
PROGRAMS: dict[str, tuple[str, str]] = {
    "one_expression_print": ("print(1 + 1)", "2"),
    "single_for": ("for i in range(3): print(i)", "0\n1\n2"),
    "single_if": ("if 1 < 2:\n    print('yes')", "yes"),
    "single_with": ("with open('/tmp/a', 'w') as f:\n    print(f.write('abc'))", "3"),
    "single_while": ("while True:\n    print(1)\n    break", "1"),
    "single_try": ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    print(e)", "division by zero"),
    "function_calls_function": ("def f(): return 2\ndef g(): return f() + 1\nprint(g())", "3"),
    "recursion": ("def f(n): return 1 if n < 2 else n * f(n - 1)\nprint(f(10))", "3628800"),
    "mutual_recursion": (
        "def e(n): return n == 0 or o(n - 1)\ndef o(n): return n != 0 and e(n - 1)\nprint(e(10))",
        "True",
    ),
    "comprehension_over_top_level": ("k = 3\nprint([k * i for i in range(3)])", "[0, 3, 6]"),
    "nested_comprehension": ("n = 2\nprint([[n for _ in range(n)] for _ in range(n)])", "[[2, 2], [2, 2]]"),
    "generator": ("def g():\n    yield from (1, 2)\nprint(list(g()))", "[1, 2]"),
    "lambda": ("a = 4\nf = lambda x: x + a\nprint(f(1))", "5"),
    "closure": ("def f():\n    c = 0\n    def g():\n        nonlocal c\n        c += 1\n        return c\n    return g\nh = f()\nh()\nprint(h())", "2"),
    "global_statement": ("c = 0\ndef f():\n    global c\n    c += 1\nf()\nprint(c)", "1"),
    "class": ("class A:\n    def f(self): return 7\nprint(A().f())", "7"),
    "inheritance": ("class A:\n    x = 1\nclass B(A):\n    def f(self): return super().__init__()\nprint(B.x, B().f())", "1 None"),
    "property": ("class A:\n    @property\n    def p(self): return 5\nprint(A().p)", "5"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(3))", "P(x=3)"),
    "named_tuple": ("from collections import namedtuple\nP = namedtuple('P', 'x y')\nprint(P(1, 2))", "P(x=1, y=2)"),
    "enum": ("from enum import Enum\nclass E(Enum):\n    A = 1\nprint(E.A.name)", "A"),
    "decorator": ("def d(f): return lambda: f() * 2\n@d\ndef f(): return 4\nprint(f())", "8"),
    "set_builtin": ("print(sorted(set([3, 1, 3])))", "[1, 3]"),
    "type_builtin": ("print(type(3).__name__)", "int"),
    "reversed_builtin": ("print(list(reversed([1, 2])))", "[2, 1]"),
    "zip_enumerate": ("print(list(enumerate(zip('ab', 'cd'))))", "[(0, ('a', 'c')), (1, ('b', 'd'))]"),
    "any_all_sum": ("print(any([0, 1]), all([0, 1]), sum([1, 2]))", "True False 3"),
    "float_format": ("print(f'{1 / 3:.1f}')", "0.3"),
    "percent_format": ("print('%.2f' % 2.345678)", "2.35"),
    "format_nested": ("w = 6\nprint(f'{3:>{w}}|')", "     3|"),
    "print_options": ("print(1, 2, sep='-', end='!')", "1-2!"),
    "print_to_flush": ("print('x', flush=True)", "x"),
    "unicode": ("print('\u00e9\u4e2d')", "\u00e9\u4e2d"),
    "walrus": ("if (n := 5) > 3: print(n)", "5"),
    "match": ("match (1, 2):\n    case (a, b): print(a + b)", "3"),
    "unpacking": ("a, *b = range(3)\nprint(a, b)", "0 [1, 2]"),
    "dict_merge": ("print({'a': 1} | {'b': 2})", "{'a': 1, 'b': 2}"),
    "slices": ("a = list(range(5))\na[1:3] = [9]\nprint(a[::-1])", "[4, 3, 9, 0]"),
    "assert_holds": ("assert 1 == 1\nprint('ok')", "ok"),
    "finally": ("try:\n    pass\nfinally:\n    print('f')", "f"),
    "context_manager": ("from contextlib import contextmanager\n@contextmanager\ndef c():\n    yield 3\nwith c() as v: print(v)", "3"),
    "main_guard": ("def main(): print('m')\nif __name__ == '__main__':\n    main()", "m"),
    "sys_exit_zero": ("import sys\nprint('a')\nsys.exit(0)", "a"),
    "exec_and_eval": ("exec('q = 2')\nprint(eval('q + 1'))", "3"),
    "annotations": ("x: int = 3\nprint(__annotations__)", "{'x': <class 'int'>}"),
    "globals": ("zed = 1\nprint('zed' in globals())", "True"),
    "async_code": ("async def f(): return 3\nc = f()\ntry:\n    c.send(None)\nexcept StopIteration as e:\n    print(e.value)", "3"),
    "event_loop": ("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 3\nprint(asyncio.run(f()))", "3"),
    "threads": ("import threading\nr = []\nt = threading.Thread(target=lambda: r.append(1))\nt.start()\nt.join()\nprint(r)", "[1]"),
    "thread_pool": ("from concurrent.futures import ThreadPoolExecutor as T\nwith T(2) as p: print(list(p.map(abs, [-1, 2])))", "[1, 2]"),
    "preset_names": ("print(np is numpy, callable(cv2.imread), Image.__name__, math.floor(2.5))", "True True PIL.Image 2"),
    "preset_modules": ("print(json.dumps([1]), re.sub('a', 'b', 'aa'), os.path.join('a', 'b'), string.digits[:2])", "[1] bb a/b 01"),
    "preset_random": ("random.seed(1)\nprint(random.randint(1, 9) in range(1, 10))", "True"),
    "image_path": ("print('at ' + os.path.dirname(image_path))", "at /data/images"),
    "pil_open": ("print(Image.open(image_path).size)", "(200, 100)"),
    "cv2_read": ("print(cv2.imread(image_path).shape)", "(100, 200, 3)"),
    "cv2_missing_folder_file_is_none": ("print(cv2.imread('/mnt/data/temp_processed_images/none.png'))", "None"),
    "numpy_slice": ("a = np.arange(6).reshape(2, 3)\nprint(a[:, 1].tolist())", "[1, 4]"),
    "numpy_negative_slice": ("print(np.arange(5)[-2:].tolist())", "[3, 4]"),
    "numpy_linear_algebra": ("print(round(float(np.linalg.det(np.eye(3) * 2)), 3))", "8.0"),
    "scipy": ("from scipy import ndimage\nprint(ndimage.label(np.eye(2))[1])", "2"),
    "sympy": ("from sympy import symbols, solve\nx = symbols('x')\nprint(solve(x**2 - 4))", "[-2, 2]"),
    "decimal": ("from decimal import Decimal\nprint(Decimal('0.1') + Decimal('0.2'))", "0.3"),
    "itertools": ("from itertools import permutations\nprint(len(list(permutations(range(4)))))", "24"),
    "functools_cache": ("from functools import lru_cache\n@lru_cache\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nprint(f(50))", "12586269025"),
    "datetime": ("from datetime import date\nprint((date(2024, 3, 1) - date(2024, 2, 1)).days)", "29"),
    "inspect_source": ("import inspect\ndef f(): return 1\nprint(inspect.getsource(f).strip())", "def f(): return 1"),
    "temporary_file": ("import tempfile\nwith tempfile.NamedTemporaryFile() as f: print(f.write(b'ab'))", "2"),
    "own_files": ("open('t.txt', 'w').write('hi')\nprint(open('/mnt/data/temp_processed_images/t.txt').read())", "hi"),
    "pickle_roundtrip": ("import pickle\nprint(pickle.loads(pickle.dumps([1])))", "[1]"),
    "caught_error": ("try:\n    open('/missing')\nexcept OSError as e:\n    print(type(e).__name__)", "FileNotFoundError"),
}
# fmt: on


@pytest.fixture(scope="module")
def changes(with_and_without_accelerations: dict[str, object]) -> dict[str, object]:
    """The table runs twice."""
    return with_and_without_accelerations


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_works_as_in_plain_python(session: SandboxSession, name: str) -> None:
    code, expected = PROGRAMS[name]
    result = session.run_sync(code)
    assert (result.status.value, result.error) == ("ok", None)
    assert result.stdout.strip("\n") == expected
    assert result.repairs == ()


def test_the_table_is_long_enough() -> None:
    assert len(PROGRAMS) >= 60
