"""Text as guidance: tags, or a sentence, through a text encoder, as SANA is told what to paint.

Shapes: B images, L tokens of C channels.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from linearsr.guidance.base import Guidance, GuidanceKind, GuidanceTokens
from linearsr.guidance.encoders import EncoderPart, check_width, read_network, read_tokenizer
from linearsr.guidance.vocabulary import Understood, normalised
from linearsr.runtime.checkpoints import load_config

_ONE_AT_A_TIME = Lock()
_MOST_SEPARATE = 8192
"""Tags whose tokens are kept: 4 tokens each of Gemma 2 are 18 KiB in bfloat16."""


@dataclass(frozen=True)
class TextGuidanceConfig:
    """`TextGuidance`; what is not said here is as in SANA."""

    text_encoder: str = "text_encoder"
    """Folder or hub id of a decoder such as Gemma 2, or of the encoder of a T5."""
    tokenizer: str = "tokenizer"
    """Folder or hub id of its tokenizer; empty: the same as the encoder's."""
    channels: int = 2304
    """Width of the encoder: the `caption_channels` of the network."""
    max_tokens: int = 300
    """Longer texts are cut."""
    instruction: str = ""
    """Put before every text, as SANA does to have a language model think of a picture; its own tokens are dropped."""

    separate: bool = False
    """Encode each tag on its own and put their tokens in a row. A tag then always has the same tokens, which are kept:
    lists of known tags cost no pass of the encoder."""

    def __post_init__(self) -> None:
        if self.channels < 1 or self.max_tokens < 3:
            raise ValueError("channels must be at least 1 and max_tokens at least 3")


class TextGuidance(EncoderPart, Guidance):
    """The last hidden states of a text encoder for the tags, joined by commas or each on its own.

    There is no list of known tags.
    """

    config_class: ClassVar[type[TextGuidanceConfig]] = TextGuidanceConfig
    config: TextGuidanceConfig
    folder_fields = ("text_encoder", "tokenizer")
    kind: GuidanceKind = "text"
    uses_tags: bool = True

    def __init__(self, config: TextGuidanceConfig) -> None:
        super().__init__(config)
        if config.separate:
            self.most_remembered = _MOST_SEPARATE

    def keep(self, tags: Sequence[str]) -> None:
        """Encode each of these tags once, and let go of the encoder until one comes that is new.

        Does nothing where the tokens of all could not be kept.
        """
        if not self.config.separate or len(tags) > self.most_remembered:
            return
        with self.encoder():
            for tag in tags:
                self._tokens(_joined([tag]))
            self.waiting.residency = "lazy"

    def understand(self, words: Sequence[str]) -> Understood:
        """Every word is understood; those after which the text would be too long are not used."""
        unique: dict[str, str] = {}
        for word in words:
            unique.setdefault(normalised(word), word.strip())
        empty = [word for name, word in unique.items() if not name]
        tags = [word for name, word in unique.items() if name]
        fit = bisect_right(
            range(1, len(tags) + 1), self.config.max_tokens, key=lambda n: self._length(tags[:n])
        )
        return Understood(tags[:fit], tags[fit:] + empty)

    def encode(self, lr: Tensor, tags: Sequence[Sequence[str]]) -> GuidanceTokens:
        """Tokens for the tags of B images. A list without tags has no tokens; a sentence is a list of one tag."""
        rows = [self._row(words) for words in tags]
        length = max(1, *(len(row) for row in rows))
        embeds = rows[0].new_zeros(len(rows), length, self.channels)
        mask = torch.zeros(len(rows), length, dtype=torch.bool, device=embeds.device)
        for i, row in enumerate(rows):
            embeds[i, : len(row)] = row
            mask[i, : len(row)] = True
        return GuidanceTokens(embeds, mask)

    def _row(self, words: Sequence[str]) -> Tensor:
        """(L, C) for the tags of one image."""
        texts = [_joined([word]) for word in words] if self.config.separate and words else [_joined(words)]
        return torch.cat([self._tokens(text) for text in texts])[: self.config.max_tokens]

    def _tokens(self, text: str) -> Tensor:
        """(L, C) for one text."""
        place = self.device, self.encoder_dtype
        if not text:
            return torch.zeros(0, self.channels, device=place[0], dtype=place[1])
        return self.remembered((text, *place), lambda: self._encode(text))

    def _encode(self, text: str) -> Tensor:
        instruction = self.config.instruction
        first, length = 0, self.config.max_tokens
        if instruction:
            # as in SANA: the token that begins the text, then all from the instruction's last one on
            first = len(self._ids(instruction)) - 1
            length += first - 1
        ids = torch.tensor([self._ids(instruction + text, length)], device=self.device)
        with self.encoder() as encoder:
            states: Tensor = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        return torch.cat([states[:1], states[max(1, first) :]])

    def _length(self, tags: Sequence[str]) -> int:
        if self.config.separate:
            return sum(len(self._ids(_joined([tag]), self.config.max_tokens + 1)) for tag in tags)
        return len(self._ids(_joined(tags), self.config.max_tokens + 1))

    def _ids(self, text: str, max_length: int | None = None) -> list[int]:
        # a fast tokenizer keeps how it truncates as a state of its own, and several threads may be here
        with _ONE_AT_A_TIME:
            ids: list[int] = self._tokenizer(
                text, truncation=max_length is not None, max_length=max_length
            ).input_ids
        return ids

    @cached_property
    def _tokenizer(self) -> Any:
        return read_tokenizer(self.folder("tokenizer" if self.config.tokenizer else "text_encoder"))

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """The text encoder; of a T5, its encoder alone. Raises CheckpointError if it is missing or of another width."""
        folder = self.folder("text_encoder")
        whole = load_config(folder).get("is_encoder_decoder", False)
        encoder: nn.Module = read_network(
            "the text encoder", folder, "AutoModelForTextEncoding" if whole else "AutoModel", dtype
        )
        check_width(encoder, self.channels, folder)
        return encoder


def _joined(tags: Sequence[str]) -> str:
    """One text in the form in which SANA gets captions."""
    return ", ".join(tag.strip() for tag in tags).lower()
