"""Makes vLLM say the turns of ``boundary_scripts``."""

from tests.sampling.boundary_scripts import turn_ids
from tests.scripted_logits import ScriptedLogits


class BoundaryLogits(ScriptedLogits):
    def script(self, prompt, tokenizer):
        return turn_ids(tokenizer, prompt) if "script " in prompt else None
