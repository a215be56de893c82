"""The settings of a training run, read from YAML and checked before anything is built."""

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
    """`KneeConfig` with the curves of a training run as its default metrics."""

    metrics: tuple[str, ...] = ("*/mean/*", "*/denoised/*", "*/reconstruction/*", *_OF_SAMPLES)
    """Patterns of the curves that vote. Of samples, PSNR and SSIM do not: they fall once detail is drawn."""


Stage = CodecStage | StemStage | FlowStage | DistillStage | TaggerStage | BlendStage


class TrainConfig(Section):
    """Settings of one training run. Progress is counted in images, independent of the batch size."""

    run_dir: Path
    stage: Annotated[Stage, Field(discriminator="kind")]
    data: DataConfig
    validation: ValidationConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    knee: RunKneeConfig = RunKneeConfig()
    guard: GuardConfig = GuardConfig()
    seed: int = Field(0, ge=0, lt=2**20)
    batch_size: int = Field(16, gt=0)
    """Images per optimizer step, summed over all processes."""
    accumulation: int = Field(1, gt=0)
    """Number of equal parts into which each process splits its share of a batch; more take less memory."""
    total_images: int = Field(gt=0)
    """Images after which the run ends, unless it ends earlier at its knee."""
    stop_at_knee: bool = True
    """Whether the run ends when its knee is confirmed; the weights at the knee are kept either way."""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    compile: bool = False
    """Compile the network with `torch.compile`: takes minutes at the start, makes steps faster on a GPU."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Trackers that receive every figure, in addition to `metrics.jsonl`."""
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
        """Use all of `data.tags` as the vocabulary of a frozen guidance part that is given none."""
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
                f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}"
            )
        return self


def read_settings(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Read the mapping in a YAML file and apply `key.sub=value` overrides; `stages.NAME=null` drops a stage.

    Raises ConfigError: when the file or an override is invalid; one line that names the file or the key.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): name a YAML config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings")
    for override in overrides or []:
        try:
            _apply(raw, override, yaml.safe_load)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override}: the value is not valid YAML") from None
    return raw


def parse_settings(
    section: type[_Section], raw: dict[str, Any], where: str, sources: Mapping[str, Any] | None = None
) -> _Section:
    """Validate settings as a config; `sources` are the sections of a file merged into `raw`, in order.

    Raises ConfigError: when a setting is invalid; one line that names `where`, the source and the key.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        # a misspelt key is also reported as missing under its right name; report the misspelling
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        # pydantic appends ".[key]" when the key of a mapping entry is wrong, rather than its value
        key = ".".join(str(part) for part in first["loc"]).removesuffix(".[key]")
        unknown = first["type"] == "extra_forbidden"
        message = _unknown(section, key) if unknown else first["msg"].removeprefix("Value error, ")
        # pydantic puts the kind of a stage into the location; a config file does not
        key = re.sub(r"^stage\.\w+", "stage", key)
        message = message.removeprefix(f"{key}: ")
        place = _source(key, sources or {})
        raise ConfigError(": ".join(part for part in (where, place, key, message) if part)) from None


def _source(key: str, sources: Mapping[str, Any]) -> str:
    """Return the first of the sources that contains this key, or else the first source."""
    for place, settings in sources.items():
        found = settings
        for part in key.split("."):
            found = found.get(part, _MISSING) if isinstance(found, dict) else found
        if found is not _MISSING:
            return place
    return next(iter(sources), "")


def _unknown(section: type[Section], key: str) -> str:
    """Return the message about an unknown key: the section it belongs to, or a key with similar spelling."""
    known = list(_keys(section))
    known += [f"stage.flow.network.{field.name}" for field in fields(TransformerConfig)]
    if "common" in section.model_fields:
        known += [f"common.{inner}" for inner in _keys(TrainConfig)]
    inside, _, leaf = key.rpartition(".")
    elsewhere = [_as_written(other) for other in known if other.rpartition(".")[2] == leaf]
    if elsewhere:
        return f"is not a setting of this section: it belongs in {' or '.join(elsewhere)}"
    beside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == inside}
    near = beside if inside and beside else {other.rpartition(".")[2]: other for other in known} | beside
    close = [near[name] for name in get_close_matches(leaf, near, n=1)]
    hint = f"did you mean {_as_written(close[0])}?" if close else f"choose from {', '.join(beside)}"
    return f"is unknown: {hint}" if close or beside else "is unknown"


def _keys(section: type[Section], inside: str = "") -> Iterator[str]:
    """Yield all keys of a section and its subsections as pydantic writes them, e.g. `stage.KIND.key`."""
    for name, field in section.model_fields.items():
        yield inside + name
        kinds: Any = get_args(field.annotation) or (field.annotation,)
        kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        for kind in kinds:
            tag = f"{get_args(kind.model_fields['kind'].annotation)[0]}." if len(kinds) > 1 else ""
            yield from _keys(kind, f"{inside}{name}.{tag}")


def _as_written(key: str) -> str:
    """Return a key as it is written in a file."""
    return re.sub(r"(.*\bstage)\.(\w+)\.(.+)", r"\1.\3 (kind \2)", key)


def _apply(raw: dict[str, Any], override: str, parse: Any) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as key=value, e.g. optimizer.lr=1e-4")
    *parents, leaf = key.split(".")
    section = raw
    for parent in parents:
        if section.get(parent) is None:  # YAML reads an empty section as None
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a section")
    found = parse(value)
    # null drops a stage here only: in a file, an empty stage has the default settings
    if parents == ["stages"] and found is None:
        if leaf not in section:
            raise ConfigError(f"--set {override}: there is no stage {leaf}: choose from {', '.join(section)}")
        del section[leaf]
    else:
        section[leaf] = found
