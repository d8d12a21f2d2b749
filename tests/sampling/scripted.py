"""Makes vLLM say the script that a prompt names."""

import re

from tests.sampling.scripts import SCRIPTS
from tests.scripted_logits import ScriptedLogits


class NamedScript(ScriptedLogits):
    def script(self, prompt, tokenizer):
        found = re.search(r"script (\w+)\.", prompt)
        return SCRIPTS[found.group(1)] if found else None
