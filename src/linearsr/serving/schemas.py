"""Schemas of the API: the fields of requests and the objects in answers, with examples."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from linearsr.settings import SETTINGS, ColourFix

Status = Literal["queued", "running", "done", "failed", "cancelled"]
ResultFormat = Literal["png", "jpg", "webp", "tiff"]
MEDIA_TYPES: dict[ResultFormat, str] = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "tiff": "image/tiff",
}


class _Form(BaseModel):
    """A form that refuses unknown fields, and treats empty ones as left out, except `tags`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value != "" or name == "tags"}


_MORE: dict[str, dict[str, Any]] = {
    "scale": {"examples": [4]},
    "steps": {"examples": [4]},
    "fidelity": {"examples": [0.8]},
    "tags": {"max_length": 1000},
    "guidance_scale": {"le": 20},
}
"""Rules and examples that the API adds to the settings."""


def _field(name: str) -> Any:
    """Return the type and the form field of a setting."""
    asked = SETTINGS[name]
    rules = {"ge": asked.low, "le": asked.high, "description": asked.help, **_MORE.get(name, {})}
    return asked.type if asked.default is not None else asked.type | None, Field(asked.default, **rules)


_Settings: Any = create_model(
    "_Settings",
    __base__=_Form,
    image=(UploadFile, Field(description="A still image in any format that Pillow reads.")),
    **{name: _field(name) for name in SETTINGS},
)


class UpscaleForm(_Settings):
    """The form of `POST /v1/upscale`: an image, all settings, and options of the result and the answer."""

    if TYPE_CHECKING:  # type checkers do not see the fields made from `SETTINGS`

        def __getattr__(self, name: str) -> Any: ...

    format: Literal["png", "jpg", "webp", "tiff", "same"] = Field(
        "png",
        description="File type of the result; 'same' keeps that of the image sent, or png if it cannot be written.",
    )
    quality: int = Field(95, ge=1, le=100, description="Quality of jpg and webp.")
    webhook: Annotated[str, Field(max_length=2000)] | None = Field(
        None, description="URL to notify when the job ends; its origin must be allowed by the server."
    )
    wait: bool | None = Field(
        None,
        description="true: wait and answer with the image; false: answer at once with a job. "
        "Left out: answer with the image if it is ready within seconds, otherwise with a job.",
    )


class TagsForm(_Form):
    """The form of `POST /v1/tags`."""

    image: UploadFile = Field(description="A still image in any format that Pillow reads.")
    threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Minimum score. Default: set by the tagger for each tag."
    )
    max_tags: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Maximum number of tags. Default: set by the tagger."
    )


class Size(BaseModel):
    """The size of an image in pixels."""

    width: int = Field(examples=[320])
    height: int = Field(examples=[240])


class ResultInfo(Size):
    """The result of a job."""

    format: ResultFormat
    bytes: int


class JobView(BaseModel):
    """A job as its owner sees it."""

    id: str = Field(examples=["kX3vPq0aY1mZ8bWcR5tLuA"])
    status: Status = Field(examples=["running"])
    position: int | None = Field(
        description="Number of jobs ahead in the queue; null unless queued.", examples=[None]
    )
    step: int = Field(description="Network evaluations done so far.")
    steps: int = Field(
        description="Network evaluations in all: an upper bound until the first is done; at least 1 at the end."
    )
    progress: float = Field(description="From 0 to 1; 1 only when the job is done.")
    created: datetime = Field(examples=["2026-01-31T12:00:00Z"])
    started: datetime | None
    finished: datetime | None
    expires: datetime | None = Field(description="When the finished job and its result will be removed.")
    input: Size
    output: ResultInfo | None
    options: dict[str, Any] = Field(examples=[{"scale": 4.0, "seed": 0, "format": "png", "quality": 95}])
    tags: list[str] = Field(description="Tags that guided the model.")
    unknown_tags: list[str] = Field(
        description="Requested tags that the model does not know, or beyond its maximum."
    )
    warnings: list[str]
    error: str | None

    @field_validator("created", "started", "finished", "expires", mode="before")
    @classmethod
    def _in_milliseconds(cls, seconds: object) -> object:
        return round(seconds, 3) if isinstance(seconds, float) else seconds


class JobsView(BaseModel):
    """The answer of `GET /v1/jobs`."""

    jobs: list[JobView] = Field(description="Newest first.")
    next: str | None = Field(description="Value of `before` for the next page; null on the last page.")


class FoundTag(BaseModel):
    """A tag found in an image, and the tagger's score for it, 0 to 1."""

    tag: str = Field(examples=["building"])
    score: float = Field(examples=[0.7512])


class TagsView(Size):
    """The answer of `POST /v1/tags`, with the highest scores first."""

    tags: list[FoundTag]


class ModelCard(BaseModel):
    """A model, its default settings, what it supports, and its devices."""

    id: str = Field(examples=["linearsr-default"])
    scale: float
    min_scale: float = 1
    max_scale: float = 8
    steps: int
    min_steps: int = Field(description="0 if the model has a trunk, which needs no step.")
    max_steps: int
    fidelity: float
    guidance_scale: float
    color_fix: ColourFix
    guided: bool = Field(description="Whether guidance_scale has an effect.")
    guided_by_tags: bool = Field(description="Whether `tags` have an effect.")
    uses_tags: bool = Field(
        description="Whether the tagger's tags guide the model when the request names none."
    )
    tagger: bool = Field(description="Whether `POST /v1/tags` works.")
    vocabulary: list[str] | None = Field(
        description="Tags the model knows; null if it takes any tag, or none."
    )
    formats: list[ResultFormat] = list(MEDIA_TYPES)
    devices: list[str] = Field(examples=[["cpu"]])
    dtype: str = Field(examples=["bfloat16"])


class Limits(BaseModel):
    """The limits of the server."""

    max_bytes: int
    max_pixels: int
    max_output_pixels: int
    max_queue: int
    max_seconds: float = Field(
        description="Time limit per megapixel of an image; less than one megapixel counts as one."
    )
    keep_seconds: float


class ModelsView(BaseModel):
    """The answer of `GET /v1/models`."""

    models: list[ModelCard]
    limits: Limits
    version: str


class StateView(BaseModel):
    """The answer of `/healthz` and `/readyz`."""

    status: Literal["ok", "ready"]
