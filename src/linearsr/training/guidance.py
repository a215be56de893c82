"""How a network learns to use guidance: its source, and the omissions and errors that training adds to it.

Shapes: B samples, V known tags.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from linearsr.guidance.base import Guidance, GuidanceTokens
from linearsr.guidance.encoders import EncoderPart
from linearsr.guidance.features import FeatureGuidance
from linearsr.guidance.own_tagger import OwnTagger
from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig, start_near_null_
from linearsr.guidance.text import TextGuidance
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.runtime.devices import best_dtype
from linearsr.training.parts import Parts
from linearsr.training.photo_tags import read_vocabulary
from linearsr.training.section import ConfigError, Section


class GuidanceSettings(Section):
    """The source of guidance: tags, features of our tagger, or an existing guidance part."""

    vocabulary: Path | None = None
    """Text file with known tags, one per line. Without `part`, a token for each is trained jointly."""
    features: Path | None = None
    """Folder of our own tagger: its features of the LR image guide, through a jointly trained projection."""
    part: Path | None = None
    """Folder of a guidance part of any kind, kept frozen; its `vocabulary` defaults to all of `data.tags`."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of samples without guidance, which train the unconditional branch of classifier-free guidance."""
    tag_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of tags that are left out, because a tagger or a user leaves some out too."""
    false_tags: float = Field(0.3, ge=0)
    """Mean number of wrong tags added to a sample, because a tagger makes mistakes too."""

    @model_validator(mode="after")
    def _has_one_source(self) -> "GuidanceSettings":
        given = [key for key in ("vocabulary", "features", "part") if getattr(self, key) is not None]
        if len(given) != 1 and given != ["vocabulary", "part"]:
            raise ValueError("give one of vocabulary, features and part")
        return self


class Guide(NamedTuple):
    """The guidance of a batch."""

    tags: Tensor
    """(B, V): 1 for a tag that guides, 0 for the others."""
    unguided: Tensor
    """(B,), bool: True for samples without guidance."""
    tokens: GuidanceTokens | None = None
    """Tokens of a frozen guidance part; None if the guidance is trained with the network."""

    def hidden(self, tokens: GuidanceTokens) -> GuidanceTokens:
        """Return the tokens with those of unguided samples masked."""
        mask = tokens.mask if tokens.mask is not None else tokens.embeds.new_ones(tokens.embeds.shape[:2])
        return GuidanceTokens(tokens.embeds, mask.bool() & ~self.unguided[:, None])


def start_guidance(
    settings: GuidanceSettings, transformer: LinearSRTransformer, parts: Parts
) -> TagGuidance | FeatureGuidance:
    """Build a guidance part to train jointly; tokens of tags start near the null tokens of the network."""
    channels = transformer.config.caption_channels
    if settings.features is not None:
        tagger = parts.read("stage.guidance.features", settings.features, OwnTagger)
        return FeatureGuidance.of(tagger, channels)
    assert settings.vocabulary is not None
    tags = read_vocabulary(settings.vocabulary, "stage.guidance.vocabulary").tags
    guidance = TagGuidance(TagGuidanceConfig(tags, channels))
    if transformer.config.num_null_tokens > 1:
        start_near_null_(guidance, transformer.null_tokens)
    return guidance


def frozen_guidance(settings: GuidanceSettings | None, parts: Parts) -> Guidance | None:
    """Read the existing guidance part, if one is named. Raises ConfigError: when it lacks a vocabulary."""
    if settings is None or settings.part is None:
        return None
    guidance = parts.guidance(settings.part)
    if isinstance(guidance, TextGuidance) and settings.vocabulary is None:
        raise ConfigError("stage.guidance: a TextGuidance needs data.tags, or a vocabulary of the tags")
    return guidance


def check_fit(settings: GuidanceSettings, guidance: Guidance | None, network: TransformerConfig) -> None:
    """Check that the network can be guided; `guidance` is the frozen part, if any.

    Raises ConfigError: when it has no null tokens, or expects tokens of another width.
    """
    # attention with all tokens masked attends to all of them, unless null tokens take their place
    if not network.num_null_tokens:
        raise ConfigError(
            "stage.guidance: the network has no null tokens for photos of which nothing is told: "
            "set num_null_tokens in stage.network"
        )
    if guidance is not None and guidance.channels != network.caption_channels:
        raise ConfigError(
            f"stage.guidance.part: {settings.part} gives {guidance.channels} channels, "
            f"but the network's caption_channels is {network.caption_channels}"
        )


def known_tags(settings: GuidanceSettings, guidance: Guidance | None) -> Vocabulary | None:
    """Return the vocabulary of a guidance part; None if it uses the picture only."""
    if isinstance(guidance, TagGuidance):
        return guidance.vocabulary
    if guidance is None or not guidance.uses_tags or settings.vocabulary is None:
        return None
    return read_vocabulary(settings.vocabulary, "stage.guidance.vocabulary")


def disturbed(
    tags: Tensor, seeds: list[int], settings: GuidanceSettings, guidance: Guidance | None = None
) -> Guide:
    """Disturb tags (B, V) as they may come at inference: some missing, some wrong, some samples without any.

    Tags for a guidance part that wants sentences are kept as they are, or dropped as a whole.
    """
    sentences = guidance is not None and guidance.wants_sentences
    rows, unguided = [], []
    for bag, seed in zip(tags, seeds, strict=True):
        draws = torch.rand(len(bag) + 1, generator=torch.Generator().manual_seed(seed ^ 0x7A65)).to(
            bag.device
        )
        kept = draws[:-1] >= settings.tag_dropout
        wrong = draws[:-1] < settings.false_tags / max(1, len(bag))
        rows.append(bag > 0 if sentences else torch.where(bag > 0, kept, wrong))
        unguided.append(draws[-1] < settings.dropout)
    return Guide(torch.stack(rows).to(tags.dtype), torch.stack(unguided))


def place(
    guidance: Guidance, device: torch.device, vocabulary: Vocabulary | None, settings: GuidanceSettings
) -> None:
    """Move the encoder of a frozen part to a device; a text encoder encodes all tags there once."""
    if isinstance(guidance, EncoderPart):
        guidance.to(device, best_dtype(device))
    if isinstance(guidance, TextGuidance) and vocabulary is not None:
        guidance.keep(vocabulary.tags, settings.vocabulary)


@torch.no_grad()
def encoded(guide: Guide, guidance: Guidance, lr: Tensor, vocabulary: Vocabulary | None) -> Guide:
    """Add the tokens of a frozen part, made from the guide's tags and LR images (B, 3, h, w) in [-1, 1]."""
    known = () if vocabulary is None else vocabulary.tags
    names = [[known[i] for i in bag.nonzero().flatten().tolist()] for bag in guide.tags]
    tokens = guidance.encode(lr, names)
    if tokens is not None:  # an encoder gives tokens in its own type
        tokens = tokens._replace(embeds=tokens.embeds.to(lr.dtype))
    return guide._replace(tokens=tokens)
