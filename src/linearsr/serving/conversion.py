"""A result in another format than it was made in, by a process of its own: a large one takes gigabytes for a moment."""

import asyncio
import json
import os
import sys
import warnings
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path


class NotConverted(ValueError):
    """The format cannot hold the image; the message says why."""


class Converter:
    """Makes one file after the other."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._turn = asyncio.Lock()

    async def convert(self, source: Path, target: Path, tags: Sequence[str]) -> None:
        """Write the image `source` as `target`, in the format of its extension; EXIF, profile and `tags` go along.

        Nothing is done where `target` is there already.

        Raises:
            NotConverted: the format cannot hold the image.
        """
        async with self._turn:
            if target.exists():
                return
            task = json.dumps([str(source), str(target), list(tags), self._max_pixels])
            environment = {**os.environ, "PYTHONSAFEPATH": "1"}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "linearsr.serving.conversion", task), stdout=PIPE, env=environment
            )
            try:
                said, _ = await process.communicate()
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
            if process.returncode:
                raise NotConverted(said.decode() or "there is not enough memory to convert the result")


def main(source: str, target: str, tags: Sequence[str], max_pixels: int) -> int:
    """Convert one file; says on stdout why it cannot."""
    from linearsr.images.io import ImageError, read_image, write_image

    warnings.simplefilter("ignore")
    try:
        picture = replace(read_image(source, max_pixels=max_pixels), tags=tuple(tags))
        write_image(picture, target, overwrite=True)
    except ImageError as error:
        print(str(error).replace(f"{target}: ", "the result ").replace(f"{source}: ", "the result "), end="")  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*json.loads(sys.argv[1])))
