"""A tagger for any vocabulary: which tags' names are near the image, as SigLIP sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.guidance.base import Tag, best_tags
from linearsr.guidance.encoders import EncoderPart, read_network, read_tokenizer
from linearsr.guidance.vision import Tower, tower_in
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.runtime.checkpoints import CheckpointError, load_config

_MODEL_TYPES = ("siglip", "siglip2")
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class ZeroShotTaggerConfig:
    """`ZeroShotTagger`."""

    encoder: str = "tagger_encoder"
    """Folder or hub id of a SigLIP or SigLIP 2 with both towers and the tokenizer."""
    vocabulary: tuple[str, ...] = ()
    """Tags to look for."""
    threshold: float = 0.1
    """The least score of a tag, 0 to 1."""
    max_tags: int = 10
    """At most so many tags an image."""
    prompt: str = "a photo of {}"
    """What is compared with the image, with a tag in the place of the braces."""

    def __post_init__(self) -> None:
        Vocabulary(self.vocabulary)
        if not 0 <= self.threshold <= 1:
            raise ValueError("threshold must be from 0 to 1")
        if "{}" not in self.prompt:
            raise ValueError(f"prompt {self.prompt!r} needs {{}} in the place of the tag")


class ZeroShotTagger(EncoderPart):
    """Scores are the probabilities of SigLIP's sigmoid.

    The prompts of the vocabulary are encoded once, with the first image. The whole image is looked at, resized to the
    tower's square.
    """

    config_class: ClassVar[type[ZeroShotTaggerConfig]] = ZeroShotTaggerConfig
    config: ZeroShotTaggerConfig
    folder_fields = ("encoder",)

    def tag(self, lr: Tensor, *, threshold: float | None = None, max_tags: int | None = None) -> list[Tag]:
        """Tags of one LR image (3, h, w) in [-1, 1], the surest first; see `Tagger`."""
        config = self.config
        return best_tags(
            self.scores(lr),
            config.vocabulary,
            config.threshold,
            config.max_tags,
            threshold=threshold,
            max_tags=max_tags,
        )

    def scores(self, lr: Tensor) -> Tensor:
        """(3, h, w) in [-1, 1] -> (V,), the probability of each tag in the vocabulary, float32 on the CPU."""
        tower, size = self._tower
        with self.encoder() as encoder:
            (texts,) = self.remembered(["texts"], lambda _: [self._encode_texts(encoder)])
            inputs = tower.inputs(tower.pixels(lr[None].to(self.device), size).to(self.encoder_dtype))
            image = F.normalize(_pooled(encoder.get_image_features(**inputs)).float(), dim=-1)[0]
            likenesses: Tensor = texts @ image * encoder.logit_scale.float().exp()
            scores: Tensor = (likenesses + encoder.logit_bias.float()).sigmoid()
        return scores.cpu()

    def _encode_texts(self, encoder: Any) -> Tensor:
        """(V, C): the prompts of the tags, each of length 1."""
        template = self.config.prompt
        prompts = [template.replace("{}", tag).lower() for tag in self.config.vocabulary]
        rows = [
            _pooled(
                encoder.get_text_features(input_ids=self._tokens(prompts[start : start + _TEXTS_AT_ONCE]))
            )
            for start in range(0, len(prompts), _TEXTS_AT_ONCE)
        ]
        return F.normalize(torch.cat(rows).float(), dim=-1)

    def _tokens(self, prompts: Sequence[str]) -> Tensor:
        # it was trained with texts of one length; it takes no mask, and sees the padding
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self._text_length,
            return_tensors="pt",
        )
        ids: Tensor = tokens["input_ids"].to(self.device)
        return ids

    @cached_property
    def _folder(self) -> Path:
        return self.folder("encoder")

    @cached_property
    def _tower(self) -> tuple[Tower, int]:
        """The vision tower, and the side of the square that it takes."""
        tower = tower_in(self._folder, _MODEL_TYPES)
        vision = load_config(self._folder).get("vision_config", {})
        if tower.model_type == "siglip2":
            return tower, tower.patch_size * int(vision.get("num_patches", 256) ** 0.5)
        return tower, int(vision.get("image_size", 224))

    @cached_property
    def _text_length(self) -> int:
        return int(load_config(self._folder).get("text_config", {}).get("max_position_embeddings", 64))

    @cached_property
    def _tokenizer(self) -> Any:
        return read_tokenizer(self._folder)

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """Both towers. Raises CheckpointError if they are missing or of another kind."""
        tower_in(self._folder, _MODEL_TYPES)
        if not self.config.vocabulary:
            raise CheckpointError("a zero-shot tagger needs a vocabulary: name a file with one tag a line")
        encoder: nn.Module = read_network("the tagger's encoder", self._folder, "AutoModel", dtype)
        return encoder


def _pooled(output: Any) -> Tensor:
    """Version 5 of `transformers` wraps the features that earlier ones return."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
