"""LinearSR for Ray Data: a class for `map_batches` of a Ray dataset. Needs `linearsr[batch]`."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from linearsr.images.picture import Picture
from linearsr.images.reading import DEFAULT_MAX_PIXELS, read_image
from linearsr.images.writing import encode_image
from linearsr.jobs.messages import heard, one_line, reason
from linearsr.jobs.upscaling import load_pipeline
from linearsr.settings import DType

if TYPE_CHECKING:
    from linearsr.pipeline import LinearSRPipeline

Batch = dict[str, NDArray[Any]]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """A value, or one line in `error` that says why there is none, and the warnings given on the way."""

    value: Value | None
    error: str | None = None
    warning: str | None = None


def outcome(make: Callable[[], Value]) -> Outcome[Value]:
    """Call `make`, catch any exception, and record its warnings."""
    with heard() as notes:
        try:
            value = make()
        except Exception as error:
            return Outcome(None, reason(error).removeprefix("<bytes>: "))
    return Outcome(
        value, warning="; ".join(one_line(note.message).removeprefix("<bytes>: ") for note in notes) or None
    )


class LinearSRUpscaler:
    """A callable that upscales a column of images. Ray Data keeps one instance in each process.

        images = ray.data.read_images("photos/", mode="RGB")
        images.map_batches(LinearSRUpscaler, batch_size=8, num_cpus=2, concurrency=4)

    An image is an array (H, W) or (H, W, C) of uint8, uint16, or float in [0, 1], and becomes an array
    (H, W, C) of uint8 or uint16; or it is the bytes of a file, and becomes the bytes of a file. Images of one
    size in a batch go through the network together, unless the model is guided. An image that cannot be
    upscaled becomes None, and the column `error` says why. Raises ValueError: the model
    cannot be loaded, or cannot follow an option.

    Args:
        model: folder, hub id, or a function that returns the pipeline; None loads the built-in model.
        column: name of the column of images.
        output: name of the column for the results; None replaces the images.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: type of the weights: "auto", "float32", "bfloat16" or "float16".
        format, quality: of result files: "png", "jpg", "webp" or "tiff"; 1 to 100.
        max_pixels: the most pixels that an image may have.
        options: arguments of `LinearSRPipeline.upscale`: scale, num_inference_steps, fidelity, tags,
            guidance_scale, seed, color_fix.
    """

    def __init__(
        self,
        model: "str | Callable[[], LinearSRPipeline] | None" = None,
        *,
        column: str = "image",
        output: str | None = None,
        device: str = "auto",
        dtype: DType = "auto",
        format: str = "png",
        quality: int = 95,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        **options: Any,
    ) -> None:
        self._column, self._output = column, output or column
        self._format, self._quality, self._max_pixels = format, quality, max_pixels
        self._pipeline = model() if callable(model) else load_pipeline(model, device, dtype)
        self._seed, self._settings = options.pop("seed", 0), options
        # an option that this model cannot follow would fail every image
        self._checked = self._pipeline.options(**options)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the results and a column `error`, which is "" for images that succeeded."""
        images = list(batch[self._column])
        together = self._together(images) if len(images) > 1 else {}
        made = [outcome(partial(self._made, image, together.get(i))) for i, image in enumerate(images)]
        results = _column([one.value for one in made])
        return {**batch, self._output: results, "error": _column([one.error or "" for one in made])}

    def upscale(self, image: NDArray[Any] | bytes) -> Picture:
        """Upscale one image. Raises ValueError: it cannot be read or upscaled."""
        return self._pipeline.upscale(self._read(image), seed=self._seed, **self._settings)

    def encode(self, picture: Picture, name: str) -> bytes:
        """Encode a result as a file of that name. Raises ValueError: the format cannot hold it."""
        return encode_image(picture, name, self._quality)

    def _together(self, images: Sequence[NDArray[Any] | bytes]) -> dict[int, Picture]:
        """Upscale images of the same size together, and return the results by their index in `images`.

        Images that cannot be upscaled together are missing from the results.
        """
        alike: dict[tuple[int, int], dict[int, Picture]] = defaultdict(dict)
        for place, image in enumerate(images):
            picture = outcome(partial(self._read, image)).value
            if picture is not None:
                alike[picture.size][place] = picture
        results: dict[int, Picture] = {}
        for pictures in alike.values():
            seeds = [self._seed] * len(pictures)
            # guided images, and those that need too much memory together, are upscaled one by one later
            with suppress(ValueError, RuntimeError):
                made = self._pipeline.upscale_together(list(pictures.values()), seeds, self._checked)
                results |= zip(pictures, made, strict=True)
        return results

    def _made(self, image: NDArray[Any] | bytes, picture: Picture | None) -> NDArray[Any] | bytes:
        picture = picture or self.upscale(image)
        if isinstance(image, bytes):
            return self.encode(picture, f"image.{self._format}")
        return picture.quantised()

    def _read(self, image: NDArray[Any] | bytes) -> Picture:
        from linearsr.images.convert import picture_from_array

        if isinstance(image, bytes):
            return read_image(image, max_pixels=self._max_pixels)
        return picture_from_array(image)


def _column(values: Sequence[object]) -> NDArray[Any]:
    """Return an array of objects; numpy would merge arrays of one shape."""
    column = np.empty(len(values), object)
    for place, value in enumerate(values):
        column[place] = value
    return column
