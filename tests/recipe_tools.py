"""A recipe of a tiny model for the tests of training, and a way to train it."""

import copy
from pathlib import Path
from typing import Any

from linearsr.training.config import parse_settings
from linearsr.training.recipe import RecipeConfig, plan
from linearsr.training.runs import train_recipe
from training_tools import NETWORK, settings


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


def train(raw: dict[str, Any], only: str | None = None, seen: list[str] | None = None) -> Path | None:
    """Train a recipe, or its run of the name `only`; the names of the runs that were trained go to `seen`."""
    recipe = parse(raw)
    names = seen if seen is not None else []

    def report_for(run: Any) -> Any:
        names.append(run.name)
        return lambda record: None

    return train_recipe(recipe, plan(recipe, "recipe.yaml"), report_for, only)
