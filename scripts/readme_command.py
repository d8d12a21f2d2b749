"""usage: python scripts/readme_command.py --write

Writes the GPU command of README.md from scripts/rl.sh, and its example row as `thyme data rl` does.
Without --write it ends with status 1 where README.md differs.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from generated_page import GeneratedPage

from swift_thyme.core.protocol import build_user_prompt
from swift_thyme.doctor.job_command import JobCommand, recorded

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "README.md"
MODEL, ROWS, OUTPUT = "Qwen/Qwen2.5-VL-7B-Instruct", "rl.jsonl", "output"
PLUGIN = '"$(thyme plugin)"'
LEFT_OUT = {"--attn_impl": "it needs the package flash-attn, which the extra does not bring"}
WIDTH = 98
NOT_RUN = "<!-- not run: needs the weights of a real model, and GPUs -->"
INSTALL = """\
pip install "swift_thyme[gpu] @ git+<this repository>"   # ms-swift 4.6, vLLM 0.23, DeepSpeed
thyme init recipe && cd recipe                           # prompt.txt, the scripts, a YAML file
"""


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    now = page(text)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(now, encoding="utf-8")
    elif now != text:
        print("README.md differs from scripts/rl.sh: run scripts/readme_command.py --write")
        return 1
    return 0


def page(text: str) -> str:
    """Return the text of README.md with the command and the row of now."""
    for part in PARTS:
        text = part.page(text)
    return text


def recipe_block() -> str:
    """Return the lines that install the package and start the job."""
    return f"{NOT_RUN}\n```bash\n{INSTALL}\n{command(recipe())}\n```\n"


def recipe() -> JobCommand:
    """Return the job that scripts/rl.sh starts."""
    values = {"MODEL": MODEL, "DATASET": ROWS, "SAVE_PATH": OUTPUT, "PATH": os.defpath}
    # A file of variables in the folder of the caller is none of the recipe's business.
    return recorded(ROOT / "scripts" / "rl.sh", (), values | {"DS_ENV_FILE": os.devnull})


def flags(argv: Sequence[str]) -> list[list[str]]:
    """Return each flag with its values."""
    found: list[list[str]] = []
    for word in argv:
        if word.startswith("--"):
            found.append([word])
        else:
            found[-1].append(word)
    return found


def command(job: JobCommand) -> str:
    """Return the job as a command for a folder that `thyme init` has written to."""
    lines = [f"MAX_PIXELS={job.variables['MAX_PIXELS']} NPROC_PER_NODE=8 swift rlhf"]
    for name, *values in flags(job.argv):
        if name not in LEFT_OUT:
            words = " ".join([name, *map(shown, values)])
            joined = f"{lines[-1]} {words}"
            if len(lines) > 1 and len(joined) <= WIDTH:
                lines[-1] = joined
            else:
                lines.append(f"  {words}")
    return " \\\n".join(lines)


def shown(value: str) -> str:
    """Return a value as the user types it."""
    name = Path(value).name
    if name == "agent_rm.py":
        return PLUGIN
    return name if name == "prompt.txt" else shlex.quote(value)


def row() -> str:
    """Return a row of the data set."""
    question, path = "What colour is the car?", "/data/car.jpg"
    message = {"role": "user", "content": build_user_prompt(question, path, (3000, 2000))}
    values = {
        "messages": [message],
        "images": [path],
        "solution": "black",
        "question": question,
    }
    inner = ",\n ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in values.items())
    return f"{{{inner}}}"


PARTS = (
    GeneratedPage(PAGE, "recipe", recipe_block),
    GeneratedPage(PAGE, "row", lambda: f"```json\n{row()}\n```\n"),
)

if __name__ == "__main__":
    raise SystemExit(main())
