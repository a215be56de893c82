"""Which known tag a user's word means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linearsr.guidance.vocabulary import Vocabulary, split_tags

VOCABULARY = Vocabulary(
    ["tree", "church", "leaf", "wall", "brick", "big cat", "mountain", "butterfly", "glass"]
)


@pytest.mark.parametrize(
    ("word", "tag"),
    [
        ("tree", "tree"),
        (" Trees ", "tree"),
        ("ＴＲＥＥ", "tree"),
        ("churches", "church"),
        ("leaves", "leaf"),
        ("butterflies", "butterfly"),
        ("glass", "glass"),
        ("Big-Cat", "big cat"),
        ("big_cats", "big cat"),
        ("an old brick wall", "wall"),
        ("moutain", "mountain"),
        ("very " * 30 + "tree wall", "wall"),
        ("x" * 95 + " tree wall", "wall"),
    ],
)
def test_a_word_means_the_nearest_tag(word, tag):
    assert VOCABULARY.understand([word]) == ([tag], [])


@pytest.mark.parametrize("word", ["zeppelin", "🌳", "树", "дерево", "", "  ", "s", "es", "-"])
def test_a_word_that_means_none_is_reported(word):
    assert VOCABULARY.understand([word]) == ([], [word])


def test_each_tag_is_there_once_in_the_order_of_the_words():
    assert VOCABULARY.understand(["wall", "x1", "trees", "tree", "x1"]) == (["wall", "tree"], ["x1"])


@given(st.lists(st.text(max_size=300), max_size=20))
def test_every_word_is_either_understood_or_reported(words):
    tags, unknown = VOCABULARY.understand(words)
    assert set(tags) <= set(VOCABULARY.tags)
    assert set(unknown) <= set(words)
    assert len(tags) + len(unknown) <= len(words)


def test_a_list_is_split_as_users_write_it():
    assert split_tags(" brick wall, ivy ;; red|\nblue,") == ["brick wall", "ivy", "red", "blue"]
    assert split_tags(" ,, ") == []


@pytest.mark.parametrize(("tags", "complaint"), [(["a", " "], "empty"), (["a b", "c", "A-B"], "twice")])
def test_a_vocabulary_holds_each_tag_once(tags, complaint):
    with pytest.raises(ValueError, match=complaint):
        Vocabulary(tags)
