"""Demonstrations with the labels that they must get, written by hand.

A row is a list of pieces. Each piece is what one side of a rollout writes at a time (a turn of the
model, one observation of the sandbox), so each becomes tokens on its own; ``+`` in front of it says
that its tokens are trained on, ``-`` that they are not. ``<image>`` stands for a returned image.
"""

ROWS: dict[str, list[str]] = {
    # -- no code at all ----------------------------------------------------------------------------
    "nothing to execute": ["+<think>It is a red car.</think>\n<answer>red</answer>"],
    "nothing but an answer": ["+<answer>7</answer>"],
    "code that nobody runs": ["+<think>One could write <code> here.</think>\n<answer>no</answer>"],
    "a sentence about the tag": [
        "+<think>Then comes </sandbox_output> in the text.</think>\n<answer>x</answer>"
    ],
    "an image tag in the prompt alone": ["+<think>I see it.</think>\n<answer>a cat</answer>"],
    # -- one round ---------------------------------------------------------------------------------
    "one round, text": [
        "+<think>Add them. <code>\n```python\nprint(17 + 25)\n```\n</code>",
        "-<sandbox_output>42</sandbox_output>",
        "+So it is 42.</think>\n<answer>42</answer>",
    ],
    "one round, image": [
        "+<think>Crop. <code>\n```python\nprint(processed_path)\n```\n</code>",
        "-<sandbox_output><image></sandbox_output>",
        "+It says 12.</think>\n<answer>12</answer>",
    ],
    "one round, text before the image": [
        "+<think>Crop. <code>print(p)</code>",
        "-<sandbox_output>size 96\n<image></sandbox_output>",
        "+</think>\n<answer>12</answer>",
    ],
    "one round, image before the text": [
        "+<think>Crop. <code>print(p)</code>",
        "-<sandbox_output><image>\nsize 96</sandbox_output>",
        "+</think>\n<answer>12</answer>",
    ],
    "one round, text between two images": [
        "+<think>Crop twice. <code>print(p, q)</code>",
        "-<sandbox_output><image>\nleft, then right:\n<image></sandbox_output>",
        "+</think>\n<answer>both</answer>",
    ],
    "one round, three images in a row": [
        "+<think>Crop. <code>show()</code>",
        "-<sandbox_output><image>\n<image>\n<image></sandbox_output>",
        "+ They agree.</think>\n<answer>yes</answer>",
    ],
    "one round, empty output": [
        "+<think>Run. <code>pass</code>",
        "-<sandbox_output></sandbox_output>",
        "+ Nothing came.</think>\n<answer>none</answer>",
    ],
    "one round, blank lines in the output": [
        "+<think>Run. <code>print()</code>",
        "-<sandbox_output>\n\n\n</sandbox_output>",
        "+</think>\n<answer>blank</answer>",
    ],
    "code at the very start": [
        "+<code>print(1)</code>",
        "-<sandbox_output>1</sandbox_output>",
        "+<think>One.</think>\n<answer>1</answer>",
    ],
    "a line break before the code": [
        "+\n<code>print(1)</code>",
        "-<sandbox_output>1</sandbox_output>",
        "+<think>One.</think>\n<answer>1</answer>",
    ],
    "a line break after the output": [
        "+<think>Run. <code>print(1)</code>",
        "-<sandbox_output>1</sandbox_output>",
        "+\nSo one.</think>\n<answer>1</answer>",
    ],
    "two line breaks after an image": [
        "+<think>Run. <code>show()</code>",
        "-<sandbox_output><image></sandbox_output>",
        "+\n\nSo one.</think>\n<answer>1</answer>",
    ],
    "a line break between code and output": [
        "+<think>Run. <code>print(1)</code>\n",
        "-<sandbox_output>1</sandbox_output>",
        "+</think>\n<answer>1</answer>",
    ],
    "tags in capitals": [
        "+<THINK>Run. <CODE>print(1)</CODE>",
        "-<Sandbox_Output>1</SANDBOX_OUTPUT>",
        "+</THINK>\n<ANSWER>1</ANSWER>",
    ],
    "tags of others inside the output": [
        "+<think>Run. <code>print(page)</code>",
        "-<sandbox_output><code>x</code> <answer>5</answer> <think></sandbox_output>",
        "+Odd.</think>\n<answer>6</answer>",
    ],
    "an output that opens twice": [
        "+<think>Run. <code>print(page)</code>",
        "-<sandbox_output>a <sandbox_output> b</sandbox_output>",
        "+Odd.</think>\n<answer>6</answer>",
    ],
    "an output that never ends": [
        "+<think>Run. <code>print(1)</code>",
        "-<sandbox_output>1 and so on",
    ],
    "other scripts and emoji": [
        "+<think>计算面积。 <code>print('面积 🙂')</code>",
        "-<sandbox_output>面积 🙂</sandbox_output>",
        "+。好的</think>\n<answer>naïve 🙂</answer>",
    ],
    "an error is an output too": [
        "+<think>Try. <code>1 / 0</code>",
        "-<sandbox_output>Error: ZeroDivisionError: division by zero</sandbox_output>",
        "+I cannot divide.</think>\n<answer>undefined</answer>",
    ],
    # -- two rounds: what follows the first output is trained --------------------------------------
    "two rounds, text": [
        "-<think>First. <code>a = 4</code>",
        "-<sandbox_output>done</sandbox_output>",
        "+Then. <code>print(a)</code>",
        "-<sandbox_output>4</sandbox_output>",
        "+Four.</think>\n<answer>4</answer>",
    ],
    "two rounds, images": [
        "-<think>First. <code>show(1)</code>",
        "-<sandbox_output><image></sandbox_output>",
        "+Closer. <code>show(2)</code>",
        "-<sandbox_output><image></sandbox_output>",
        "+A dog.</think>\n<answer>dog</answer>",
    ],
    "two rounds, image then text": [
        "-<think><code>show(1)</code>",
        "-<sandbox_output><image></sandbox_output>",
        "+\n<code>\n```python\nprint(2)\n```\n</code>",
        "-<sandbox_output>2\n</sandbox_output>",
        "+\n</think>\n<answer>2</answer>",
    ],
    "two rounds, code at the very start": [
        "-<code>a = 1</code>",
        "-<sandbox_output>ok</sandbox_output>",
        "+<code>print(a)</code>",
        "-<sandbox_output>1</sandbox_output>",
        "+<answer>1</answer>",
    ],
    "two rounds, a line break at the very start": [
        "-\n\n<think><code>a = 1</code>",
        "-<sandbox_output>ok</sandbox_output>",
        "+>\n<code>print(a)</code>",
        "-<sandbox_output>1</sandbox_output>",
        "+>\n<answer>1</answer>",
    ],
    "two outputs side by side": [
        "-<think><code>a = 1</code>",
        "-<sandbox_output>ok</sandbox_output>",
        "-<sandbox_output>again</sandbox_output>",
        "+So.</think>\n<answer>1</answer>",
    ],
    "two rounds, the second never ends": [
        "-<think><code>a = 1</code>",
        "-<sandbox_output>ok</sandbox_output>",
        "+<code>print(a)</code>",
        "-<sandbox_output>1",
    ],
    # -- three and four rounds ---------------------------------------------------------------------
    "three rounds, mixed": [
        "-<think>One. <code>show(1)</code>",
        "-<sandbox_output>first\n<image></sandbox_output>",
        "-\nTwo. <code>show(2)</code>",
        "-<sandbox_output><image>\nsecond</sandbox_output>",
        "+\nThree. <code>print(3)</code>",
        "-<sandbox_output>3</sandbox_output>",
        "+\nThree it is.</think>\n<answer>3</answer>",
    ],
    "three rounds, text": [
        "-<think><code>a = 1</code>",
        "-<sandbox_output>1</sandbox_output>",
        "-><code>b = 2</code>",
        "-<sandbox_output>2</sandbox_output>",
        "+><code>c = 3</code>",
        "-<sandbox_output>3</sandbox_output>",
        "+></think>\n<answer>6</answer>",
    ],
    "four rounds, images": [
        "-<think>a <code>show(1)</code>",
        "-<sandbox_output><image></sandbox_output>",
        "-b <code>show(2)</code>",
        "-<sandbox_output><image></sandbox_output>",
        "-c <code>show(3)</code>",
        "-<sandbox_output><image></sandbox_output>",
        "+d <code>show(4)</code>",
        "-<sandbox_output><image></sandbox_output>",
        "+e</think>\n<answer>4</answer>",
    ],
    "four rounds, text": [
        "-<think>a\n<code>\nprint(1)\n</code>\n",
        "-<sandbox_output>\n1\n</sandbox_output>",
        "-\nb\n<code>\nprint(2)\n</code>\n",
        "-<sandbox_output>\n2\n</sandbox_output>",
        "-\nc\n<code>\nprint(3)\n</code>\n",
        "-<sandbox_output>\n3\n</sandbox_output>",
        "+\nd\n<code>\nprint(4)\n</code>\n",
        "-<sandbox_output>\n4\n</sandbox_output>",
        "+\ne\n</think>\n<answer>4</answer>",
    ],
    "four rounds, mixed": [
        "-<think><code>show(1)</code>",
        "-<sandbox_output><image></sandbox_output>",
        "-<code>print(2)</code>",
        "-<sandbox_output>2</sandbox_output>",
        "-<code>show(3)</code>",
        "-<sandbox_output><image>\n<image></sandbox_output>",
        "+<code>print(4)</code>",
        "-<sandbox_output>4</sandbox_output>",
        "+</think>\n<answer>done</answer>",
    ],
}

# One row down to its tokens: the text of each token of the turn (`_` is a space) and its label.
# The tags are single tokens of the tiny vocabulary; `[image]` is one visual token of a returned
# image of 56 x 56 pixels, of which there are 2 x 2.
TOKENS = {
    "tokens of one round": (
        "<think>a <code>(1)</code><sandbox_output>a<image>\nb</sandbox_output>c</think>\n"
        "<answer>1</answer>",
        "+<think> +a +_ +<code> +( +1 +) +</code> "
        "-<sandbox_output> -a -<|vision_start|> -[image] -[image] -[image] -[image] "
        "-<|vision_end|> -\\n -b -</sandbox_output> "
        "+c +</think> +\\n +<answer> +1 +</answer> +<|im_end|> +\\n",
    ),
    "tokens of two rounds": (
        "<code>a = 1</code><sandbox_output>1</sandbox_output><code>a</code>"
        "<sandbox_output>1</sandbox_output><answer>1</answer>",
        "-<code> -a -_= -_ -1 -</code> -<sandbox_output> -1 -</sandbox_output> "
        "+<code> +a +</code> -<sandbox_output> -1 -</sandbox_output> "
        "+<answer> +1 +</answer> +<|im_end|> +\\n",
    ),
}
