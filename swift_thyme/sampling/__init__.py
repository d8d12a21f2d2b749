"""What happens to the logits while a trajectory is sampled.

``code_span`` decides whether the next token is inside ``<code>``; ``vllm_hook`` and ``hf_hook``
apply that decision, and the placeholder guard, inside the two engines.
"""
