"""Makes vLLM say the scripts of the tests of families."""

from tests.families import scripts
from tests.scripted_logits import ScriptedLogits


class FamilyLogits(ScriptedLogits):
    """Every second request of a turn is answered right."""

    _row = -1

    def script(self, prompt, tokenizer):
        self._row += 1
        return scripts.next_turn(prompt, tokenizer, self._row)
