"""Latents of crops, computed once for shards, so that training does not encode them."""

import io
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import torch

from linearsr.images.photos import read_rgb
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.lr_stem import LRCondition
from linearsr.runtime.devices import best_dtype
from linearsr.training.data import to_tensor, to_unit


class Latents:
    """An encoder of crops to latents, with the DC-AE in a folder, on `device`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.name, self.device = str(folder), device
        self.codec = DeepCompressionCodec.from_pretrained(folder, device=device)
        self._autocast = best_dtype(device) == torch.bfloat16
        self._one_at_a_time = Lock()

    @torch.inference_mode()
    def of(self, crop: BinaryIO) -> bytes:
        """Return the latent (C, h', w'), float16, of an image file's crop, as the bytes of an `.npy` file."""
        crop.seek(0)
        image = to_tensor(to_unit(read_rgb(crop)))[None].to(self.device)
        with self._one_at_a_time, torch.autocast(self.device.type, torch.bfloat16, self._autocast):
            latent = self.codec.encode(image, LRCondition(image))[0]
        file = io.BytesIO()
        np.save(file, latent.to("cpu", torch.float16).numpy())
        return file.getvalue()
