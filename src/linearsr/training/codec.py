"""The stage that trains a small deep-compression autoencoder, for when no pretrained one fits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.runtime.files import prefixed
from linearsr.training.objective import Batch, Objective, Part, Trained, states_of_parts
from linearsr.training.parts import FROM_DISK, Parts
from linearsr.training.section import ConfigError, require

_SIMILARITY_WEIGHT = 0.1
_MOMENTUM = 0.99


class CodecStage(Trained):
    """A stage that trains a `diffusers.AutoencoderDC` to reconstruct its input."""

    kind: Literal["codec"]
    autoencoder: dict[str, Any] = Field({})
    """Arguments of `AutoencoderDC` that differ from its defaults, e.g. its channels and layers."""
    init: str | None = None
    """Autoencoder to start from, a folder or hub id in `diffusers` format; None: from scratch."""
    scale: int = Field(4, ge=1)
    """Ratio of HR to LR size of the crops, of which only the HR side is used."""

    @model_validator(mode="after")
    def _fits(self) -> "CodecStage":
        if self.init is not None and self.autoencoder:
            raise ValueError("autoencoder and init exclude each other: the folder has its own settings")
        return self

    def objective(self, parts: Parts = FROM_DISK) -> "CodecObjective":
        return CodecObjective(self, parts)


class Autoencoder(nn.Module):
    """An autoencoder that keeps the running mean square of its latents, for the scaling factor."""

    mean_square: Tensor

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.register_buffer("mean_square", torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        """Return the reconstruction of images (B, 3, H, W) in [-1, 1]."""
        latent = self.autoencoder.get_submodule("encoder")(image)
        if self.training:
            now = latent.detach().float().square().mean()
            self.mean_square.lerp_(now, 1 - _MOMENTUM)
        restored: Tensor = self.autoencoder.get_submodule("decoder")(latent)
        return restored


class CodecObjective(Objective):
    """The loss of a codec: L1 and structural similarity (Wang et al. 2004) of image and reconstruction."""

    network: Autoencoder

    def __init__(self, stage: CodecStage, parts: Parts) -> None:
        require("diffusers", "stage.kind")
        from diffusers import AutoencoderDC

        if stage.init is not None:
            start: DeepCompressionCodec = parts.read("stage.init", Path(stage.init), DeepCompressionCodec)
            autoencoder = start.autoencoder.train()
        else:
            with prefixed("stage.autoencoder: ", ConfigError, (TypeError, ValueError, AssertionError)):
                autoencoder = AutoencoderDC(**stage.autoencoder)
        self.settings = dict(autoencoder.config)
        self.scale = stage.scale
        compression = DeepCompressionCodec(autoencoder).compression
        self.multiple_of = max(1, compression // stage.scale)
        self.network = Autoencoder(autoencoder)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        from torchmetrics.functional.image import structural_similarity_index_measure

        restored = network(batch.hr).float()
        # in float32: variances are differences of large sums
        with torch.autocast(restored.device.type, enabled=False):
            similarity = structural_similarity_index_measure(restored, batch.hr.float(), data_range=2.0)
        assert isinstance(similarity, Tensor)
        return {
            "l1": (restored - batch.hr).abs().mean(),
            "dissimilarity": _SIMILARITY_WEIGHT * (1 - similarity),
        }

    def predict(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"reconstruction": network(batch.hr)}

    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        from diffusers import AutoencoderDC

        mean_square = state["mean_square"]
        scaling = {} if mean_square.is_meta else {"scaling_factor": float(mean_square.rsqrt())}
        autoencoder = AutoencoderDC.from_config({**self.settings, **scaling})
        autoencoder.load_state_dict(states_of_parts(state, ("autoencoder", "mean_square"))["autoencoder"])
        return {"codec": DeepCompressionCodec(autoencoder)}


def check_round_trip(key: str, holder: object, side: int) -> None:
    """Check on the meta device that a DC-AE can decode what it encodes; the loss of a flow would not show it.

    Raises ConfigError: when decoding fails or gives another size; one line that names the key.
    """
    if not isinstance(holder, DeepCompressionCodec | Autoencoder):
        return
    image = torch.empty(1, 3, side, side, device="meta")
    try:
        parts = [holder.autoencoder.get_submodule(name) for name in ("encoder", "decoder")]
        shape = parts[1](parts[0](image)).shape
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: this autoencoder cannot work: {reason}") from None
    if shape != image.shape:
        raise ConfigError(
            f"{key}: this autoencoder cannot work: an image of {side}x{side} comes back as {shape[3]}x{shape[2]}"
        )
