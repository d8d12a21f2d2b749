"""What happens to the logits while a trajectory is sampled.

``code_span`` decides whether the next token is inside ``<code>``, ``repetition`` whether a
generation loops; ``row`` asks both for one sequence. ``vllm_hook`` and ``hf_hook`` apply what they
say, and the placeholder guard, inside the two engines, through the tensor work in ``logits``.
"""
