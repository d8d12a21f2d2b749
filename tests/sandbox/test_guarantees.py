"""What the sandbox promises in the surroundings that training jobs run in, each built here."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from surroundings_table import EXPECTED, PAGE, PROMISES

from tests.conftest import python_program
from tests.sandbox.rule_programs.guarantees import GUARANTEES
from tests.sandbox.surroundings import SURROUNDINGS, UnavailableError, run


def _survey(name: str) -> subprocess.CompletedProcess[str]:
    return run(name, python_program("-m", "tests.sandbox.survey"))


@pytest.fixture(scope="module")
def surveys() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """What the survey of each surrounding printed; two run side by side, they mostly wait."""
    with ThreadPoolExecutor(2) as executor:
        found = {name: executor.submit(_survey, name) for name in SURROUNDINGS}
        yield found
        for survey in found.values():
            survey.cancel()


@pytest.fixture(scope="module", params=list(SURROUNDINGS))
def survey(
    request: pytest.FixtureRequest,
    surveys: dict[str, Future[subprocess.CompletedProcess[str]]],
) -> tuple[str, dict[str, Any]]:
    """The name of a surrounding, and what the sandbox is in it."""
    try:
        done = surveys[request.param].result()
    except UnavailableError as error:
        pytest.skip(str(error))
    assert done.returncode == 0, done.stderr[-2000:]
    return request.param, json.loads(done.stdout.splitlines()[-1])


def test_the_table_names_every_surrounding_and_every_promise() -> None:
    assert {name: one.title for name, one in SURROUNDINGS.items()} == {
        name: one.title for name, one in EXPECTED.items()
    }
    assert tuple(GUARANTEES) == PROMISES


def test_the_page_holds_the_table() -> None:
    assert PAGE.is_current(), "run python scripts/surroundings_table.py --write"


@pytest.mark.ci
def test_the_layers_are_those_of_the_table(survey: tuple[str, dict[str, Any]]) -> None:
    name, found = survey
    expected = EXPECTED[name]
    layers = found["layers"]
    on = (layers["private root"], layers["landlock"], layers["seccomp"], layers["user id"])
    assert on == (expected.namespaces, expected.landlock, expected.seccomp, expected.user_id)


@pytest.mark.ci
def test_auto_starts_or_says_in_one_line_what_to_do(survey: tuple[str, dict[str, Any]]) -> None:
    name, found = survey
    refused = found["refused"]
    if EXPECTED[name].starts:
        assert refused is None
        return
    assert refused is not None, "it starts where nothing guards files"
    assert "\n" not in refused.strip(), refused
    assert len(refused) < 600, refused
    assert re.search("namespace", refused, re.IGNORECASE), refused
    assert re.search("landlock", refused, re.IGNORECASE), refused
    assert re.search(r"\b(allow|use|run|set|needs?|enable)\b", refused, re.IGNORECASE), refused


@pytest.mark.ci
def test_the_doctor_says_the_same(survey: tuple[str, dict[str, Any]]) -> None:
    name, found = survey
    by_subject = {one["subject"]: one for one in found["doctor"]}
    for layer, is_on in found["layers"].items():
        line = by_subject[f"sandbox: {layer}"]
        assert line["text"].startswith("on: " if is_on else "off: "), line
    broken = [one for one in found["doctor"] if one["state"] == "broken"]
    assert bool(broken) is not EXPECTED[name].starts, found["doctor"]
    assert all(one["advice"] for one in broken)


@pytest.mark.ci
@pytest.mark.parametrize("promise", PROMISES)
def test_the_promise_holds(survey: tuple[str, dict[str, Any]], promise: str) -> None:
    name, found = survey
    if not EXPECTED[name].starts:
        assert found["broken"] == {}, "programs ran where the sandbox should not start"
        return
    assert found["refused"] is None
    assert found["broken"][promise] == []
