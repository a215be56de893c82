"""Text as guidance: tags or a sentence, passed through a text encoder like the prompts of SANA.

Shapes: B images, L tokens of C channels.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from linearsr.guidance.base import Guidance, GuidanceKind, GuidanceTokens
from linearsr.guidance.encoders import EncoderPart, read_network, read_tokenizer
from linearsr.guidance.vocabulary import Understood, normalised
from linearsr.runtime.checkpoints import load_config, load_tensors, save_tensors

_ONE_AT_A_TIME = Lock()
_SEPARATOR = ", "
_TEXTS_AT_ONCE = 64
_MOST_SEPARATE = 8192
"""Tags whose tokens are kept. With Gemma 2, the 4 tokens of a tag take 18 KiB in bfloat16."""


@dataclass(frozen=True)
class TextGuidanceConfig:
    """Settings of `TextGuidance`; everything else is as in SANA."""

    text_encoder: str = "text_encoder"
    """Folder or hub id of a decoder such as Gemma 2, or of the encoder of a T5."""
    tokenizer: str = "tokenizer"
    """Folder or hub id of its tokenizer; empty: the same as the encoder's."""
    channels: int = 2304
    """Width of the encoder: the `caption_channels` of the network."""
    max_tokens: int = 300
    """Most tokens of a text; longer ones are cut."""
    separate: bool = False
    """Whether to encode each tag on its own and put the tokens in a row. A tag then always has the same
    tokens, which are kept: known tags need no pass of the encoder."""
    sentences: bool = False
    """Whether a sentence per picture, commas included, guides instead of tags; a tagger is never asked."""

    def __post_init__(self) -> None:
        if self.channels < 1 or self.max_tokens < 3:
            raise ValueError("channels must be at least 1 and max_tokens at least 3")


class TextGuidance(EncoderPart, Guidance):
    """Guidance by the last hidden states of a text encoder for tags, joined by commas or each on its own."""

    config_class: ClassVar[type[TextGuidanceConfig]] = TextGuidanceConfig
    config: TextGuidanceConfig
    folder_fields = ("text_encoder", "tokenizer")
    kind: GuidanceKind = "text"
    uses_tags: bool = True

    def __init__(self, config: TextGuidanceConfig) -> None:
        super().__init__(config)
        if config.separate:
            self.most_remembered = _MOST_SEPARATE

    @property
    def wants_sentences(self) -> bool:
        return self.config.sentences

    def keep(self, tags: Sequence[str], beside: Path | None = None) -> None:
        """Encode each of these tags once, and release the encoder until a new tag comes.

        The tokens are also stored in a file in the folder of `beside`, if it can be written, and read from
        there the next time this encoder and these tags are used. Does nothing unless tags are encoded
        separately and the tokens of all can be kept in memory.
        """
        texts = list(dict.fromkeys(_joined([tag]) for tag in tags))
        if not self.config.separate or len(texts) > self.most_remembered:
            return
        digest = blake2b(
            repr((self.identity(), self.encoder_dtype, texts)).encode(), digest_size=6
        ).hexdigest()
        file = None if beside is None else beside.with_name(f"{beside.stem}.tokens-{digest}.safetensors")
        if file is not None and file.exists():
            kept = load_tensors(file, self.device)
            rows = [kept[str(number)] for number in range(len(texts))]
        else:
            with self.encoder():
                rows = self._encode(texts)
                self.waiting.residency = "lazy"
            if file is not None and os.access(file.parent, os.W_OK):
                save_tensors(file, {str(number): row.contiguous() for number, row in enumerate(rows)})
        self.remembered(texts, lambda missing: rows)

    def understand(self, words: Sequence[str]) -> Understood:
        """Return all words as understood, except those after which the text would be too long."""
        if self.config.sentences:
            return Understood([_SEPARATOR.join(words)] if words else [], [])
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
        """Return tokens for the tags of B images; an empty list has none, a sentence is a list of one tag."""
        texts = [self._texts(words) for words in tags]
        all_texts = [text for row in texts for text in row]
        known = dict(zip(all_texts, self.remembered(all_texts, self._encode), strict=True))
        none = torch.zeros(0, self.channels, device=self.device, dtype=self.encoder_dtype)
        rows = [torch.cat([none, *(known[text] for text in row)])[: self.config.max_tokens] for row in texts]
        embeds = pad_sequence([*rows, none.new_zeros(1, self.channels)], batch_first=True)[:-1]
        lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
        return GuidanceTokens(embeds, torch.arange(embeds.shape[1], device=embeds.device) < lengths[:, None])

    def _texts(self, words: Sequence[str]) -> list[str]:
        """Return the texts that the encoder reads for the tags of one image."""
        texts = [_joined([word]) for word in words] if self.config.separate else [_joined(words)]
        return [text for text in texts if text]

    def _encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Encode texts, each as (L, C), in batches of one length: padding would change results a little."""
        ids = [self._ids(text, self.config.max_tokens) for text in texts]
        rows: dict[int, Tensor] = {}
        with self.encoder() as encoder:
            for size in {len(each) for each in ids}:
                alike = [number for number, each in enumerate(ids) if len(each) == size]
                for start in range(0, len(alike), _TEXTS_AT_ONCE):
                    numbers = alike[start : start + _TEXTS_AT_ONCE]
                    batch = torch.tensor([ids[number] for number in numbers], device=self.device)
                    states = encoder(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state
                    rows |= zip(numbers, (row.clone() for row in states), strict=True)
        return [rows[number] for number in range(len(texts))]

    def _length(self, tags: Sequence[str]) -> int:
        if self.config.separate:
            return sum(len(self._ids(_joined([tag]), self.config.max_tokens + 1)) for tag in tags)
        return len(self._ids(_joined(tags), self.config.max_tokens + 1))

    def _ids(self, text: str, max_length: int) -> list[int]:
        # a fast tokenizer keeps its truncation settings as state, and several threads may be here
        with _ONE_AT_A_TIME:
            ids: list[int] = self._tokenizer(text, truncation=True, max_length=max_length).input_ids
        return ids

    @cached_property
    def _tokenizer(self) -> Any:
        return read_tokenizer(self.folder("tokenizer" if self.config.tokenizer else "text_encoder"))

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """Load the text encoder; of a T5, its encoder alone.

        Raises CheckpointError if it is missing or of another width.
        """
        folder = self.folder("text_encoder")
        whole = load_config(folder).get("is_encoder_decoder", False)
        name = "AutoModelForTextEncoding" if whole else "AutoModel"
        return read_network("the text encoder", folder, name, dtype, self.channels)


def _joined(tags: Sequence[str]) -> str:
    """Join tags into one text, in the form in which SANA gets captions."""
    return _SEPARATOR.join(tag.strip() for tag in tags).lower()
