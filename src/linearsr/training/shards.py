"""`linearsr shard`: pack photos into WebDataset shards of crops, so that training decodes only what it needs.

A shard holds the crops of a fixed number of consecutive photos, so it depends only on these and the settings.
The index beside the shards lists the complete ones, and what was left out of each.
"""

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from linearsr.images.files import list_images
from linearsr.images.photos import detail_score, read_rgb
from linearsr.images.picture import ImageError
from linearsr.images.reading import DEFAULT_MAX_PIXELS
from linearsr.runtime.files import from_json, whole_file
from linearsr.training.catalogue import LATENT_SUFFIX

if TYPE_CHECKING:
    from linearsr.training.latents import Latents

INDEX = "index.json"
# decoding a crop of 512x512 takes 8 ms from this WebP, 18 ms from the fastest PNG, 3 ms from JPEG
_SAVE: dict[str, dict[str, Any]] = {
    "webp": {"format": "WEBP", "lossless": True, "quality": 0, "method": 0},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


class ShardError(ValueError):
    """An error that keeps photos from being packed; the message is one line."""


@dataclass(frozen=True)
class ShardSettings:
    """The settings that, together with the photos, determine the bytes of shards."""

    size: int = 512
    """Side of the crops in pixels; a photo that is shorter in one direction keeps its whole length there."""
    format: Literal["webp", "jpg"] = "webp"
    """Lossless WebP, or JPEG of quality 95 without chroma subsampling."""
    photos_per_shard: int = 100
    best_share: float = 1.0
    """Share of crops to keep, those with the highest `detail_score`. Below 1, photos are decoded twice."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Photos with more pixels than this count as broken."""


@dataclass
class Packed:
    """What became of the photos of one shard, or of all."""

    crops: int = 0
    """Crops that were kept."""
    flat: int = 0
    """Crops left out because they lack detail."""
    broken: list[str] = field(default_factory=list)
    """The reasons why photos were left out, one line each."""

    def __iadd__(self, other: "Packed") -> "Packed":
        self.crops, self.flat = self.crops + other.crops, self.flat + other.flat
        self.broken += other.broken
        return self


@dataclass
class Index:
    """The content of `index.json`."""

    made_of: dict[str, int | float | str]
    """The settings, and a digest of the photos' names and sizes."""
    least_detail: float | None
    """Lowest `detail_score` of a crop that is kept; None: not computed yet."""
    shards: dict[str, Packed] = field(default_factory=dict)
    """The complete shards by file name."""


Crop = tuple[int, int, NDArray[np.uint8]]
"""A crop: its left and top in the photo, and its pixels (h, w, 3)."""


class Sharder:
    """Packs the photos under `folder` into `target`; after an interruption, writes only the missing shards.

    Raises ShardError: when there are no photos, two have the same name, or `target` holds shards of other
    photos or settings.
    """

    def __init__(
        self, folder: Path, target: Path, settings: ShardSettings, latents: "Latents | None" = None
    ) -> None:
        self.folder, self.target, self.settings, self.latents = folder, target, settings, latents
        if latents is not None and settings.size % latents.codec.compression:
            raise ShardError(
                f"crops of {settings.size} px have no latents: give a multiple of {latents.codec.compression}"
            )
        self.photos = list_images(folder)
        if not self.photos:
            raise ShardError(f"{folder}: no images found: give a folder with HR photos")
        names: dict[str, Path] = {}
        for path in self.photos:
            if (other := names.setdefault(self._key(path), path)) != path:
                raise ShardError(f"{other} and {path}: their crops would have the same names: rename one")
        self._index = self._open_index()

    @property
    def scores_missing(self) -> bool:
        """Whether `find_least_detail` has yet to be called."""
        return self._index.least_detail is None

    def find_least_detail(self, advance: Callable[[], None]) -> None:
        """Compute the lowest score among the best share of all crops, and write it to the index.

        `advance` is called after each photo. Raises ShardError: when no photo can be read.
        """
        scores: list[float] = []
        with ThreadPoolExecutor() as pool:
            for found in pool.map(self._scores, self.photos):
                scores += found
                advance()
        if not scores:
            raise ShardError(f"{self.folder}: all photos are broken")
        kept = math.ceil(round(self.settings.best_share * len(scores), 6))
        self._index.least_detail = float(np.sort(scores)[-kept])
        self._write_index()

    def run(self, advance: Callable[[int], None]) -> Iterator[Packed]:
        """Write the missing shards, and yield the counts of every shard, old and new.

        `advance` is called with the number of photos done since its last call.
        """
        self._write_index()
        step = self.settings.photos_per_shard
        count = -(-len(self.photos) // step)
        with ThreadPoolExecutor() as pool:
            for number in range(count):
                name = f"{number:0{max(5, len(str(count - 1)))}}.tar"
                photos = self.photos[number * step : (number + 1) * step]
                if name in self._index.shards:
                    advance(len(photos))
                else:
                    self._index.shards[name] = self._write_shard(name, photos, pool, advance)
                    self._write_index()
                yield self._index.shards[name]

    def _write_shard(
        self, name: str, photos: Sequence[Path], pool: ThreadPoolExecutor, advance: Callable[[int], None]
    ) -> Packed:
        total = Packed()
        with whole_file(self.target / name, "shard") as draft, tarfile.open(draft, "w") as tar:
            for members, packed in pool.map(self._pack, photos):
                for member, data in members:
                    # no time and owner, so that the same photos give the same bytes
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                total += packed
                advance(1)
        if not total.crops:
            (self.target / name).unlink()
        return total

    def _pack(self, path: Path) -> tuple[list[tuple[str, bytes]], Packed]:
        """Return the tar members made from one photo, and its counts."""
        least = self._index.least_detail
        members: list[tuple[str, bytes]] = []
        kept, size = 0, self.settings.size
        try:
            crops = self._crops(path)
        except ImageError as error:
            return [], Packed(broken=[str(error)])
        for left, top, pixels in crops:
            if least and detail_score(pixels) < least:
                continue
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, **_SAVE[self.settings.format])
            key, kept = f"{self._key(path)}@{left},{top}", kept + 1
            members.append((f"{key}.{self.settings.format}", file.getvalue()))
            if self.latents is not None and pixels.shape[:2] == (size, size):
                members.append((key + LATENT_SUFFIX, self.latents.of(file)))
        return members, Packed(crops=kept, flat=len(crops) - kept)

    def _scores(self, path: Path) -> list[float]:
        try:
            return [detail_score(pixels) for _, _, pixels in self._crops(path)]
        except ImageError:
            return []  # reported when its shard is written

    def _crops(self, path: Path) -> list[Crop]:
        return list(cut(read_rgb(path, self.settings.max_pixels, strict=False), self.settings.size))

    def _key(self, path: Path) -> str:
        """Return the prefix of the crops' names, without dots: a dot ends the key of a WebDataset sample."""
        inside = path.relative_to(self.folder)
        return inside.with_name(inside.name.replace(".", "_")).as_posix()

    def _open_index(self) -> Index:
        names = "\n".join(f"{path.relative_to(self.folder)} {path.lstat().st_size}" for path in self.photos)
        digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
        made_of = {**asdict(self.settings), "photos": digest}
        if self.latents is not None:
            made_of["latents"] = self.latents.name
        path = self.target / INDEX
        if not path.exists():
            if next(self.target.glob("*.tar"), None) is not None:
                raise ShardError(f"{self.target} holds tar files without {INDEX}: choose another folder")
            return Index(made_of, 0.0 if self.settings.best_share == 1 else None)
        try:
            index = from_json(Index, json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ShardError(f"{path} is not an index of shards ({error}): choose another folder") from None
        keys = {**made_of, **index.made_of}
        other = [key.replace("_", " ") for key in keys if index.made_of.get(key) != made_of.get(key)]
        if other:
            raise ShardError(
                f"{self.target} holds shards made with other {' and '.join(other)}: choose another folder"
            )
        packed = sorted(index.shards.items())
        there = {name: one for name, one in packed if not one.crops or (self.target / name).exists()}
        return replace(index, shards=there)

    def _write_index(self) -> None:
        with whole_file(self.target / INDEX, "shard") as draft:
            draft.write_text(json.dumps(asdict(self._index), indent=1))


def cut(photo: NDArray[np.uint8], size: int) -> Iterator[Crop]:
    """Cut a photo (H, W, 3) into evenly spaced crops, row by row.

    The number in each direction fills its length as well as possible: up to half a crop is lost, or overlaps.
    """
    for top in _starts(photo.shape[0], size):
        for left in _starts(photo.shape[1], size):
            yield left, top, np.ascontiguousarray(photo[top : top + size, left : left + size])


def _starts(length: int, size: int) -> list[int]:
    count, room = max(1, (2 * length + size) // (2 * size)), max(0, length - size)
    return [room // 2] if count == 1 else [room * i // (count - 1) for i in range(count)]
