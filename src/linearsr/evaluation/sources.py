"""Where the images to be measured come from: two folders, or a model and what it is given."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from linearsr.evaluation.matching import check_sizes, match, unique_stems
from linearsr.images.degradation_choice import identity, named_degradation
from linearsr.images.files import list_images
from linearsr.images.io import Picture, write_image
from linearsr.images.photos import degraded_pair, read_rgb
from linearsr.pipeline import LinearSRPipeline

Pixels = NDArray[np.uint8]
Pair = tuple[Pixels, Pixels | None]
_PARTS_OF_A_MODEL = (".json", ".safetensors")


class Case(NamedTuple):
    """One image to be measured, by its files; a model's source has no result file."""

    name: str
    result: Path | None = None
    reference: Path | None = None
    lr: Path | None = None

    def fingerprint(self) -> str:
        """Of the contents of all its files. Raises OSError."""
        digest = hashlib.blake2b(digest_size=8)
        for path in (self.result, self.reference, self.lr):
            digest.update(b"-" if path is None else hashlib.blake2b(path.read_bytes()).digest())
        return digest.hexdigest()


class Images(NamedTuple):
    """One image to be measured, as (H, W, 3); the LR image is smaller."""

    result: Pixels
    reference: Pixels | None
    lr: Pixels | None


class Source(Protocol):
    """What is measured."""

    cases: list[Case]
    settings: dict[str, Any]
    """What the results depend on beside the files of the cases; only what JSON can hold."""
    results: Path | None
    """Where the results are as files, once all are made."""
    references: Path | None

    def images(self, case: Case) -> Images:
        """Read them or make them. Raises ImageError or ValueError, as one line."""
        ...

    def images_again(self, case: Case) -> Images:
        """The same, for a case whose images have been made before."""
        ...


class Folders:
    """Results beside HR images, or alone.

    Args:
        results, references, lr: folders, searched to the bottom; files are partners by their stem.

    Raises:
        MatchError: files without a partner, of other sizes, or of one stem.
        ValueError: a folder without images.
    """

    def __init__(self, results: Path, references: Path | None = None, lr: Path | None = None) -> None:
        self.results: Path | None = results
        self.references = references
        made = find_images(results)
        if references is None:
            self.cases = [Case(stem, path) for stem, path in unique_stems(made).items()]
        else:
            pairs = match(made, find_images(references))
            check_sizes(pairs)
            self.cases = [Case(hr.stem, result, hr) for result, hr in pairs]
        if lr is not None:
            self.cases = with_lr(self.cases, lr)
        self.settings = {"results": _text(results), "references": _text(references)}

    def images(self, case: Case) -> Images:
        """Read them."""
        assert case.result is not None
        images = Images(
            read_rgb(case.result),
            None if case.reference is None else read_rgb(case.reference),
            None if case.lr is None else read_rgb(case.lr),
        )
        if images.reference is not None and images.reference.shape != images.result.shape:
            raise ValueError(f"{case.result} and {case.reference} are not of one size")
        return images

    images_again = images


@dataclass(frozen=True)
class Recipe:
    """How a model is asked for its results; None takes the model's own setting."""

    seed: int = 0
    steps: int | None = None
    fidelity: float | None = None


