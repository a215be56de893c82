"""LinearSR on a Ray cluster: a class for `map_batches` of a Ray dataset. Needs `linearsr[batch]`."""

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
    """A value, or one line that says why there is none; and what was warned of."""

    value: Value | None
    error: str | None = None
    warning: str | None = None


def outcome(make: Callable[[], Value]) -> Outcome[Value]:
    """Run `make`, whatever it raises, and hear what it warns of."""
    with heard() as notes:
        try:
            value = make()
        except Exception as error:
            return Outcome(None, reason(error).removeprefix("<bytes>: "))
    return Outcome(
        value, warning="; ".join(one_line(note.message).removeprefix("<bytes>: ") for note in notes) or None
    )


class LinearSRUpscaler:
    """Upscales a column of images; Ray Data keeps one in each process.

        images = ray.data.read_images("photos/", mode="RGB")
        images.map_batches(LinearSRUpscaler, batch_size=8, num_cpus=2, concurrency=4)

    Images are arrays (H, W) or (H, W, C), uint8, uint16 or float in [0, 1], and become arrays (H, W, C) of uint8 or
    uint16; or the bytes of files, and become bytes of files. Images of one size in a batch go through the network
    together, where nothing guides the model. An image that cannot be upscaled gives None, and `error` says why.

    Args:
        model: folder, hub id, or a function that makes the pipeline; None: the model built in.
        column: of the images.
        output: column of the results; None: the same.
        device: "auto", "cpu", "cuda", "mps".
        dtype: of the weights: "auto", "float32", "bfloat16", "float16".
        format, quality: of files: "png", "jpg", "webp", "tiff"; 1 to 100.
        max_pixels: images with more are refused.
        options: of `LinearSRPipeline.upscale`: scale, num_inference_steps, fidelity, tags, guidance_scale, seed,
            color_fix. Raises ValueError for those that the model does not take, or if it cannot be loaded.
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
        self._pipeline.unknown_tags(options.get("tags"))
        self._options = {"seed": 0, **options}

    def __call__(self, batch: Batch) -> Batch:
        """The batch with results, and with the column `error`, which is empty where there is none."""
        images = list(batch[self._column])
        together = self._together(images) if len(images) > 1 else {}
        made = [outcome(partial(self._made, image, together.get(i))) for i, image in enumerate(images)]
        results = _column([one.value for one in made])
        return {**batch, self._output: results, "error": _column([one.error or "" for one in made])}

    def upscale(self, image: NDArray[Any] | bytes) -> Picture:
        """One image. Raises ValueError if it cannot be upscaled."""
        return self._pipeline.upscale(self._read(image), **self._options)

    def encode(self, picture: Picture, name: str) -> bytes:
        """A result as the bytes of a file of that name. Raises ValueError if its format cannot hold it."""
        return encode_image(picture, name, self._quality)

    def _together(self, images: Sequence[NDArray[Any] | bytes]) -> dict[int, Picture]:
        """The results of images of one size, by place, where they can be had in one go."""
        alike: dict[tuple[int, int], dict[int, Picture]] = defaultdict(dict)
        for place, image in enumerate(images):
            picture = outcome(partial(self._read, image)).value
            if picture is not None:
                alike[picture.size][place] = picture
        asked = {name: value for name, value in self._options.items() if name != "seed"}
        results: dict[int, Picture] = {}
        for pictures in alike.values():
            seeds = [self._options["seed"]] * len(pictures)
            # what is guided, or too much for the memory, is done one by one
            with suppress(ValueError, RuntimeError):
                options = self._pipeline.options(**asked)
                made = self._pipeline.upscale_together(list(pictures.values()), seeds, options)
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
    """Of objects, even where they are arrays of one shape."""
    column = np.empty(len(values), object)
    for place, value in enumerate(values):
        column[place] = value
    return column
