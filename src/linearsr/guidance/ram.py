"""The Recognize Anything Models RAM and RAM++ (Zhang et al. 2023; Huang et al. 2023) as taggers."""

import contextlib
import io
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from linearsr.guidance.base import Scores, Tagger
from linearsr.guidance.encoders import EncoderPart
from linearsr.guidance.vision import IMAGENET, normalised_square
from linearsr.runtime.checkpoints import check_state, load_weights

_PACKAGE = "git+https://github.com/xinyu1205/recognize-anything.git"
_VARIANTS = ("ram", "ram_plus")
_RECOMPUTED = ("relative_position_index", "attn_mask")
"""Tables of the Swin transformer that follow from its sizes."""
_CAPTIONING = ("tag_encoder.", "text_decoder.")
"""Parts of RAM that write sentences, and are not used for tags."""
_OLD_NAME, _NAME = "vision_multi", "tagging_head"


@dataclass(frozen=True)
class RAMTaggerConfig:
    """Settings of a `RAMTagger`."""

    weights: str = "ram"
    """Folder or hub id of the published weights, converted to safetensors."""
    variant: str = "ram_plus"
    """"ram" or "ram_plus"."""
    backbone: str = "swin_l"
    """Swin transformer: "swin_l", that of the published weights, or "swin_b"."""
    image_size: int = 384
    """Side of the square that the image is resized to, in pixels."""
    max_tags: int = 20
    """Most tags per image."""

    def __post_init__(self) -> None:
        if self.variant not in _VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(_VARIANTS)}, not {self.variant}")


class RAMTagger(EncoderPart, Tagger):
    """Tagger of 4,585 tags with the thresholds of RAM's authors. Needs the package `recognize-anything`."""

    config_class: ClassVar[type[RAMTaggerConfig]] = RAMTaggerConfig
    config: RAMTaggerConfig
    folder_fields = ("weights",)

    def scores(self, lr: Tensor) -> Scores:
        """Return RAM's scores for one LR image (3, h, w) in [-1, 1]."""
        with self.encoder() as network:
            logits: list[Tensor] = []
            # generate_tag returns names only, so the scores are taken from its last layer
            hook = network.fc.register_forward_hook(lambda module, inputs, output: logits.append(output))
            try:
                size = self.config.image_size
                network.generate_tag(normalised_square(lr[None].to(self.device), size, IMAGENET))
            finally:
                hook.remove()
            scores = logits[-1].float().flatten().sigmoid().cpu()
            names = [str(name) for name in network.tag_list]
            return Scores(names, scores, network.class_threshold.float().cpu().tolist())

    @property
    def encoder_dtype(self) -> torch.dtype:
        """Always float32, because RAM mixes its weights with float32 tables."""
        return torch.float32

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """Load RAM.

        Raises ImportError without its package, CheckpointError if weights are missing, pickled or of another
        model.
        """
        try:
            from ram import models  # type: ignore[import-not-found]
        except ImportError as error:
            raise ImportError(
                f"RAM needs the package recognize-anything ({error}): pip install {_PACKAGE}"
            ) from error
        config, folder = self.config, self.folder("weights")
        state = {name.replace(_OLD_NAME, _NAME): tensor for name, tensor in load_weights(folder).items()}
        # RAM prints while it is built, but standard output is for results
        with contextlib.redirect_stdout(io.StringIO()):
            network: nn.Module = getattr(models, config.variant)(
                pretrained="", image_size=config.image_size, vit=config.backbone
            )
        needed = {
            name: tensor
            for name, tensor in network.state_dict().items()
            if not name.endswith(_RECOMPUTED) and not name.startswith(_CAPTIONING)
        }
        state = {name: tensor for name, tensor in state.items() if name in needed}
        check_state(state, needed, folder)
        network.load_state_dict(state, strict=False)
        return network.to(dtype)
