"""Says what the sandbox is in the surrounding that this program runs in, as JSON.

    python -m tests.sandbox.surroundings NAME -- python -m tests.sandbox.survey

Without hostile programs of its own: the promises are those of `rule_programs.guarantees`.
"""

from __future__ import annotations

import json
import logging
import sys

from swift_thyme.core.errors import ThymeError
from swift_thyme.doctor.checks import sandbox_layers, sandbox_program
from swift_thyme.sandbox import SandboxPool, SandboxSettings
from swift_thyme.sandbox.layers import probe_layers
from tests.sandbox.rule_driver import Driver
from tests.sandbox.rule_programs.guarantees import GUARANTEES


def refusal() -> str | None:
    """Return with which words `THYME_SANDBOX=auto` refuses to start, None where it starts."""
    try:
        with SandboxPool(SandboxSettings(workers=1)) as pool, pool.open_sync() as session:
            result = session.run_sync("print(6 * 7)", 20.0)
    except ThymeError as error:
        return str(error)
    return None if result.stdout == "42\n" else f"a program ended with {result.status.value}"


def main() -> int:
    logging.disable(logging.CRITICAL)
    refused = refusal()
    broken: dict[str, list[str]] = {}
    if refused is None:
        driver = Driver((), show=False)
        try:
            for promise, rows in GUARANTEES.items():
                broken[promise] = [f"{row}: {text}" for row in rows for text in driver.run(row)]
        finally:
            driver.close()
    found = {
        "layers": {layer.name: layer.on for layer in probe_layers()},
        "refused": refused,
        "doctor": [
            {"subject": f.subject, "state": f.state.value, "text": f.text, "advice": f.advice}
            for check in (sandbox_layers, sandbox_program)
            for f in check(60.0)
        ],
        "broken": broken,
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
