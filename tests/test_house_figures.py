"""The figures of the plan of the house, on a package made for them."""

import re
from pathlib import Path

import house_figures
import pytest

from tests.conftest import ROOT

FILES = {
    "__init__.py": '"""A package."""\n',
    "protocol.py": 'CODE_OPEN = "<code>"\nSTOPS = (CODE_OPEN,)\nfound = "<code>" in "text"\n',
    "long.py": "\n" * 451,
    "a/__init__.py": "",
    "a/one.py": (
        "from swift_thyme.protocol import CODE_OPEN, STOPS\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from swift_thyme.b.two import f\n"
        "import re\n"
        "SHAPE = re.compile(r'</?(?:think|answer)>')\n"
        "def g(text, host):\n"
        "    'Reads <answer> tags.'\n"
        "    written = f'{CODE_OPEN}{text}'\n"
        "    return written.endswith(STOPS) or host._queue or getattr(host, '_fill')\n"
        "def h(tag):\n"
        "    return tag.text == CODE_OPEN\n"
    ),
    "b/__init__.py": "",
    "b/two.py": (
        "import base64, os\n"
        "def f(data):\n"
        "    from swift_thyme.a import one\n"
        "    from swift.template import Template\n"
        "    os.environ['A'] = '1'\n"
        "    os.environ.update(B='2')\n"
        "    if data.startswith(b'\\xff\\xd8'):\n"
        "        return base64.b64decode(os.environ['C'])\n"
        "    return one._own or os._exit\n"
        "_own = 1\n"
    ),
}

EXPECTED = {
    "files over 450 lines": ["long.py: 451 lines"],
    "import circles between modules": ["a.one <-> b.two"],
    "import circles between packages": ["a <-> b"],
    "arrows between packages": ["a -> (root)", "a -> b", "b -> a"],
    "places that match tags": ["a/one.py:6", "a/one.py:10"],
    "places that decode images": ["b/two.py:7", "b/two.py:8"],
    "places that read the environment": ["b/two.py:8"],
    "places that import ms-swift": ["b/two.py:4"],
    "places with private names of others": ["a/one.py:10"],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "swift_thyme" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", EXPECTED)
def test_a_figure_counts_these_places_and_no_others(checkout: Path, name: str) -> None:
    (figure,) = (figure for figure in house_figures.figures(checkout) if figure.name == name)
    details = [re.sub(r"(:\d+): .*", r"\1", detail) for detail in figure.details]
    assert details == EXPECTED[name]
    assert figure.number == len(details)


def test_the_table_names_every_figure_and_lists_places_on_demand(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house_figures.main([str(checkout)])
    table = capsys.readouterr().out
    assert [line[:38].strip() for line in table.splitlines()[1:]] == list(EXPECTED)
    house_figures.main([str(checkout), "--list"])
    listed = capsys.readouterr().out
    assert "    a/one.py:6: SHAPE = re.compile(r'</?(?:think|answer)>')\n" in listed
    assert len(listed.splitlines()) == 1 + sum(1 + len(places) for places in EXPECTED.values())


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        house_figures.main([str(tmp_path)])


def test_this_checkout_has_no_circle_between_packages() -> None:
    figures = {figure.name: figure for figure in house_figures.figures(ROOT)}
    assert figures["import circles between packages"].details == []
