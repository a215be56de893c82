"""Latents of crops, made once for shards, so that training need not encode them."""

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
    """What the DC-AE in a folder makes of crops, encoded on `device`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.name, self.device = str(folder), device
        self.codec = DeepCompressionCodec.from_pretrained(folder, device=device)
        self._autocast = best_dtype(device) == torch.bfloat16
        self._one_at_a_time = Lock()

    @torch.inference_mode()
    def of(self, crop: BinaryIO) -> bytes:
        """An `.npy` file, (C, h', w') float16, of the latents of an encoded crop."""
        crop.seek(0)
        image = to_tensor(to_unit(read_rgb(crop)))[None].to(self.device)
        with self._one_at_a_time, torch.autocast(self.device.type, torch.bfloat16, self._autocast):
            latent = self.codec.encode(image, LRCondition(image))[0]
        file = io.BytesIO()
        np.save(file, latent.to("cpu", torch.float16).numpy())
        return file.getvalue()
