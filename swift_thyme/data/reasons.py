"""Why a row is left out: a closed set of codes, each with a sentence for the report."""

from __future__ import annotations

from enum import Enum

from swift_thyme.core.errors import DataError

__all__ = ["Reason", "RowRejected"]


class Reason(str, Enum):
    """Code of a rejection, as in ``rejected.jsonl``."""

    BAD_JSON = "bad_json"
    BAD_TSV = "bad_tsv"
    MISSING_COLUMN = "missing_column"
    WRONG_TYPE = "wrong_type"
    BAD_UNICODE = "bad_unicode"
    EMPTY_QUESTION = "empty_question"
    EMPTY_RESPONSE = "empty_response"
    EMPTY_ANSWER = "empty_answer"
    BAD_OPTIONS = "bad_options"
    ANSWER_NO_OPTION = "answer_no_option"
    SPECIAL_TOKEN = "special_token"
    UNBALANCED_TAG = "unbalanced_tag"
    TAG_ORDER = "tag_order"
    CODE_WITHOUT_OUTPUT = "code_without_output"
    OUTPUT_WITHOUT_CODE = "output_without_code"
    NO_ANSWER = "no_answer"
    TEXT_AFTER_ANSWER = "text_after_answer"
    EMPTY_CODE = "empty_code"
    CODE_SYNTAX = "code_syntax"
    NO_IMAGE = "no_image"
    IMAGE_COUNT = "image_count"
    IMAGE_OUTSIDE_OUTPUT = "image_outside_output"
    IMAGE_EMPTY = "image_empty"
    IMAGE_BASE64 = "image_base64"
    IMAGE_FILE = "image_file"
    IMAGE_URL = "image_url"
    IMAGE_FORMAT = "image_format"
    IMAGE_BROKEN = "image_broken"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_ASPECT = "image_aspect"
    IMAGE_CRASH = "image_crash"
    CODE_FAILED = "code_failed"
    OUTPUT_MISSING = "output_missing"
    OUTPUT_IMAGE_MISSING = "output_image_missing"

    def __str__(self) -> str:
        return self.value

    @property
    def text(self) -> str:
        """What the code means, for the report."""
        return _TEXT[self]


_TEXT = {
    Reason.BAD_JSON: "the line is not a JSON object",
    Reason.BAD_TSV: "the row has not as many cells as the header",
    Reason.MISSING_COLUMN: "a column is missing or null",
    Reason.WRONG_TYPE: "a value has a type that cannot be read",
    Reason.BAD_UNICODE: "the text holds half a surrogate pair, which no file can hold",
    Reason.EMPTY_QUESTION: "the question is empty",
    Reason.EMPTY_RESPONSE: "the response is empty",
    Reason.EMPTY_ANSWER: "the answer is empty",
    Reason.BAD_OPTIONS: "the options cannot be read, or are not A, B and so on",
    Reason.ANSWER_NO_OPTION: "the answer is not one of the options",
    Reason.SPECIAL_TOKEN: "the text holds a control token of the model",
    Reason.UNBALANCED_TAG: "a tag is opened or closed without its partner",
    Reason.TAG_ORDER: "the tags are not in the order of the protocol",
    Reason.CODE_WITHOUT_OUTPUT: "a code block is not followed by a sandbox output",
    Reason.OUTPUT_WITHOUT_CODE: "a sandbox output does not follow a code block",
    Reason.NO_ANSWER: "there is no answer block",
    Reason.TEXT_AFTER_ANSWER: "there is text after the answer",
    Reason.EMPTY_CODE: "a code block holds no statement",
    Reason.CODE_SYNTAX: "a code block is not valid Python",
    Reason.NO_IMAGE: "the row has no image",
    Reason.IMAGE_COUNT: "there are not as many <image> tags as images",
    Reason.IMAGE_OUTSIDE_OUTPUT: "an <image> stands in the model's own text",
    Reason.IMAGE_EMPTY: "an image has no bytes",
    Reason.IMAGE_BASE64: "an image is neither base64 nor the path of a file",
    Reason.IMAGE_FILE: "an image file is missing or cannot be read",
    Reason.IMAGE_URL: "an image is an address, which is not fetched; download it first",
    Reason.IMAGE_FORMAT: "the bytes are not an image of a known format",
    Reason.IMAGE_BROKEN: "an image does not decode to its end",
    Reason.IMAGE_TOO_LARGE: "an image has more pixels than --max-megapixels",
    Reason.IMAGE_ASPECT: "an image is more than 200 times as long as it is wide",
    Reason.IMAGE_CRASH: "decoding an image ended the process, twice",
    Reason.CODE_FAILED: "a code block did not run to its end (--execute)",
    Reason.OUTPUT_MISSING: "a code block printed nothing and returned no image (--execute)",
    Reason.OUTPUT_IMAGE_MISSING: "a code block returned fewer images than recorded (--execute)",
}


class RowRejected(DataError):
    """A row is left out.

    Args:
        reason: Its code.
        detail: What was found in this row, in a few words.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
