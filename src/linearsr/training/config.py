"""What a training run is made of: a YAML file, checked before anything is built."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from linearsr.evaluation.registry import METRICS
from linearsr.models.transformer_config import TransformerConfig
from linearsr.training.blend import BlendStage
from linearsr.training.codec import CodecStage
from linearsr.training.data import DataConfig
from linearsr.training.distill import DistillStage
from linearsr.training.flow import FlowStage
from linearsr.training.guard import GuardConfig
from linearsr.training.knee import KneeConfig
from linearsr.training.optimizer import OptimizerConfig
from linearsr.training.section import ConfigError, Section, require
from linearsr.training.stem import StemStage
from linearsr.training.tagger import TaggerStage
from linearsr.training.validation import ValidationConfig

_Section = TypeVar("_Section", bound=Section)
_MISSING = object()
_OF_SAMPLES = tuple(f"*/sample/{name}" for name in METRICS if not re.search("psnr|ssim", name))


class RunKneeConfig(KneeConfig):
    """The knee of a run."""

    metrics: tuple[str, ...] = ("*/mean/*", "*/denoised/*", "*/reconstruction/*", *_OF_SAMPLES)
    """Of the samples, all but PSNR and SSIM vote: these fall when a flow begins to draw detail."""


Stage = CodecStage | StemStage | FlowStage | DistillStage | TaggerStage | BlendStage


class TrainConfig(Section):
    """One training run. Progress is counted in images, so it does not depend on the batch size."""

    run_dir: Path
    stage: Annotated[Stage, Field(discriminator="kind")]
    data: DataConfig
    validation: ValidationConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    knee: RunKneeConfig = RunKneeConfig()
    guard: GuardConfig = GuardConfig()
    seed: int = Field(0, ge=0, lt=2**20)
    batch_size: int = Field(16, gt=0)
    """Images per optimizer step, over all processes."""
    accumulation: int = Field(1, gt=0)
    """Each process computes its share of a batch in so many equal parts, one after the other: less memory."""
    total_images: int = Field(gt=0)
    """At most."""
    stop_at_knee: bool = True
    """Whether the run ends when its knee is confirmed; its weights are kept either way."""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    compile: bool = False
    """Compile the network with `torch.compile`: minutes at the start, faster steps on a GPU."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Who is told every figure, beside `metrics.jsonl`."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    save_every_images: int = Field(gt=0)
    keep_checkpoints: int = Field(2, ge=1)

    @field_validator("trackers")
    @classmethod
    def _installed(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        for name in trackers:
            require(name, "trackers")
        return trackers

    @model_validator(mode="before")
    @classmethod
    def _tags_are_known(cls, raw: Any) -> Any:
        """A finished guidance part without a vocabulary knows all of `data.tags`."""
        match raw:
            case {
                "data": {"tags": tags},
                "stage": {"guidance": {"part": str() | Path()} as guidance} as stage,
            }:
                guidance = {**guidance, "vocabulary": guidance.get("vocabulary") or tags}
                return {**raw, "stage": {**stage, "guidance": guidance}}
        return raw

    @model_validator(mode="after")
    def _has_a_step(self) -> "TrainConfig":
        if self.total_images < self.batch_size:
            raise ValueError(f"total_images {self.total_images} is less than one batch of {self.batch_size}")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}"
            )
        return self


def read_settings(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file, with `key.sub=value` overrides applied; `stages.NAME=null` drops a stage.

    Raises ConfigError: one line that names the file or the key.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): name a YAML config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings")
    for override in overrides or []:
        try:
            _apply(raw, override, yaml.safe_load)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override}: the value is no valid YAML") from None
    return raw


def parse_settings(
    section: type[_Section], raw: dict[str, Any], where: str, sources: Mapping[str, Any] | None = None
) -> _Section:
    """The settings as a config; `sources` are the places in a file that they were merged from, the first one first.

    Raises ConfigError: one line that names `where`, the place and the key.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        # what is misspelt is also missing under its right name
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        # of a mistake in the name of an entry, pydantic adds that it is the name
        key = ".".join(str(part) for part in first["loc"]).removesuffix(".[key]")
        unknown = first["type"] == "extra_forbidden"
        message = _unknown(section, key) if unknown else first["msg"].removeprefix("Value error, ")
        # pydantic names the kind of a stage, too
        key = re.sub(r"^stage\.\w+", "stage", key)
        message = message.removeprefix(f"{key}: ")
        place = _source(key, sources or {})
        raise ConfigError(": ".join(part for part in (where, place, key, message) if part)) from None


def _source(key: str, sources: Mapping[str, Any]) -> str:
    """The first of the places that has this key, or else the first of all."""
    for place, settings in sources.items():
        found = settings
        for part in key.split("."):
            found = found.get(part, _MISSING) if isinstance(found, dict) else found
        if found is not _MISSING:
            return place
    return next(iter(sources), "")


def _unknown(section: type[Section], key: str) -> str:
    """The message about an unknown key: where it belongs, or what is spelt alike."""
    known = list(_keys(section))
    known += [f"stage.flow.network.{field.name}" for field in fields(TransformerConfig)]
    if "common" in section.model_fields:
        known += [f"common.{inner}" for inner in _keys(TrainConfig)]
    inside, _, leaf = key.rpartition(".")
    elsewhere = [_as_written(other) for other in known if other.rpartition(".")[2] == leaf]
    if elsewhere:
        return f"is no setting of this section: it belongs in {' or '.join(elsewhere)}"
    beside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == inside}
    near = beside if inside and beside else {other.rpartition(".")[2]: other for other in known} | beside
    close = [near[name] for name in get_close_matches(leaf, near, n=1)]
    hint = f"did you mean {_as_written(close[0])}?" if close else f"choose from {', '.join(beside)}"
    return f"is unknown: {hint}" if close or beside else "is unknown"


def _keys(section: type[Section], inside: str = "") -> Iterator[str]:
    """All keys of a section and of those in it, as pydantic writes them: `stage.KIND.key` of a stage."""
    for name, field in section.model_fields.items():
        yield inside + name
        kinds: Any = get_args(field.annotation) or (field.annotation,)
        kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        for kind in kinds:
            tag = f"{get_args(kind.model_fields['kind'].annotation)[0]}." if len(kinds) > 1 else ""
            yield from _keys(kind, f"{inside}{name}.{tag}")


def _as_written(key: str) -> str:
    """A key as it is written in a file."""
    return re.sub(r"(.*\bstage)\.(\w+)\.(.+)", r"\1.\3 (kind \2)", key)


def _apply(raw: dict[str, Any], override: str, parse: Any) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as key=value, e.g. optimizer.lr=1e-4")
    *parents, leaf = key.split(".")
    section = raw
    for parent in parents:
        if section.get(parent) is None:  # as an empty section is read from YAML
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a section")
    found = parse(value)
    if parents == ["stages"] and found is None:  # in a file, an empty stage is one with the usual settings
        if leaf not in section:
            raise ConfigError(f"--set {override}: there is no stage {leaf}: choose from {', '.join(section)}")
        del section[leaf]
    else:
        section[leaf] = found
