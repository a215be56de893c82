"""Bags of tags as tokens, and images without any."""

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig, start_near_null_
from linearsr.models.presets import PRESETS
from linearsr.models.transformer import LinearSRTransformer

WORDS = ("sky", "tree", "wall", "sea", "fur")
LR = torch.zeros(2, 3, 4, 4)
TINY = replace(PRESETS["tiny"], lr_channels=0, lr_skip=False, num_null_tokens=3, caption_channels=16)


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
