"""A result in another format than it was made in, by a process of its own: a large one takes gigabytes for a moment."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anyio import BrokenWorkerProcess, CapacityLimiter, to_process
from PIL import Image

from linearsr.images.io import ImageError, read_image, write_image


class NotConverted(ValueError):
    """The format cannot hold the image; the message says why."""


class Converter:
    """Makes one file after the other."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._turn = CapacityLimiter(1)

    async def convert(self, source: Path, target: Path, tags: Sequence[str], stripped: bool = False) -> None:
        """Write the image `source` as `target`, in the format of its extension; EXIF, profile and `tags` go along.

        Where it is to be `stripped`, of its metadata only the profile does.

        Nothing is done where `target` is there already.

        Raises:
            NotConverted: the format cannot hold the image.
        """
        task = source, target, tuple(tags), self._max_pixels, stripped
        try:
            wrong = await to_process.run_sync(_convert, *task, cancellable=True, limiter=self._turn)
        except BrokenWorkerProcess:
            wrong = "there is not enough memory to convert the result"
        if wrong is not None:
            raise NotConverted(wrong)


def _convert(
    source: Path, target: Path, tags: tuple[str, ...], max_pixels: int, stripped: bool
) -> str | None:
    """Convert one file; says why it cannot."""
    if target.exists():
        return None
    Image.MAX_IMAGE_PIXELS = None
    warnings.simplefilter("ignore")
    try:
        picture = read_image(source, max_pixels=max_pixels, keep="nothing" if stripped else "all")
        write_image(replace(picture, tags=tags), target, overwrite=True)
    except ImageError as error:
        return str(error).replace(f"{target}: ", "the result ").replace(f"{source}: ", "the result ")
    return None
