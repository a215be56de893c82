"""Patches of vision towers as guidance: those that `transformers` itself gives for the same pixels."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from image_tools import smooth_photo
from linearsr.guidance.vision import CLIPGuidance, DINOGuidance, VisionGuidanceConfig
from linearsr.model_folder import load_guidance
from linearsr.runtime.checkpoints import CheckpointError
from tiny_encoders import write_clip, write_dino

KINDS = {
    "clip": (CLIPGuidance, write_clip, "CLIPVisionModel"),
    "dinov2": (DINOGuidance, lambda f: write_dino(f, "Dinov2"), "Dinov2Model"),
    "registers": (
        DINOGuidance,
        lambda f: write_dino(f, "Dinov2WithRegisters"),
        "Dinov2WithRegistersModel",
    ),
    "dinov3": (DINOGuidance, lambda f: write_dino(f, "DINOv3ViT"), "DINOv3ViTModel"),
}
LR = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1


def part(kind, folder, **config):
    made = KINDS[kind][0](
        VisionGuidanceConfig("image_encoder", **{"channels": 16, "image_size": 32} | config)
    )
    made.model_folder = folder
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_patches_of_the_tower(kind, tmp_path):
    _, write, class_name = KINDS[kind]
    write(tmp_path / "image_encoder")
    guidance = part(kind, tmp_path)
    tokens = guidance.encode(LR, [["sky"], []])
    assert tokens.embeds.shape == (2, 16, 16)
    assert tokens.mask is None
    tower = getattr(transformers, class_name).from_pretrained(tmp_path / "image_encoder").eval()
    with torch.no_grad():
        states = tower(guidance.pixels(LR)).last_hidden_state
    torch.testing.assert_close(tokens.embeds, states[:, -16:], rtol=1e-4, atol=1e-5)
    assert part(kind, tmp_path, image_size=48).encode(LR, [[], []]).embeds.shape == (2, 36, 16)
    guidance.save_pretrained(tmp_path / "copy/guidance")
    again = load_guidance(tmp_path / "copy/guidance")
    assert (again.kind, again.uses_tags, again.channels) == (guidance.kind, False, 16)
    assert again.understand(["sky"]) == ([], ["sky"])
    assert torch.equal(again.encode(LR, [[], []]).embeds, tokens.embeds)


def test_pixels_are_those_of_the_librarys_own_processor(tmp_path):
    """Up to 8-bit rounding in Pillow; for a square image, of which the processor crops nothing."""
    small = np.asarray(smooth_photo(0, (80, 80), (40, 40)))
    lr = torch.from_numpy(small.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    expected = processor(Image.fromarray(small), return_tensors="pt").pixel_values
    write_clip(tmp_path / "image_encoder")
    torch.testing.assert_close(part("clip", tmp_path).pixels(lr), expected, rtol=0, atol=0.06)


@pytest.mark.parametrize(
    ("kind", "write", "config", "message"),
    [
        ("clip", "dinov2", {}, "holds a dinov2; one of clip"),
        ("dinov2", "clip", {}, "holds a clip; one of dinov2"),
        ("clip", "clip", {"channels": 768}, "16 channels and the model's 768"),
        ("clip", "clip", {"image_size": 30}, "image_size 30 is not a multiple of its patches, 8"),
    ],
)
def test_what_does_not_fit_is_one_line(kind, write, config, message, tmp_path):
    KINDS[write][1](tmp_path / "image_encoder")
    with pytest.raises(CheckpointError, match=message) as caught:
        part(kind, tmp_path, **config).encode(LR, [[], []])
    assert "\n" not in str(caught.value)


def test_an_image_seen_before_is_not_encoded_again(tmp_path):
    write_dino(tmp_path / "image_encoder", "Dinov2")
    guidance, runs = part("dinov2", tmp_path), []
    first = guidance.encode(LR, [[], []]).embeds
    guidance.waiting._network.register_forward_hook(lambda *_: runs.append(1))
    assert torch.equal(guidance.encode(LR.flip(0), [[], []]).embeds, first.flip(0))
    assert runs == []
    guidance.encode(-LR, [[], []])
    assert len(runs) == 1, "both at once"
