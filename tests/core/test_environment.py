"""The reader of environment variables, by tables of values; the environment is passed in."""

import logging

import pytest

from swift_thyme.core.environment import (
    Reader,
    parse,
    passed_on,
    tidy_options,
    unknown_variables,
    warn_about_unknown,
)
from swift_thyme.core.errors import SettingsError
from swift_thyme.core.variable_table import VARIABLES
from swift_thyme.core.variables import Kind, Variable

ARABIC_FOUR = "\N{ARABIC-INDIC DIGIT FOUR}"
SUPERSCRIPT_TWO = "\N{SUPERSCRIPT TWO}"
NOT_NUMBERS = ["", "x", "0x10", "1_0", "1,5", "--1", "nan", "-inf", "infinity", "1e999", "9" * 5000]
NOT_NUMBERS += [ARABIC_FOUR, SUPERSCRIPT_TWO, "\N{FULLWIDTH DIGIT ONE}", "1 0", "1\x00", "true"]


def read(name: str, text: str) -> object:
    return Reader({name: text}).given(name)


@pytest.mark.parametrize(
    ("text", "value"),
    [(word, True) for word in ("true", "True", "1", "YES", "on", "y", "T", " true\t")]
    + [(word, False) for word in ("false", "FALSE", "0", "no", "Off", "n", "F", "\n0 ")],
)
def test_there_is_one_idea_of_true(text: str, value: bool) -> None:
    switches = [name for name, variable in VARIABLES.items() if variable.kind is Kind.SWITCH]
    assert len(switches) > 5
    assert [read(name, text) for name in switches] == [value] * len(switches)


@pytest.mark.parametrize("text", ["maybe", "2", "-1", "tru", "yesno", "0.0", "none", ARABIC_FOUR])
def test_anything_else_is_no_switch(text: str) -> None:
    with pytest.raises(SettingsError, match=r"FMT_NORM=.*expected true or false"):
        read("FMT_NORM", text)


@pytest.mark.parametrize(
    ("text", "value"), [("4", 4), (" 4\n", 4), ("+4", 4), ("004", 4), ("2147483647", 2**31 - 1)]
)
def test_a_whole_number_is_read(text: str, value: int) -> None:
    assert read("GEN_ITER_LIMIT", text) == value
    assert type(read("GEN_ITER_LIMIT", text)) is int


@pytest.mark.parametrize(
    "text", [*NOT_NUMBERS[1:], "0", "-1", "4.0", "4e0", "2147483648", "9" * 18]
)
def test_anything_else_is_no_whole_number_in_range(text: str) -> None:
    with pytest.raises(SettingsError, match=r"GEN_ITER_LIMIT=.*a whole number of at least 1"):
        read("GEN_ITER_LIMIT", text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("-2", -2.0), ("1e-3", 0.001), (" +1E2 ", 100.0)],
)
def test_a_number_is_read(text: str, value: float) -> None:
    assert read("FMT_WEIGHT", text) == value


@pytest.mark.parametrize("text", NOT_NUMBERS[1:])
def test_anything_else_is_no_number(text: str) -> None:
    if text == "9" * 5000:
        text = "1" + "0" * 400  # too large for a float, which the digits of a number do not say
    with pytest.raises(SettingsError, match=r"FMT_WEIGHT=.*expected a number"):
        read("FMT_WEIGHT", text)


@pytest.mark.parametrize("text", ["0.049", "3600.1", "-1", "1e300"])
def test_a_number_out_of_its_range_is_refused_with_the_range(text: str) -> None:
    with pytest.raises(SettingsError, match=r"from 0\.05 to 3600 \(seconds\)"):
        read("THYME_SANDBOX_TIMEOUT_S", text)


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\N{NO-BREAK SPACE}"])
@pytest.mark.parametrize("name", VARIABLES)
def test_a_blank_counts_as_not_set(name: str, text: str) -> None:
    assert read(name, text) is None


def test_a_variable_that_is_not_set_has_its_default() -> None:
    reader = Reader({})
    assert reader.count("GEN_ITER_LIMIT") == 4
    assert reader.number("VQA_WEIGHT") == 1.0
    assert reader.switch("THYME_REPETITION_STOP") is True
    assert reader.text("TMPDIR") == "/tmp"
    assert reader.text("THYME_JUDGE_MODEL") is None


