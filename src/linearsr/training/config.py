"""What a training run is made of: a YAML file, checked before anything is built."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from linearsr.flow.partition import Partition
from linearsr.models.lr_stem import PredictiveStemConfig
from linearsr.models.presets import PRESETS as NETWORKS
from linearsr.training.data import DataConfig, known_degradations
from linearsr.training.section import ConfigError, Section


class ValidationConfig(Section):
    """Whole HR photos, degraded once with a fixed seed."""

    folder: Path
    degradations: list[str] = Field(["mild", "bicubic"])
    every_images: int = Field(gt=0)
    max_pictures: int = Field(64, gt=0)

    @field_validator("degradations")
    @classmethod
    def _check(cls, names: list[str]) -> list[str]:
        return list(known_degradations(dict.fromkeys(names, 1.0)))


class OptimizerConfig(Section):
    """AdamW with linear warm-up and a cosine to `final_lr`."""

    lr: float = Field(5e-4, gt=0)
    final_lr: float = Field(1e-6, ge=0)
    warmup_images: int = Field(2000, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = Field(1.0, gt=0)


class StemStage(Section):
    """Train a `PredictiveStem` to predict the HR image and its own error."""

    kind: Literal["stem"]
    stem: dict[str, Any] = Field({})
    """Fields of `PredictiveStemConfig` that differ from its defaults."""
    init: Path | None = None
    """Start from this stem folder instead of from scratch."""

    @model_validator(mode="after")
    def _fits(self) -> "StemStage":
        if self.init is not None and self.stem:
            raise ValueError("stem and init exclude each other: the folder has its own settings")
        try:
            PredictiveStemConfig(**self.stem)
        except TypeError as error:
            raise ValueError(f"stem: {error}") from None
        return self


class FlowStage(Section):
    """Train a transformer by flow matching around a frozen stem."""

    kind: Literal["flow"]
    stem: Path
    """Folder of the trained stem."""
    preset: str = "default"
    network: dict[str, Any] = Field({})
    """Fields of `TransformerConfig` that differ from the preset."""
    init: Path | None = None
    """Start from this transformer folder instead of from scratch."""
    boundaries: tuple[float, ...] = ()
    """Partition of the trajectory, ascending times; empty: one network for all times."""
    expert: int = Field(0, ge=0)
    """Which span to train, 0 = the noisiest."""
    pure_noise_prob: float = Field(0.4, ge=0, le=1)
    """Share of samples at exactly t = 1, where the few-step sampler takes its longest stride."""
    validation_steps: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "FlowStage":
        if self.init is not None and self.network:
            raise ValueError("network and init exclude each other: the folder has its own settings")
        try:
            Partition(self.boundaries).span(self.expert)
            replace(NETWORKS[self.preset], **self.network)
        except (TypeError, IndexError) as error:
            raise ValueError(str(error)) from None
        return self

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in NETWORKS:
            raise ValueError(f"unknown preset {name!r}: choose from {', '.join(NETWORKS)}")
        return name


class TrainConfig(Section):
    """One training run. Progress is counted in images, so it does not depend on the batch size."""

    run_dir: Path
    stage: Annotated[StemStage | FlowStage, Field(discriminator="kind")]
    data: DataConfig
    validation: ValidationConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    seed: int = Field(0, ge=0)
    batch_size: int = Field(16, gt=0)
    """Images per optimizer step, over all processes."""
    total_images: int = Field(gt=0)
    mixed_precision: Literal["no", "bf16"] = "bf16"
    ema_decay: float = Field(0.999, ge=0, lt=1)
    save_every_images: int = Field(gt=0)
    keep_checkpoints: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _has_a_step(self) -> "TrainConfig":
        if self.total_images < self.batch_size:
            raise ValueError(f"total_images {self.total_images} is less than one batch of {self.batch_size}")
        return self


def load_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML config and apply `key.sub=value` overrides.

    Paths in it are taken relative to the working directory.

    Raises:
        ConfigError: one line that names the file or the key.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}): give the path of a YAML config"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings")
    for override in overrides or []:
        try:
            _apply(raw, override, yaml.safe_load)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override}: the value is no valid YAML") from None
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "config"
        raise ConfigError(f"{path}: {key}: {first['msg']}") from None


def _apply(raw: dict[str, Any], override: str, parse: Any) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as key=value, e.g. optimizer.lr=1e-4")
    *parents, leaf = key.split(".")
    section = raw
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a section")
    section[leaf] = parse(value)
