"""The options of the commands: which each has, where their values go, and what is said of bad ones.

No model is opened: what a command would open is caught, or the values are refused before.
"""

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from swift_thyme.commands import ask, evaluate, messages
from swift_thyme.commands.main import app, main
from swift_thyme.commands.model_options import ModelOptions, with_model_options
from swift_thyme.core.errors import ThymeError
from swift_thyme.core.summary import EndReason, TrajectorySummary
from swift_thyme.inference.loop import LoopSettings
from swift_thyme.inference.model import ModelSettings
from tests.conftest import ROOT

MODEL = (
    "--model --use-hf --engine --endpoint --endpoint-key --model-type --template --response-prefix "
    "--thinking --dtype --gpu-memory-utilization --tensor-parallel-size "
    "--data-parallel-size --engine-kwargs --system"
).split()
SAMPLING = "--temperature --top-p --top-k --repetition-penalty --greedy-code --seed".split()
LIMITS = "--max-turns --max-tokens --max-model-len --max-images --max-pixels".split()
OWN = {
    "ask": "question --image --save --tools".split(),
    "serve": (
        "--host --port --api-key --max-body-mb --max-image-mb --max-image-megapixels "
        "--concurrency --queue --cors-origin --log"
    ).split(),
    "eval": (
        "--data --out --runs --limit --tools --no-tools --base --shuffle --prompt --judge "
        "--concurrency --strict"
    ).split(),
}
PANELS = {"Model and engine": MODEL, "Sampling": SAMPLING, "Limits": LIMITS}


def parameters(command: str) -> list[Any]:
    group: Any = typer.main.get_command(app)
    return list(group.commands[command].params)


@pytest.mark.parametrize("command", OWN)
def test_each_command_has_its_options_and_the_shared_ones(command: str) -> None:
    found = [parameter.opts[0] for parameter in parameters(command)]
    assert found == [*OWN[command], *MODEL, *SAMPLING, *LIMITS]


@pytest.mark.parametrize("command", OWN)
def test_the_shared_options_stand_in_their_panels(command: str) -> None:
    panels: dict[str, list[str]] = {}
    for parameter in parameters(command):
        panels.setdefault(getattr(parameter, "rich_help_panel", None) or "", []).append(
            parameter.opts[0]
        )
    assert {name: panels[name] for name in PANELS} == PANELS


def test_the_shared_options_are_the_same_in_all_commands() -> None:
    def described(command: str) -> list[tuple[Any, ...]]:
        shared = parameters(command)[len(OWN[command]) :]
        return [(p.name, p.opts, p.secondary_opts, p.default, p.envvar, p.help) for p in shared]

    assert described("ask") == described("serve") == described("eval")
    variables = {p.opts[0]: p.envvar for p in parameters("ask") if p.envvar}
    assert variables == {
        "--endpoint-key": "OPENAI_API_KEY",
        "--max-turns": "GEN_ITER_LIMIT",
        "--max-pixels": "MAX_PIXELS",
    }


def test_the_help_shows_defaults_and_variables() -> None:
    text = CliRunner().invoke(app, ["ask", "--help"], env={"COLUMNS": "200"}).output
    for words in ("[default: 3196]", "[env var: GEN_ITER_LIMIT]", "[default: greedy-code]"):
        assert words in text


