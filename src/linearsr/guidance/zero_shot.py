"""A tagger for any vocabulary: which tags' names are near the image, as SigLIP sees it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.guidance.base import Scores, Tagger
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


class ZeroShotTagger(EncoderPart, Tagger):
    """Scores are the probabilities of SigLIP's sigmoid, for the whole image, resized to the tower's square."""

    config_class: ClassVar[type[ZeroShotTaggerConfig]] = ZeroShotTaggerConfig
    config: ZeroShotTaggerConfig
    folder_fields = ("encoder",)

    def scores(self, lr: Tensor) -> Scores:
        """The probability of each tag in the vocabulary, float32 on the CPU, for (3, h, w) in [-1, 1]."""
        tower, size = self._tower
        with self.encoder() as encoder:
            (texts,) = self.remembered(["texts"], lambda _: [self._encode_texts(encoder)])
            inputs = tower.inputs(tower.pixels(lr[None].to(self.device), size).to(self.encoder_dtype))
            image = F.normalize(_pooled(encoder.get_image_features(**inputs)).float(), dim=-1)[0]
            likenesses: Tensor = texts @ image * encoder.logit_scale.float().exp()
            scores = (likenesses + encoder.logit_bias.float()).sigmoid().cpu()
        return Scores(self.config.vocabulary, scores, self.config.threshold)

    def _encode_texts(self, encoder: Any) -> Tensor:
        """(V, C): the prompts of the tags, each of length 1."""
        template = self.config.prompt
        prompts = [template.replace("{}", tag).lower() for tag in self.config.vocabulary]
        length = int(load_config(self._folder).get("text_config", {}).get("max_position_embeddings", 64))
        # it was trained with texts of one length; it takes no mask, and sees the padding
        ids = read_tokenizer(self._folder)(
            prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        parts = ids.to(self.device).split(_TEXTS_AT_ONCE)
        rows = torch.cat([_pooled(encoder.get_text_features(input_ids=part)) for part in parts])
        return F.normalize(rows.float(), dim=-1)

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

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """Both towers. Raises CheckpointError if they are missing or of another kind."""
        tower_in(self._folder, _MODEL_TYPES)
        if not self.config.vocabulary:
            raise CheckpointError("a zero-shot tagger needs a vocabulary: name a file with one tag a line")
        return read_network("the tagger's encoder", self._folder, "AutoModel", dtype)


def _pooled(output: Any) -> Tensor:
    """Version 5 of `transformers` wraps the features that earlier ones return."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
