"""The sources of images to measure: two folders, or a model and its inputs."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from linearsr.evaluation.matching import check_sizes, match, unique_stems
from linearsr.images.degradation_choice import identity, named_degradation
from linearsr.images.files import list_images
from linearsr.images.photos import degraded_pair, read_rgb
from linearsr.images.picture import Picture
from linearsr.images.writing import write_image
from linearsr.model_folder import find_model
from linearsr.pipeline import LinearSRPipeline

Pixels = NDArray[np.uint8]
_PARTS_OF_A_MODEL = (".json", ".safetensors")


class Case(NamedTuple):
    """One image to measure, by its files. `result` is None if a model makes the result."""

    name: str
    result: Path | None = None
    reference: Path | None = None
    lr: Path | None = None

    def fingerprint(self) -> str:
        """Return a hash of the contents of all its files. Raises OSError."""
        digest = hashlib.blake2b(digest_size=8)
        for path in (self.result, self.reference, self.lr):
            digest.update(b"-" if path is None else hashlib.blake2b(path.read_bytes()).digest())
        return digest.hexdigest()


Images = tuple[Pixels, Pixels | None]
"""A result and its reference, each (H, W, 3)."""


class Folders:
    """Results in a folder and its subfolders, with or without HR images in another, matched by their stems.

    Raises MatchError when files have no partner, other sizes or the same stem; ValueError for a folder
    without images.
    """

    def __init__(self, results: Path, references: Path | None = None) -> None:
        made = find_images(results)
        if references is None:
            self.cases = [Case(stem, path) for stem, path in unique_stems(made).items()]
        else:
            pairs = match(made, find_images(references))
            check_sizes(pairs)
            self.cases = [Case(hr.stem, result, hr) for result, hr in pairs]
        self.settings: dict[str, Any] = {"results": _text(results), "references": _text(references)}

    def images(self, case: Case) -> Images:
        """Read the images of a case. Raises ImageError or ValueError, as one line."""
        assert case.result is not None
        result = read_rgb(case.result)
        reference = None if case.reference is None else read_rgb(case.reference)
        if reference is not None and reference.shape != result.shape:
            raise ValueError(f"{case.result} and {case.reference} are not of one size")
        return result, reference


class Results:
    """Results of a model: on given LR images, with or without HR images, or on degraded HR photos.

    Args:
        pipeline, model: the model, and its name; None or "default" is the built-in model.
        seed: seed of the noise and of the degradation.
        steps, fidelity: as in `LinearSRPipeline.__call__`.
        keep: folder for the results as PNG; None keeps none.
        references: folder of HR images.
        lr: folder of their LR images; None makes them as `linearsr degrade` does with this seed.
        degradation: preset or YAML file, used without `lr`.
        tags: returns the tags for the path of a photo or LR image; None leaves them to the model.

    Raises the errors of `Folders`, and ValueError when the model does not support `steps` or `fidelity`, it
    needs sentences and there are none, or `tags` raises one.
    """

    def __init__(
        self,
        pipeline: LinearSRPipeline,
        model: str | None,
        seed: int,
        steps: int | None,
        fidelity: float | None,
        keep: Path | None,
        references: Path | None,
        lr: Path | None = None,
        degradation: str = "mild",
        tags: Callable[[Path], list[str]] | None = None,
    ) -> None:
        self.pipeline, self.results = pipeline, keep
        pipeline.options(num_inference_steps=steps, fidelity=fidelity)  # refuse bad values once, here
        if tags is None and pipeline.guidance is not None and pipeline.guidance.wants_sentences:
            raise ValueError(
                "sentences guide this model, which no tagger writes: give --tags FILE.json with one for each photo, "
                "in the form of data.tags in training"
            )
        self.asked: dict[str, Any] = {"seed": seed, "num_inference_steps": steps, "fidelity": fidelity}
        folder = find_model(model)
        self.settings: dict[str, Any] = {
            "model": pipeline.config.name,
            "weights": digest(folder),
            "device": pipeline.device.type,
            "dtype": pipeline.arithmetic,
            "seed": seed,
            "steps": steps,
            "fidelity": fidelity,
            "references": _text(references),
        }
        if lr is None:
            assert references is not None
            photos = unique_stems(find_images(references))
            self.cases = [Case(stem, reference=path) for stem, path in photos.items()]
            self.settings["degrade"] = identity(degradation)
            self.degradation = named_degradation(degradation)
        elif references is None:
            self.cases = [Case(stem, lr=path) for stem, path in unique_stems(find_images(lr)).items()]
        else:
            pairs = match(find_images(lr), find_images(references), "LR image")
            check_sizes(pairs, pipeline.scale)
            self.cases = [Case(photo.stem, reference=photo, lr=small) for small, photo in pairs]
        if lr is not None:
            self.settings["lr"] = _text(lr)
        self._tags: dict[str, list[str]] = {}
        if tags is not None:
            self._tags = {case.name: tags(path) for case in self.cases if (path := case.reference or case.lr)}
            self.settings["tags"] = hashlib.blake2b(repr(self._tags).encode(), digest_size=8).hexdigest()

    def images(self, case: Case) -> Images:
        """Read or make a case's LR image and upscale it. Raises ImageError or ValueError, as one line."""
        if case.lr is not None:
            lr = read_rgb(case.lr)
            reference = None if case.reference is None else read_rgb(case.reference)
        else:
            assert case.reference is not None
            pair = degraded_pair(case.reference, self.degradation, self.asked["seed"], self.pipeline.scale)
            lr, reference = map(eight_bit, pair)
        output = self.pipeline(lr, output_type="np", tags=self._tags.get(case.name), **self.asked)
        result = eight_bit(output.images[0])
        if reference is not None and reference.shape != result.shape:
            raise ValueError(f"{case.reference}: is not {self.pipeline.scale} times as large as its LR image")
        if self.results is not None:
            self.results.mkdir(parents=True, exist_ok=True)
            file = self.results / f"{case.name}.png"
            write_image(Picture(result.astype(np.float32) / np.float32(255)), file, overwrite=True)
        return result, reference


Source = Folders | Results
"""A source: its `cases`, their `images`, and the `settings` (ready for JSON) on which the images depend."""


def find_images(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders. Raises ValueError if there are none."""
    found = list_images(folder)
    if not found:
        problem = ": no images in this folder" if folder.is_dir() else " is not a folder"
        raise ValueError(f"{folder}{problem}: give a folder of images")
    return found


def digest(folder: Path) -> str:
    """Return a hash of all weights and settings (safetensors and JSON files) under `folder`."""
    whole = hashlib.blake2b(digest_size=8)
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _PARTS_OF_A_MODEL):
        whole.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            while block := file.read(2**24):
                whole.update(block)
    return whole.hexdigest()


def eight_bit(image: NDArray[np.float32]) -> Pixels:
    """Convert an image from [0, 1] to 8 bits, as a file stores it."""
    rounded: Pixels = np.rint(image.clip(0, 1) * np.float32(255)).astype(np.uint8)
    return rounded


def _text(folder: Path | None) -> str | None:
    return None if folder is None else str(folder.resolve())
