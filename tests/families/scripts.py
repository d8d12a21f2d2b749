"""What the model says in the tests of families."""

from __future__ import annotations

from typing import Any

CODE = """<think><code>
path = "/mnt/data/temp_processed_images/a.png"
Image.open(image_path).crop((0, 0, 64, 48)).save(path)
print(path)
</code>"""
RIGHT, WRONG = "2</think><answer>2</answer>", "I say 7</think><answer>7</answer>"


def next_turn(prompt: str, tokenizer: Any, row: int) -> list[int]:
    """Return the ids that come next: code, then an answer.

    Args:
        prompt: Text of all that the engine continues.
        tokenizer: The model's.
        row: Number of the request in its batch; every second one is answered right.
    """
    says = CODE if "</sandbox_output>" not in prompt else WRONG if row % 2 else RIGHT
    return [*tokenizer.encode(says, add_special_tokens=False), tokenizer.eos_token_id]
