"""Which settings a run of a recipe has: its stage's own, over those of `common`, over what it takes from before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from linearsr.training.trainer import KNEE_FOLDER

Settings = Mapping[str, Any]

_FLOW = ("pretrain", "experts", "sft")
"""Each of them has the `stage` settings of the one before, unless it says otherwise, but for those of a start."""
_ONLY_AT_THE_START = ("init", "network", "lora", "detail_blocks")
_ONCE = "detail_blocks"
"""Puts a new way out in the place of the one there is, so of `common` it is for the first of these stages alone."""
_COMPUTED = ("blend", "strength")
"""Kinds of stages that take no steps, so nobody need say how many."""
_SET_BY_THE_RECIPE = ("run_dir", "stage.boundaries", "stage.expert")


def none_is_empty(value: Any) -> Any:
    """An empty section is None in YAML."""
    return {} if value is None else value


def _cleaned(settings: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in settings.items() if value is not None}
    stage = settings.get("stage", {})
    if not isinstance(stage, dict):
        raise ValueError(f"stage: {stage} is a value, not a section")
    for key in _SET_BY_THE_RECIPE:
        *parents, leaf = key.split(".")
        if leaf in (stage if parents else settings):
            raise ValueError(f"{key}: the recipe sets this for each run: leave it out")
    return settings


StageSettings = Annotated[dict[str, Any], BeforeValidator(none_is_empty), AfterValidator(_cleaned)]
"""Settings of a stage, or of all: those of a run, but for what the recipe itself sets."""


def in_recipe(folder: Path, value: Any) -> Any:
    """`value`, in which `@RUN/...` names what lies in the folder of a recipe's run."""
    if isinstance(value, dict):
        return {key: in_recipe(folder, inner) for key, inner in value.items()}
    return str(folder / value[1:]) if isinstance(value, str) and value.startswith("@") else value


def settings_of(
    stage: str, expert: int | None, common: Settings, stages: Mapping[str, Settings], folder: Path
) -> dict[str, Any]:
    """The settings of one run, but for its own folder and its span.

    Args:
        stage: its stage.
        expert: which one it trains, where its stage has a run for each.
        common: settings of all stages.
        stages: settings of each stage.
        folder: of the recipe, in which runs start from each other's knees.
    """
    merged = _merged(common, stages[stage])
    if stage not in _FLOW:
        own: dict[str, Any] = in_recipe(folder, {"kind": stage, **merged.get("stage", {})})
        if own["kind"] in _COMPUTED:
            merged = {"total_images": merged.get("batch_size", 16), **merged, "stop_at_knee": False}
        return {**merged, "stage": own}

    def knee(run: str, part: str) -> str:
        return str(folder / run / KNEE_FOLDER / part)

    flow: dict[str, Any] = {"kind": "flow"}
    if "codec" in stages:
        flow["codec"] = knee("codec", "codec")
    if "stem" in stages:
        flow["stem"] = knee("stem", "lr_stem")
    flow |= common.get("stage", {})
    before = [name for name in _FLOW[: _FLOW.index(stage)] if name in stages]
    if before:
        flow.pop(_ONCE, None)
        for name in before:
            kept = stages[name].get("stage", {}).items()
            flow |= {key: value for key, value in kept if key not in _ONLY_AT_THE_START}
        # a stem that was trained along belongs to the network from then on, and is frozen: the experts share it
        if flow.get("stem") is None:
            flow["stem"] = knee("pretrain", "lr_stem")
        # so does guidance that was trained along
        guidance = flow.get("guidance")
        if guidance and guidance.get("part") is None:
            kept = {key: value for key, value in guidance.items() if key not in ("vocabulary", "features")}
            flow["guidance"] = {**kept, "part": knee("pretrain", "guidance")}
        start = f"experts/{expert}" if before[-1] == "experts" else "pretrain"
        flow["init"] = knee(start, "transformer")
    return {**merged, "stage": in_recipe(folder, {**flow, **stages[stage].get("stage", {})})}


def _merged(defaults: Settings, settings: Settings) -> dict[str, Any]:
    """`settings` over `defaults`, one level down too; what lies deeper, as a mix of folders, is taken as a whole."""
    merged = dict(defaults)
    for key, value in settings.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged
