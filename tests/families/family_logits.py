"""Makes vLLM say the scripts of the tests of families."""

from tests.families import scripts
from tests.scripted_logits import ScriptedLogits, _Say


class FamilyLogits(ScriptedLogits):
    """Every second request of a turn is answered right."""

    def new_req_logits_processor(self, params):
        prompt = self._prompts[id(params)] or []
        self._row = getattr(self, "_row", -1) + 1
        return _Say(scripts.next_turn(prompt, self._tokenizer, self._row))
