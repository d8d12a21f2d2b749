"""What a response must look like, and which paths in it are replaced."""

import pytest

from swift_thyme.data.prompts import quoted_paths, set_quoted_images, with_image_tags
from swift_thyme.data.reasons import Reason, RowRejected
from swift_thyme.data.response import check_response, replace_paths, tidy

CODE = "<code>\n```python\nprint(1)\n```\n</code>"
OUT = "<sandbox_output>1</sandbox_output>"
END = "</think>\n<answer>1</answer>"

GOOD = {
    "one block": f"<think>a {CODE}{OUT} b{END}",
    "several blocks": f"<think>{CODE}{OUT}{CODE}{OUT} b{END}",
    "no block": "<think>a</think><answer>1</answer>",
    "no think": f"{CODE}{OUT}<answer>1</answer>",
    "code before think": f"{CODE}{OUT}<think>a</think><answer>1</answer>",
    "code after think": f"<think>a</think>{CODE}{OUT}<answer>1</answer>",
    "capitals": f"<THINK>a{END}",
    "an image in an output": f"<think>{CODE}<sandbox_output>x\n<image></sandbox_output>{END}",
    "tags in an output": f"<think>{CODE}<sandbox_output><code></answer></sandbox_output>{END}",
    "code without a fence": f"<think><code> print(1) </code>{OUT}{END}",
    "an unknown escape": f'<think><code>x = "\\d"</code>{OUT}{END}',
    "a tag of another kind": f"<think><b>a</b> <sandbox> {END}",
}