class Results:
    """A model's results on LR images.

    Args:
        pipeline: the model.
        cases: its inputs: `reference` to degrade, or `lr` beside it or alone.
        recipe: how it is asked.
        degrade: path -> (LR, HR) in [0, 1], for cases without LR images.
        settings: what else the results depend on.
        keep: folder where the results are written as PNG.
    """

    def __init__(
        self,
        pipeline: LinearSRPipeline,
        cases: Sequence[Case],
        recipe: Recipe,
        degrade: Callable[[Path], tuple[NDArray[np.float32], NDArray[np.float32]]] | None,
        settings: dict[str, Any],
        keep: Path | None,
        references: Path | None,
    ) -> None:
        self.pipeline, self.cases, self.recipe, self.degrade = pipeline, list(cases), recipe, degrade
        self.settings = {**settings, **vars(recipe)}
        self.results, self.references = keep, references

    def images(self, case: Case) -> Images:
        """Upscale the LR image."""
        lr, reference = self._inputs(case)
        recipe = self.recipe
        output = self.pipeline(
            lr,
            seed=recipe.seed,
            num_inference_steps=recipe.steps,
            fidelity=recipe.fidelity,
            output_type="np",
        )
        result = eight_bit(output.images[0])
        if reference is not None and reference.shape != result.shape:
            raise ValueError(f"{case.reference}: is not {self.pipeline.scale} times as large as its LR image")
        if self.results is not None:
            path = self._file(case)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(Picture(result.astype(np.float32) / np.float32(255)), path, overwrite=True)
        return Images(result, reference, lr)

    def images_again(self, case: Case) -> Images:
        """Read the result if it was kept, else make it anew."""
        if self.results is None or not self._file(case).exists():
            return self.images(case)
        lr, reference = self._inputs(case)
        return Images(read_rgb(self._file(case)), reference, lr)

    def _inputs(self, case: Case) -> Pair:
        """(LR, HR)"""
        if case.lr is not None:
            return read_rgb(case.lr), None if case.reference is None else read_rgb(case.reference)
        assert case.reference is not None
        assert self.degrade is not None
        lr, hr = self.degrade(case.reference)
        return eight_bit(lr), eight_bit(hr)

    def _file(self, case: Case) -> Path:
        assert self.results is not None
        return self.results / f"{case.name}.png"


def degraded(
    pipeline: LinearSRPipeline,
    hr_folder: Path,
    degradation: str,
    recipe: Recipe,
    settings: dict[str, Any],
    keep: Path | None,
) -> Results:
    """A model on degraded HR photos: LR images are those of `linearsr degrade` with the recipe's seed.

    Raises:
        MatchError: photos of one stem.
        ValueError: a folder without images.
    """
    photos = unique_stems(find_images(hr_folder))
    cases = [Case(stem, reference=path) for stem, path in photos.items()]

    how = named_degradation(degradation)

    def degrade(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return degraded_pair(path, how, recipe.seed, pipeline.scale)

    settings = {**settings, "references": _text(hr_folder), "degrade": identity(degradation)}
    return Results(pipeline, cases, recipe, degrade, settings, keep, hr_folder)


def upscaled(
    pipeline: LinearSRPipeline,
    lr_folder: Path,
    hr_folder: Path | None,
    recipe: Recipe,
    settings: dict[str, Any],
    keep: Path | None,
) -> Results:
    """A model on given LR images, with their HR images or without any.

    Raises:
        MatchError: files without a partner, of other sizes, or of one stem.
        ValueError: a folder without images.
    """
    if hr_folder is None:
        cases = [Case(stem, lr=path) for stem, path in unique_stems(find_images(lr_folder)).items()]
    else:
        cases = [Case(path.stem, reference=path) for path in find_images(hr_folder)]
        cases = with_lr(cases, lr_folder)
        pairs = [(case.lr, case.reference) for case in cases if case.lr and case.reference]
        check_sizes(pairs, pipeline.scale)
    settings = {**settings, "lr": _text(lr_folder), "references": _text(hr_folder)}
    return Results(pipeline, cases, recipe, None, settings, keep, hr_folder)


def with_lr(cases: Sequence[Case], folder: Path) -> list[Case]:
    """The cases, each with its LR image. Raises MatchError and ValueError as `Folders`."""
    wanted = {(case.reference or case.result): case for case in cases}
    pairs = match(find_images(folder), [path for path in wanted if path is not None], "LR image")
    return [wanted[path]._replace(lr=lr) for lr, path in pairs]


def find_images(folder: Path) -> list[Path]:
    """Raises ValueError if there are none."""
    found = list_images(folder)
    if not found:
        problem = ": no images in this folder" if folder.is_dir() else " is no folder"
        raise ValueError(f"{folder}{problem}: give a folder of images")
    return found


def digest(folder: Path) -> str:
    """Of all weights and settings under `folder`, in JSON or safetensors: changes with any of them."""
    whole = hashlib.blake2b(digest_size=8)
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _PARTS_OF_A_MODEL):
        whole.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            while block := file.read(2**24):
                whole.update(block)
    return whole.hexdigest()


def eight_bit(image: NDArray[np.float32]) -> Pixels:
    """[0, 1] -> [0, 255], as a file holds it."""
    rounded: Pixels = np.rint(image.clip(0, 1) * np.float32(255)).astype(np.uint8)
    return rounded


def _text(folder: Path | None) -> str | None:
    return None if folder is None else str(folder.resolve())
