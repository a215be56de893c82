"""`linearsr shard`: photos to WebDataset shards of crops, of which training decodes no more than it draws from.

A shard holds the crops of so many consecutive photos, so it follows from these photos and the settings alone. The index
beside the shards says which of them are whole, and what was left out of each.
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
# a crop of 512x512 is decoded in 8 ms as such a WebP, in 18 ms as the fastest PNG, in 3 ms as JPEG
_SAVE: dict[str, dict[str, Any]] = {
    "webp": {"format": "WEBP", "lossless": True, "quality": 0, "method": 0},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


class ShardError(ValueError):
    """Photos cannot be packed; the message is one line."""


@dataclass(frozen=True)
class ShardSettings:
    """What the bytes of shards depend on, beside the photos."""

    size: int = 512
    """Side of the crops in pixels; a photo that is shorter is kept whole in that direction."""
    format: Literal["webp", "jpg"] = "webp"
    """Lossless WebP, or JPEG of quality 95 without chroma subsampling."""
    photos_per_shard: int = 100
    best_share: float = 1.0
    """Share of all crops that is kept: those with the highest `detail_score`. Below 1, photos are decoded twice."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Larger photos count as broken."""


@dataclass
class Packed:
    """Counts of one shard, or of all."""

    crops: int = 0
    flat: int = 0
    """Crops left out for their lack of detail."""
    broken: list[str] = field(default_factory=list)
    """Why photos were left out, one line each."""

    def __iadd__(self, other: "Packed") -> "Packed":
        self.crops, self.flat = self.crops + other.crops, self.flat + other.flat
        self.broken += other.broken
        return self


@dataclass
class Index:
    made_of: dict[str, int | float | str]
    """Settings and photos."""
    least_detail: float | None
    """What a crop must have to be kept; None: still to be found."""
    shards: dict[str, Packed] = field(default_factory=dict)
    """Those that are whole."""


Crop = tuple[int, int, NDArray[np.uint8]]
"""Left and top of a crop in its photo, and its pixels (h, w, 3)."""


class Sharder:
    """Packs the photos under `folder` into `target`. Interrupted, it goes on behind the last whole shard.

    Raises ShardError: no photos, two of them with one name, or `target` holds shards of other photos or settings.
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
        """Find how much detail the best share of all crops has, and note it in the index.

        `advance` is called after each photo. Raises ShardError if no photo can be read.
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
        """Write the shards that are missing, and yield what became of each, old and new.

        `advance` is called with the number of photos that are done.
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
                    # without time and owner, so that the same photos make the same bytes
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                total += packed
                advance(1)
        if not total.crops:
            (self.target / name).unlink()
        return total

    def _pack(self, path: Path) -> tuple[list[tuple[str, bytes]], Packed]:
        """The members made of one photo, and what became of it."""
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
            return []  # it is named when its shard is written

    def _crops(self, path: Path) -> list[Crop]:
        return list(cut(read_rgb(path, self.settings.max_pixels, strict=False), self.settings.size))

    def _key(self, path: Path) -> str:
        """The beginning of the names of its crops. A dot would end the key of a WebDataset sample."""
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
            raise ShardError(f"{path} is no index of shards ({error}): choose another folder") from None
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
    """Crops of (H, W, 3), row by row, evenly spread.

    There are as many in each direction as come nearest to its length: up to half a crop is lost, or overlaps.
    """
    for top in _starts(photo.shape[0], size):
        for left in _starts(photo.shape[1], size):
            yield left, top, np.ascontiguousarray(photo[top : top + size, left : left + size])


def _starts(length: int, size: int) -> list[int]:
    count, room = max(1, (2 * length + size) // (2 * size)), max(0, length - size)
    return [room // 2] if count == 1 else [room * i // (count - 1) for i in range(count)]