@pytest.mark.parametrize("name", [n for n, v in VARIABLES.items() if v.default is not None])
def test_each_default_can_be_used(name: str) -> None:
    variable = VARIABLES[name]
    default = variable.default
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    if text:
        assert parse(variable, text) == default


def test_names_are_split_at_commas_and_checked() -> None:
    assert read("THYME_SANDBOX_DISABLE", " uid,, seccomp ,") == ("uid", "seccomp")
    assert read("THYME_SANDBOX_PRELOAD", "numpy") == ("numpy",)
    assert read("THYME_SANDBOX_DISABLE", ",") == ()
    with pytest.raises(SettingsError, match=r"THYME_SANDBOX_DISABLE='uid,walls': .*landlock"):
        read("THYME_SANDBOX_DISABLE", "uid,walls")


def test_a_word_is_read_in_any_case() -> None:
    assert read("THYME_SANDBOX", " STRICT") == "strict"
    with pytest.raises(SettingsError, match="THYME_SANDBOX='loose': expected strict or auto"):
        read("THYME_SANDBOX", "loose")


@pytest.mark.parametrize("text", ["two words", "t\u00f6ken", "a\nb", "a\x00b"])
def test_a_secret_is_never_shown(text: str) -> None:
    with pytest.raises(SettingsError, match="THYME_JUDGE_API_KEY") as raised:
        read("THYME_JUDGE_API_KEY", text)
    assert text not in str(raised.value)


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(SettingsError) as raised:
        read("FMT_WEIGHT", "x" * 100_000)
    assert len(str(raised.value)) < 200


def test_a_name_that_is_not_in_the_table_cannot_be_read() -> None:
    with pytest.raises(KeyError):
        Reader({"THYME_NEW": "1"}).given("THYME_NEW")


def test_a_child_gets_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "")
    monkeypatch.delenv("LC_ALL", raising=False)
    assert passed_on("LANG", "LC_ALL") == {"LANG": ""}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("THYME_SANDBOX_WORKER", "THYME_SANDBOX_WORKERS"),
        ("THYME_SANBOX", "THYME_SANDBOX"),
        ("thyme_judge_urls", "THYME_JUDGE_URLS"),
        ("THYME_KEEP_TRAJECTORY", "THYME_KEEP_TRAJECTORIES"),
    ],
)
def test_a_misspelt_variable_gives_the_nearest_name(name: str, nearest: str) -> None:
    message = unknown_variables({name: "1", "PATH": "/bin", "THYME_KEEP_MB": "1"})
    assert message is not None
    assert repr(name) in message
    assert f"did you mean {nearest}?" in message


def test_one_warning_covers_all_and_says_no_value() -> None:
    message = unknown_variables({f"THYME_{number}_\x1b[31m": "secret" for number in range(50)})
    assert message is not None
    assert "secret" not in message
    assert "\x1b" not in message
    assert "and 45 more" in message


def test_known_variables_give_no_warning() -> None:
    assert unknown_variables(dict.fromkeys(VARIABLES, "1")) is None


@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("-1", 1), ("0", 1), ("1", 0), ("7", 0)])
def test_the_first_process_of_a_job_warns_for_all(
    caplog: pytest.LogCaptureFixture, rank: str | None, lines: int
) -> None:
    environ = {"THYME_SANDBOX_FASTER": "1", **({} if rank is None else {"RANK": rank})}
    with caplog.at_level(logging.WARNING):
        warn_about_unknown(environ)
    assert len(caplog.records) == lines


def test_blanks_are_taken_from_the_variables_of_options_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in (("GEN_ITER_LIMIT", " "), ("MAX_PIXELS", " 9 "), ("TMPDIR", " ")):
        monkeypatch.setenv(name, text)
    tidy_options()
    reader = Reader()
    assert [reader.raw(name) for name in ("GEN_ITER_LIMIT", "MAX_PIXELS", "TMPDIR")] == [
        None,
        "9",
        " ",
    ]


def test_words_for_values_fit_a_sentence() -> None:
    variable = Variable("X", Kind.COUNT, 1, "", "files", 1, 9)
    assert variable.expected == "a whole number from 1 to 9 (files)"
    assert all(v.meaning and v.meaning[-1] != "." for v in VARIABLES.values())
    assert all(v.reader and v.component for v in VARIABLES.values())
