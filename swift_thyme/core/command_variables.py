"""The environment variables of the ``thyme`` commands; a part of the table of all variables."""

from __future__ import annotations

from swift_thyme.core.variables import Variable, count, group, secret, switch, text

__all__ = ["COMMAND_VARIABLES"]

COMMAND_VARIABLES: tuple[Variable, ...] = (
    *group(
        "Commands",
        "commands/model_options.py",
        secret(
            "THYME_API_KEY",
            "bearer token that thyme serve asks for and that the VLMEvalKit class sends",
            option="--api-key",
            reader="commands/serve.py, evaluation/vlmeval.py",
        ),
        secret(
            "OPENAI_API_KEY", "bearer token for --endpoint", owner="OpenAI", option="--endpoint-key"
        ),
        count(
            "MAX_PIXELS",
            None,
            "larger images are shrunk to this before the model sees them",
            "pixels",
            owner="ms-swift",
            option="--max-pixels",
            reader="commands/model_options.py, scripts/*.sh",
        ),
        switch("THYME_DEBUG", False, "errors come with a traceback", reader="commands/main.py"),
    ),
    *group(
        "Commands",
        "inference/hub.py",
        switch("USE_HF", False, "names of models are of Hugging Face", owner="ms-swift"),
        switch("MODELSCOPE_OFFLINE", False, "ModelScope is not asked", owner="ModelScope"),
        text("MODELSCOPE_DOMAIN", "host of ModelScope", owner="ModelScope"),
    ),
)