def given(monkeypatch: pytest.MonkeyPatch, arguments: list[str], **env: str) -> ModelOptions:
    """Return what a command with the shared options gets for these arguments."""
    seen: list[ModelOptions] = []
    small = typer.Typer()

    @small.command("x")
    @with_model_options
    def command(options: ModelOptions, own: Annotated[int, typer.Option("--own")] = 1) -> None:
        seen.append(options)

    for name in ("GEN_ITER_LIMIT", "MAX_PIXELS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(small, arguments, env=env)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_without_arguments_a_command_gets_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch, []) == ModelOptions()


def test_arguments_and_variables_reach_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "--model m --temperature 0.5 --top-k 7 --seed 3 --max-images 2 --own 5".split()
    arguments += ["--engine-kwargs", '{"a": 1}', "--max-tokens", "9"]
    options = given(monkeypatch, arguments, GEN_ITER_LIMIT="6", MAX_PIXELS="100")
    monkeypatch.setenv("THYME_CODE_TEMPERATURE", "0.25")
    monkeypatch.setenv("THYME_REPETITION_STOP", "off")
    settings = options.model_settings(concurrency=4)
    assert (settings.model, settings.max_images, settings.max_pixels) == ("m", 2, 100)
    assert (settings.concurrency, settings.engine_kwargs) == (4, {"a": 1})
    assert (settings.sampling.adaptive, settings.sampling.code_temperature) == (True, 0.25)
    loop = options.loop_settings(settings, tools=False)
    assert (loop.max_turns, loop.max_tokens, loop.tools) == (6, 9, False)
    assert (loop.sampling.temperature, loop.sampling.top_k, loop.sampling.seed) == (0.5, 7, 3)
    assert loop.stop_repetition is False


@pytest.mark.parametrize(
    ("temperature", "greedy_code", "per_request", "adaptive"),
    [
        (0.0, True, False, False),
        (0.0, True, True, True),
        (1.0, True, False, True),
        (1.0, False, True, False),
    ],
)
def test_code_has_a_temperature_of_its_own_where_text_can_be_sampled(
    temperature: float, greedy_code: bool, per_request: bool, adaptive: bool
) -> None:
    options = ModelOptions(model="m", temperature=temperature, greedy_code=greedy_code)
    settings = options.model_settings(concurrency=1, per_request=per_request)
    assert settings.sampling.adaptive is adaptive


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ModelOptions(model="m")
    settings = options.model_settings(concurrency=1)
    before = options.loop_settings(settings)
    monkeypatch.setenv("THYME_REPETITION_STOP", "false")
    monkeypatch.setenv("THYME_CODE_TEMPERATURE", "unusable")
    assert options.loop_settings(settings) == before
    assert settings.sampling.stop_repetition is True


def complaint(arguments: list[str], **env: str) -> str:
    """Return what a command says about arguments that it refuses."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300", **env})
    assert result.exit_code != 0
    assert isinstance(result.exception, ThymeError | SystemExit), result.exception
    return f"{result.output} {result.exception}"


BAD_VALUES = [
    ("--engine", "steam"),
    ("--dtype", "int3"),
    ("--gpu-memory-utilization", "1.5"),
    ("--gpu-memory-utilization", "nan"),
    ("--tensor-parallel-size", "0"),
    ("--data-parallel-size", "0"),
    ("--data-parallel-size", "2"),
    ("--engine-kwargs", "{"),
    ("--engine-kwargs", "[1]"),
    ("--engine-kwargs", '{"additional_config": 3}'),
    ("--engine-kwargs", '{"logits_processors": "x"}'),
    ("--engine-kwargs", "[" * 100_000),
    ("--temperature", "-1"),
    ("--temperature", "nan"),
    ("--temperature", "inf"),
    ("--top-p", "0"),
    ("--top-p", "nan"),
    ("--top-k", "-1"),
    ("--repetition-penalty", "0"),
    ("--max-turns", "0"),
    ("--max-tokens", "0"),
    ("--max-model-len", "many"),
    ("--max-images", "0"),
    ("--max-pixels", "0"),
]


@pytest.mark.parametrize(("flag", "value"), BAD_VALUES)
@pytest.mark.parametrize("command", OWN)
def test_a_bad_value_names_its_flag(
    command: str, flag: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEN_ITER_LIMIT", raising=False)
    own = {
        "ask": ["what?"],
        "serve": ["--port", "0"],
        "eval": ["--data", "x.tsv", "--out", str(tmp_path)],
    }[command]
    assert flag in complaint([command, *own, "--model", "m", flag, value])


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["serve", "--model", "m", "--max-image-megapixels", "nan"], "--max-image-megapixels"),
        (["serve", "--model", "m", "--max-image-megapixels", "inf"], "--max-image-megapixels"),
        (["sandbox", "x.py", "--timeout-s", "nan"], "--timeout-s"),
        (["doctor", "--timeout-s", "inf"], "--timeout-s"),
        (["data", "rl", "x", "--out", "o", "--max-megapixels", "nan"], "--max-megapixels"),
        (["ask", "q", "--model", "m", "--image", "no such file"], "--image"),
        (["ask", "q", "--model", "m", "--image", "docs"], "--image docs"),
        (["ask", "q", "--model", "m", "--system", "docs"], "--system docs"),
        (["ask", "q", "--model", "m", "--system", "gone.txt"], "--system gone.txt"),
        (["serve", "--model", "m", "--cors-origin", "https://a.example/"], "--cors-origin"),
        (["serve", "--model", "m", "--cors-origin", "a.example"], "--cors-origin"),
    ],
)
def test_a_bad_value_of_a_command_names_its_flag(arguments: list[str], flag: str) -> None:
    assert flag in complaint(arguments)


def test_a_bad_variable_of_an_option_is_named() -> None:
    said = complaint(["ask", "q", "--model", "m"], GEN_ITER_LIMIT="many")
    assert "GEN_ITER_LIMIT" in said
    assert "--max-turns" in said


def test_a_judge_that_is_not_configured_stops_an_evaluation_at_its_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluate, "read_tsv", None)
    for name in ("THYME_JUDGE_URLS", "REWARD_API_ADDRESS", "QWEN_API_PORT"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["eval", "--model", "m", "--data", "x", "--out", str(tmp_path), "--judge"]
    assert "--judge needs THYME_JUDGE_URLS" in complaint(arguments)


@pytest.mark.parametrize(
    ("value", "arms"),
    [
        ("on", ["tools"]),
        ("plain", ["plain"]),
        ("off", ["no-tools"]),
        ("both", ["tools", "no-tools"]),
        ("all", ["tools", "plain", "no-tools"]),
        ("plain, on", ["tools", "plain"]),
    ],
)
def test_the_ways_to_ask_are_named_one_or_several(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, arms: list[str]
) -> None:
    async def caught(*given: Any) -> Any:
        raise ThymeError(str([arm.value for arm in given[3]]))

    monkeypatch.setattr(evaluate, "_evaluate", caught)
    monkeypatch.setattr(evaluate, "Evaluation", lambda *given: None)
    monkeypatch.setattr(evaluate, "read_tsv", lambda *_, **__: SimpleNamespace(name="d", cyclic=0))
    arguments = ["eval", "--model", "m", "--data", "x", "--out", str(tmp_path)]
    assert str(arms) in complaint([*arguments, "--tools", value])


@pytest.mark.parametrize("value", ["none", "", "on,", "on+plain"])
def test_an_unknown_way_to_ask_is_named(tmp_path: Path, value: str) -> None:
    arguments = ["eval", "--model", "m", "--data", "x", "--out", str(tmp_path), "--tools", value]
    said = complaint(arguments)
    assert "--tools must be one of on, plain, off, both, all, or several" in said
    assert f"not {value!r}" in said


def test_blank_variables_leave_options_at_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[ModelSettings, LoopSettings]] = []

    async def caught(settings: ModelSettings, task: Any, loop: LoopSettings, save: Any) -> Any:
        seen.append((settings, loop))
        raise ThymeError("caught")

    monkeypatch.setattr(ask, "_ask", caught)
    env = {"GEN_ITER_LIMIT": " ", "MAX_PIXELS": "", "OPENAI_API_KEY": " key \n"}
    said = complaint(["ask", "q", "--endpoint", "http://a/v1"], **env)
    assert "caught" in said
    settings, loop = seen[0]
    assert (loop.max_turns, settings.max_pixels, settings.api_key) == (4, None, "key")


def test_a_misspelt_variable_gives_one_warning_at_the_start() -> None:
    env = {"THYME_SANDBOX_WORKER": "3", "COLUMNS": "40"}
    output = CliRunner().invoke(app, ["plugin"], env=env).output
    assert output.count("did you mean THYME_SANDBOX_WORKERS?") == 1


HOSTILE = "pip install 'swift_thyme[swift]' [red]a[/] [/] [link=x] :smile: \x1b[31m\x07 50 %"


@pytest.mark.parametrize("style", ["", "yellow"])
def test_a_sentence_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], style: str) -> None:
    messages.say(HOSTILE, style)
    messages.error(HOSTILE)
    messages.warn(HOSTILE)
    messages.note(HOSTILE)
    shown = HOSTILE.replace("\x1b", "").replace("\x07", "")
    captured = capsys.readouterr()
    assert captured.out == f"{shown}\n"
    assert captured.err == f"error: {shown}\n{shown}\n{shown}\n"


def test_a_long_sentence_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    messages.error("/a/path" * 100)
    assert capsys.readouterr().err == f"error: {'/a/path' * 100}\n"


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["thyme", *arguments])
    with pytest.raises(SystemExit):
        main()


def test_an_error_keeps_its_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_main(monkeypatch, "ask", "q", "--model", "m", "--engine", "[bold]x[/]")
    assert "not [bold]x[/]" in capsys.readouterr().err


def test_the_advice_to_install_keeps_its_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    run_main(monkeypatch, "serve", "--model", "m")
    assert "pip install 'swift_thyme[serve]'" in capsys.readouterr().err


def test_no_command_hands_a_string_to_rich() -> None:
    """A string would be read as markup; `messages` takes text."""
    for path in sorted((ROOT / "swift_thyme" / "commands").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                handed = [isinstance(a, ast.Constant | ast.JoinedStr) for a in node.args]
                assert node.func.attr != "print" or not any(handed), (path.name, node.lineno)


def test_an_observation_and_an_answer_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = ask._Printer(sys.stdout)
    printer.text("[red]text[/]\x1b")
    messages.say(json.dumps(["[a]"]), console=printer._console)
    assert capsys.readouterr().out == '[red]text[/]["[a]"]\n'


def test_the_last_lines_of_an_answer_hold_the_answer_and_the_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = TrajectorySummary(end_reason=EndReason.ANSWER, turns=2, blocks_written=3)
    finished = SimpleNamespace(summary=summary, answer="[b]7", sampled_tokens=9, total_s=1.25)
    ask._Printer(sys.stdout).end(finished)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "answer: [b]7"
    assert lines[2] == (
        "answer; 2 turns, 0 of 3 code blocks ran, 0 images returned, 9 tokens, 1.2 s"
    )
