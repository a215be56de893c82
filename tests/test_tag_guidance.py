"""Tags: which known one a user's word means, and bags of them as tokens."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig, start_near_null_
from linearsr.guidance.vocabulary import Vocabulary, split_tags
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS

VOCABULARY = Vocabulary(
    ["tree", "church", "leaf", "wall", "brick", "big cat", "mountain", "butterfly", "glass"]
)
WORDS = ("sky", "tree", "wall", "sea", "fur")
LR = torch.zeros(2, 3, 4, 4)
TINY = replace(PRESETS["tiny"], lr_channels=0, lr_skip=False, num_null_tokens=3, caption_channels=16)


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


def guidance(channels=16):
    torch.manual_seed(0)
    return TagGuidance(TagGuidanceConfig(WORDS, channels)).eval()


def network():
    torch.manual_seed(1)
    made = LinearSRTransformer(TINY).eval()
    for block in made.transformer_blocks:  # starts at zero, so that guidance would do nothing
        torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.5)
    return made


@given(st.lists(st.lists(st.sampled_from(WORDS)), min_size=1, max_size=4))
def test_a_bag_holds_each_of_its_tags_once(lists):
    part = guidance()
    tokens = part.encode(LR, lists)
    for embeds, mask, words in zip(tokens.embeds, tokens.mask, lists, strict=True):
        expected = {tuple(part.table.weight[WORDS.index(word)].tolist()) for word in words}
        assert {tuple(row.tolist()) for row in embeds[mask]} == expected
        assert int(mask.sum()) == len(expected)


def test_order_repetition_and_form_do_not_matter():
    one, two = guidance().encode(LR, [["sky", "tree"], ["Trees", "sky", "sky", "zeppelin"]]).embeds
    assert torch.equal(one, two)


@torch.no_grad()
def test_images_without_tags_are_as_without_guidance():
    latent, part, model = torch.randn(3, TINY.in_channels, 4, 5), guidance(), network()
    tokens = part.encode(LR, [["sky"], [], ["sea", "fur"]])
    together = model(
        latent, torch.tensor(500.0), encoder_hidden_states=tokens[0], encoder_attention_mask=tokens[1]
    )
    unguided = model(latent, torch.tensor(500.0))
    alone = part.encode(LR[:1], [["sky"]])
    first = model(
        latent[:1], torch.tensor(500.0), encoder_hidden_states=alone[0], encoder_attention_mask=alone[1]
    )
    torch.testing.assert_close(together[1], unguided[1])
    torch.testing.assert_close(together[0], first[0])
    assert (together[2] - unguided[2]).abs().max() > 1e-3


def test_tags_start_among_the_null_tokens():
    part, null = guidance(), 5 + 0.1 * torch.randn(8, 16)
    start_near_null_(part, null, spread=0.5)
    assert abs(float(part.table.weight.detach().mean()) - 5) < 0.1
    assert part.table.weight.std(dim=0).max() < 0.2


def test_it_is_read_back_from_its_folder(tmp_path):
    guidance().save_pretrained(tmp_path)
    back = TagGuidance.from_pretrained(tmp_path)
    assert back.config == guidance().config
    assert torch.equal(back.table.weight, guidance().table.weight)
