"""Makes vLLM say the scripts of the tests that compare modes."""

from tests.e2e import parity_scripts
from tests.scripted_logits import ScriptedLogits

parity_scripts.shorten_loops()


class ParityLogits(ScriptedLogits):
    def script(self, prompt, tokenizer):
        turn = parity_scripts.next_turn(prompt, tokenizer)
        return None if turn is None else [*turn, tokenizer.eos_token_id]
