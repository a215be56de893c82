"""Matching of results and HR images by the stem of their file names, never by guessing."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from linearsr.images.photos import read_rgb
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_size

_SCALE = re.compile(r"_x\d+(\.\d+)?$")
_ROLE = re.compile(r"[_-](LR|HR|SR|GT|LQ|HQ)\d*$", re.IGNORECASE)
_SHOWN = 20


class MatchError(ValueError):
    """Raised when files do not match: a line with the problem, then one for each of the first 20 files."""

    def __init__(self, problem: str, files: Sequence[object]) -> None:
        rest = len(files) - _SHOWN
        lines = [f"  {file}" for file in files[:_SHOWN]] + ([f"  and {rest} more"] if rest > 0 else [])
        super().__init__("\n".join([problem, *lines]))


def match(
    results: Sequence[Path],
    references: Sequence[Path],
    kind: str = "result",
    of: str = "HR image",
    spare: bool = False,
) -> list[tuple[Path, Path]]:
    """Return (result, reference) for each reference, in their order.

    Stems are compared in three ways: as they are; without an ending `_x4` of results; and on both sides
    without endings such as `_x4`, `_LR4`, `_HR`, `_SR` and `_GT`, so that `a_LR4_x4` belongs to `a_HR`. The
    way that finds most partners is used. `spare` compares in the third way only, and leaves out results
    without a reference.

    Raises MatchError, which calls the files `kind` and `of`, when two share a stem or one has no partner.
    """
    stems = [path.stem for path in references]
    ways = [([plain_stem(path) for path in results], [plain_stem(path) for path in references])]
    if not spare:
        ways.insert(0, ([path.stem for path in results], stems))
        ways.insert(1, ([_SCALE.sub("", path.stem) for path in results], stems))
    made_stems, wanted_stems = max(ways, key=lambda way: len(set(way[0]) & set(way[1])))
    made, wanted = _unique(results, made_stems), _unique(references, wanted_stems)
    without = [path for stem, path in wanted.items() if stem not in made]
    if without:
        raise MatchError(f"{of}s that have no {kind} of the same stem: {len(without)}", without)
    left = [path for stem, path in made.items() if stem not in wanted]
    if left and not spare:
        raise MatchError(f"{kind}s that have no {of} of the same stem: {len(left)}", left)
    return [(made[stem], path) for stem, path in wanted.items()]


def plain_stem(path: Path) -> str:
    """Return the stem without endings such as `_x4`, `_LR4` and `_HR`."""
    return _ROLE.sub("", _SCALE.sub("", path.stem))


def unique_stems(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by stem. Raises MatchError when two share a stem."""
    return _unique(paths, [path.stem for path in paths])


def check_sizes(pairs: Sequence[tuple[Path, Path]], scale: int = 1) -> None:
    """Raise MatchError unless the second image of each pair is `scale` times as large as the first.

    Files that cannot be read pass the check: they fail when they are measured.
    """
    wrong = list(filter(None, (_size_problem(small, large, scale) for small, large in pairs)))
    if wrong:
        wanted = "of one size" if scale == 1 else f"{scale} times as large as their LR image"
        raise MatchError(f"images that are not {wanted}: {len(wrong)}", wrong)


def _size_problem(small: Path, large: Path, scale: int) -> str | None:
    try:
        # compare headers first, which are quick to read but ignore the EXIF orientation
        for header in (True, False):
            (height, width), (height_large, width_large) = (
                read_size(path, str(path)) if header else read_rgb(path).shape[:2] for path in (small, large)
            )
            if (height * scale, width * scale) == (height_large, width_large):
                return None
    except ImageError:
        return None
    return f"{small}: {width}x{height}, {large}: {width_large}x{height_large}"


def _unique(paths: Sequence[Path], stems: Sequence[str]) -> dict[str, Path]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, stem in zip(paths, stems, strict=True):
        groups[stem].append(path)
    doubles = [path for group in groups.values() if len(group) > 1 for path in group]
    if doubles:
        raise MatchError(f"files that share a stem: {len(doubles)}; keep one of each", doubles)
    return {stem: group[0] for stem, group in groups.items()}