BAD = {
    "blank": (" \n", Reason.EMPTY_RESPONSE),
    "control token": (f"<think><|im_start|>{END}", Reason.SPECIAL_TOKEN),
    "half a surrogate": (f"<think>\ud800{END}", Reason.BAD_UNICODE),
    "think not closed": ("<think>a <answer>1</answer>", Reason.UNBALANCED_TAG),
    "think not opened": (f"a{END}", Reason.UNBALANCED_TAG),
    "think twice": (f"<think>a</think><think>b{END}", Reason.TAG_ORDER),
    "think inside think": (f"<think><think>b</think>{END}", Reason.UNBALANCED_TAG),
    "code not closed": (f"<think><code>print(1) {OUT}{END}", Reason.UNBALANCED_TAG),
    "code not opened": (f"<think>print(1)</code>{OUT}{END}", Reason.UNBALANCED_TAG),
    "output not closed": (f"<think>{CODE}<sandbox_output>1{END}", Reason.UNBALANCED_TAG),
    "output not opened": (f"<think>{CODE}1</sandbox_output>{END}", Reason.CODE_WITHOUT_OUTPUT),
    "output twice": (f"<think>{CODE}{OUT}{OUT}{END}", Reason.OUTPUT_WITHOUT_CODE),
    "code without output": (f"<think>{CODE}{END}", Reason.CODE_WITHOUT_OUTPUT),
    "words before the output": (f"<think>{CODE} gives {OUT}{END}", Reason.CODE_WITHOUT_OUTPUT),
    "code at the end": (f"<answer>1</answer>{CODE}", Reason.TAG_ORDER),
    "code inside the answer": (f"<answer>{CODE}</answer>", Reason.UNBALANCED_TAG),
    "answer inside think": ("<think>a<answer>1</answer></think>", Reason.TAG_ORDER),
    "answer not closed": ("<think>a</think><answer>1", Reason.UNBALANCED_TAG),
    "two answers": (f"<think>a{END}<answer>2</answer>", Reason.TAG_ORDER),
    "no answer": ("<think>a</think>", Reason.NO_ANSWER),
    "empty answer": ("<think>a</think><answer>\n</answer>", Reason.EMPTY_ANSWER),
    "text after the answer": (f"<think>a{END} done", Reason.TEXT_AFTER_ANSWER),
    "empty code": (f"<think><code>```python\n```</code>{OUT}{END}", Reason.EMPTY_CODE),
    "comment as code": (f"<think><code># no</code>{OUT}{END}", Reason.EMPTY_CODE),
    "broken code": (f"<think><code>print((</code>{OUT}{END}", Reason.CODE_SYNTAX),
    "second code broken": (f"<think>{CODE}{OUT}<code>a b</code>{OUT}{END}", Reason.CODE_SYNTAX),
    "nul in code": (f"<think><code>a\0</code>{OUT}{END}", Reason.CODE_SYNTAX),
    "image in prose": (f"<think><image>{END}", Reason.IMAGE_OUTSIDE_OUTPUT),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_response_of_the_protocol_passes(name: str) -> None:
    check_response(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_broken_response_has_its_reason(name: str) -> None:
    text, reason = BAD[name]
    with pytest.raises(RowRejected) as error:
        check_response(text)
    assert error.value.reason is reason
    assert error.value.detail


def test_the_broken_block_and_its_line_are_named() -> None:
    with pytest.raises(RowRejected, match="block 2, line 2"):
        check_response(f"<think>{CODE}{OUT}<code>a = 1\nb c</code>{OUT}{END}")


def test_blanks_that_no_rollout_has_are_removed() -> None:
    text = (
        "\n<think><code>a</code> \n<sandbox_output> 1 </sandbox_output>\n"
        "</think> <answer>1</answer>\n"
    )
    assert tidy(text) == (
        "<think><code>a</code><sandbox_output> 1 </sandbox_output>\n</think> <answer>1</answer>"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('open("/data/x/cat.jpg")', 'open("/LOCAL")'),
        ("open('/home/me/cat.jpg')", "open('/LOCAL')"),
        ("see /data/x/cat.jpg.", "see /LOCAL."),
        ("/cat.jpg", "/LOCAL"),
        ('"/data/x/cat.jpg.bak"', '"/data/x/cat.jpg.bak"'),
        ('"/data/x/my-cat.jpg"', '"/data/x/my-cat.jpg"'),
        ('"/data/x/cat.jpg/other"', '"/data/x/cat.jpg/other"'),
        ('"relative/cat.jpg"', '"relative/cat.jpg"'),
        ("https://example.org/a/cat.jpg", "https://example.org/a/cat.jpg"),
        (
            '"/mnt/data/temp_processed_images/cat.jpg"',
            '"/mnt/data/temp_processed_images/cat.jpg"',
        ),
        ('"/data/x/dog.jpg"', '"/data/x/dog.jpg"'),
    ],
)
def test_a_path_that_names_the_image_becomes_the_local_one(text: str, expected: str) -> None:
    assert replace_paths(text, [({"/data/x/cat.jpg"}, "/LOCAL")]) == expected


def test_a_path_with_blanks_and_signs_is_taken_literally() -> None:
    path = "/data/my (best) photos/a+b.jpg"
    assert replace_paths(f'Image.open("{path}")', [({path}, "/L")]) == 'Image.open("/L")'


@pytest.mark.parametrize(
    "question",
    [
        'q\n\nUser Image Path: "/a/b.jpg"\nUser Image Size: "10x20"',
        'q\n### User Image Path:** "/a/b.jpg"\n### User Image Size:** "10x20"\n',
        "q **User Image Path**: '/a/b.jpg' **User Image Size**: 10x20",
    ],
)
def test_the_quoted_path_and_size_are_found_in_every_published_form(question: str) -> None:
    assert quoted_paths(question) == {1: "/a/b.jpg"}
    changed = set_quoted_images(question, [("/new.jpg", 30, 40)])
    assert changed == question.replace("/a/b.jpg", "/new.jpg").replace("10x20", "30x40")


@pytest.mark.parametrize(
    ("question", "n_images", "n_returned", "expected"),
    [
        ("<image>\nq", 1, 0, "<image>\nq"),
        ("q", 1, 0, "<image>\nq"),
        ("q", 3, 0, "<image><image><image>\nq"),
        ("q", 2, 1, "<image>\nq"),
        ("q", 0, 0, "q"),
        ("a <image> b <image>", 3, 1, "a <image> b <image>"),
        ("q", 3, 1, None),
        ("q", 0, 1, None),
        ("<image>\nq", 0, 0, None),
        ("<image>\nq", 2, 0, None),
        ("<image><image>q", 2, 1, None),
    ],
)
def test_there_are_as_many_tags_as_images(
    question: str, n_images: int, n_returned: int, expected: str | None
) -> None:
    if expected is None:
        with pytest.raises(RowRejected) as error:
            with_image_tags(question, n_images, n_returned)
        assert error.value.reason is Reason.IMAGE_COUNT
    else:
        assert with_image_tags(question, n_images, n_returned) == expected


def test_a_path_is_that_of_its_image() -> None:
    moved = [({"/x/a.jpg", "a.jpg"}, "/L1"), ({"/x/b.jpg"}, "/L2"), ({"/y/a.jpg"}, "/L3")]
    produced = "/mnt/data/temp_processed_images/b.jpg"
    text = f"/x/a.jpg /x/b.jpg /y/a.jpg /home/b.jpg /home/a.jpg {produced}"
    # Two images are called a.jpg, so the name alone does not say which.
    assert replace_paths(text, moved) == f"/L1 /L2 /L3 /L2 /home/a.jpg {produced}"


ONE = 'q\nUser Image Path: "/a.jpg"\nUser Image Size: "1x1"'
TWO = '\nUser Image Path 2: "/b.jpg"\nUser Image Size 2: "2x2"'
NEW = [("/1.jpg", 10, 11), ("/2.jpg", 20, 21)]
NEW_TEXT = (
    'q\nUser Image Path: "/1.jpg"\nUser Image Size: "10x11"'
    '\nUser Image Path 2: "/2.jpg"\nUser Image Size 2: "20x21"'
)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (ONE + TWO, NEW_TEXT),
        (ONE, NEW_TEXT),
        (ONE + "\n\nReply.", NEW_TEXT + "\n\nReply."),
        ("no path", "no path"),
    ],
)
def test_every_image_of_a_question_is_quoted_as_it_is_stored(question: str, expected: str) -> None:
    assert set_quoted_images(question, NEW) == expected


def test_a_number_without_an_image_is_left_alone() -> None:
    changed = set_quoted_images(ONE + TWO.replace(" 2:", " 7:"), NEW)
    assert 'User Image Path 7: "/b.jpg"' in changed
    assert 'User Image Path 2: "/2.jpg"' in changed
