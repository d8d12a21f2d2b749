"""Tags around thoughts that are not the protocol's."""

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.thinking import OF_THE_PROTOCOL, ThinkingTags, tags_from_environment
from swift_thyme.rewards.format import follows_format


def test_a_thought_between_other_tags_follows_the_format_once_it_is_canonical() -> None:
    tags = ThinkingTags("<|channel>thought", "<channel|>")
    text = "<|channel>thought\nI see it.<channel|><answer>2</answer>"
    assert not follows_format(text)
    assert follows_format(tags.canonical(text))
    assert tags.canonical(tags.canonical(text)) == tags.canonical(text)
    assert OF_THE_PROTOCOL.canonical(text) is text


def test_the_variable_names_two_tags() -> None:
    assert tags_from_environment({}) is None
    given = tags_from_environment({"THYME_THINK_TAGS": " <mm:think>  </mm:think> "})
    assert given == ThinkingTags("<mm:think>", "</mm:think>")


@pytest.mark.parametrize("value", ["<a>", "<a> <a>", "<a> </a> <b>", "<code> </code>"])
def test_a_value_that_names_no_two_tags_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="THYME_THINK_TAGS"):
        tags_from_environment({"THYME_THINK_TAGS": value})
