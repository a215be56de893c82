"""How a network learns to be guided: what guides it, and what is left out and put in wrongly on the way."""

from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig, start_near_null_
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.photo_tags import read_vocabulary
from linearsr.training.section import Section


class GuidanceSettings(Section):
    """Guidance by the tags of `data.tags`."""

    part: Path | None = None
    """Folder of a guidance part, kept frozen."""
    vocabulary: Path | None = None
    """Text file with known tags, one a line: a token for each is trained along with the network."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the samples that are not guided: the unconditional branch of classifier-free guidance."""
    tag_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the tags that are left out, as a tagger or a user leaves out some."""
    false_tags: float = Field(0.3, ge=0)
    """Wrong tags a sample is given on average, as a tagger errs."""

    @model_validator(mode="after")
    def _has_one_source(self) -> "GuidanceSettings":
        if (self.part is None) == (self.vocabulary is None):
            raise ValueError("give either part or vocabulary")
        return self


def start_guidance(settings: GuidanceSettings, transformer: LinearSRTransformer) -> TagGuidance:
    """The guidance part of a stage; a new one begins among the null tokens of its network."""
    if settings.part is not None:
        return TagGuidance.from_pretrained(settings.part, torch.float32).requires_grad_(False)
    assert settings.vocabulary is not None
    tags = read_vocabulary(settings.vocabulary, "stage.guidance.vocabulary").tags
    guidance = TagGuidance(TagGuidanceConfig(tags, transformer.config.caption_channels))
    if transformer.config.num_null_tokens > 1:
        start_near_null_(guidance, transformer.null_tokens)
    return guidance


def disturbed(tags: Tensor, seeds: list[int], settings: GuidanceSettings) -> Tensor:
    """Bags of tags (B, V), as they might come at inference: some missing, some wrong, some bags empty."""
    rows = []
    for bag, seed in zip(tags, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed ^ 0x7A65)
        draws = torch.rand(len(bag) + 1, generator=generator).to(bag.device)
        kept = draws[:-1] >= settings.tag_dropout
        wrong = draws[:-1] < settings.false_tags / max(1, len(bag))
        rows.append(torch.where(bag > 0, kept, wrong) & (draws[-1] >= settings.dropout))
    return torch.stack(rows).to(tags.dtype)
