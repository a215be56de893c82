"""What callers say about tags: replace, add, none, nothing said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linearsr.settings import TagRequest


@pytest.mark.parametrize(
    ("tags", "words", "add"),
    [
        ("brick wall, ivy", ("brick wall", "ivy"), False),
        (["brick wall", "ivy"], ("brick wall", "ivy"), False),
        (("brick wall, ivy", "sky"), ("brick wall", "ivy", "sky"), False),
        ("+ivy", ("ivy",), True),
        (" + ivy, + moss, sky", ("ivy", "moss", "sky"), True),
        (["+ivy", "moss"], ("ivy", "moss"), True),
        ("+", (), True),
        ("", (), False),
        (" , ;", (), False),
        ([], (), False),
        ("c++", ("c++",), False),
    ],
)
def test_a_plus_before_the_first_adds(tags, words, add):
    assert TagRequest.parse(tags, use_tags=True) == (words, add)


def test_nothing_said_is_left_to_the_model():
    assert TagRequest.parse(None) == ((), False)
    assert TagRequest.parse(None, use_tags=True) == ((), True)


@given(st.text(alphabet=st.characters()))
def test_words_can_always_be_encoded(text):
    for word in TagRequest.parse(text).words:
        assert word == word.strip() != ""
        word.encode("utf-8")


@pytest.mark.parametrize("tags", [3, [1, 2], [None], b"sky"])
def test_what_is_no_text(tags):
    with pytest.raises(ValueError, match="tags must be a text"):
        TagRequest.parse(tags)
