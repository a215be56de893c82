"""Tags as guidance for small models: one learned token per known tag.

Shapes: B images, V known tags, L tokens of C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from linearsr.guidance.base import Guidance, GuidanceKind, GuidanceTokens
from linearsr.guidance.vocabulary import Understood, Vocabulary
from linearsr.runtime.checkpoints import PretrainedModule


@dataclass(frozen=True)
class TagGuidanceConfig:
    """Settings of `TagGuidance`."""

    vocabulary: tuple[str, ...] = ()
    """Known tags, in the order of the table."""
    channels: int = 64
    """Channels of a token: the `caption_channels` of the network."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))  # JSON has lists only
        Vocabulary(self.vocabulary)


class TagGuidance(PretrainedModule, Guidance):
    """Guidance by a bag of tags: their tokens have no positions, so their order does not matter."""

    config_class: ClassVar[type[TagGuidanceConfig]] = TagGuidanceConfig
    config: TagGuidanceConfig
    kind: GuidanceKind = "tags"
    uses_tags: bool = True

    def __init__(self, config: TagGuidanceConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = Vocabulary(config.vocabulary)
        self.table = nn.Embedding(len(config.vocabulary), config.channels)

    def understand(self, words: Sequence[str]) -> Understood:
        """Return the known tags that words mean (see `Vocabulary.number`), and the words that mean none."""
        return self.vocabulary.understand(words)

    def forward(self, lr: Tensor, tags: Tensor) -> GuidanceTokens:
        """Return tokens for bags of tags (B, V), 1 for a tag in the bag and 0 for one that is not."""
        counts = tags.bool().sum(dim=1)
        length = max(1, int(counts.max()))
        # sorting by absence puts the tags of a bag first
        numbers = (1 - tags.bool().int()).argsort(dim=1, stable=True)[:, :length]
        mask = torch.arange(length, device=tags.device) < counts[:, None]
        return GuidanceTokens(self.table(numbers), mask)

    def encode(self, lr: Tensor, tags: Sequence[Sequence[str]]) -> GuidanceTokens:
        """Return tokens for the tags of B images; words that mean no known tag are skipped."""
        tokens: GuidanceTokens = self(lr, self.bags(tags).to(self.table.weight.device))
        return tokens

    def bags(self, tags: Sequence[Sequence[str]]) -> Tensor:
        """Convert the lists of tags of B images to bags (B, V) of 0 and 1."""
        bags = torch.zeros(len(tags), len(self.vocabulary.tags))
        for bag, words in zip(bags, tags, strict=True):
            for word in words:
                number = self.vocabulary.number(word)
                if number is not None:
                    bag[number] = 1
        return bags


def start_near_null_(guidance: TagGuidance, null_tokens: Tensor, spread: float = 0.5) -> None:
    """Start tags near a network's null tokens (L, C), so that what it learned without tags still holds.

    `spread` is the deviation of the tags around the mean, in units of that of the null tokens.
    """
    with torch.no_grad():
        mean, deviation = null_tokens.mean(dim=0), null_tokens.std(dim=0)
        noise = torch.randn_like(guidance.table.weight)
        guidance.table.weight.copy_(mean + spread * deviation * noise)
