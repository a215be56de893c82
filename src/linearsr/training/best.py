"""Selection of the best photos by a score: `detail_score`, or a no-reference metric of `linearsr eval`."""

import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from linearsr.evaluation.registry import METRICS, NotAvailable
from linearsr.images.photos import detail_score
from linearsr.images.picture import ImageError
from linearsr.runtime.devices import is_out_of_memory, named_device
from linearsr.training.catalogue import THREADS, Catalogue, Skipped
from linearsr.training.photo_tags import PhotoFile, read_photo_file
from linearsr.training.section import ConfigError

logger = logging.getLogger(__name__)

DETAIL = "detail"


def best_photos(
    catalogue: Catalogue, share: float, by: str = DETAIL, folder: Path | None = None
) -> Catalogue:
    """Return the `share` of the readable photos with the best scores, rounded up, in their old order.

    `by` names the score; files in `folder` keep scores for other runs. With a share of 1, nothing is read.
    Raises ConfigError: when no photo has a score, or the score cannot be computed.
    """
    if share == 1:
        return catalogue
    results = _scores(catalogue, by, folder)
    skipped = [result for result in results if isinstance(result, Skipped)]
    sign = 1 if by == DETAIL or METRICS[by].higher_is_better else -1
    scores = np.array([-np.inf if isinstance(result, Skipped) else sign * result for result in results])
    count = math.ceil(round(share * (len(scores) - len(skipped)), 6))
    if not count:
        raise ConfigError(f"data.best_share: no photo has a score, e.g. {skipped[0].reason}")
    best = np.sort(np.argsort(-scores, kind="stable")[:count])
    return replace(catalogue, table=catalogue.table[best], skipped=[*catalogue.skipped, *skipped])


@cache
def _scores(catalogue: Catalogue, by: str, folder: Path | None) -> list[float | Skipped]:
    """Return the score of each photo. Processes that share `folder` compute the scores once.

    Scores are stored by name: when photos are replaced, remove the file.
    """
    measure, results = _measure(by), list[float | Skipped]()
    file: PhotoFile[float] | None = None

    def look(number: int) -> float | Skipped:
        photo = catalogue[number]
        kept = None if file is None else file.get(photo.name)
        if kept is not None:
            return kept
        try:
            return measure(photo.read())
        except ImageError as error:
            return Skipped(photo.name, str(error))
        except (ValueError, RuntimeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            return Skipped(photo.name, f"{photo.name}: {by}: {' '.join(str(error).split())}")

    with ExitStack() as stack:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / f".{by}.lock"))
            path = folder / f"{by}.json"
            known = (
                read_photo_file(path, float, "data.scores", "a score for each photo") if path.exists() else {}
            )
            file = PhotoFile(path, known)
            stack.callback(file.write)
        # networks score one photo at a time
        networks = by != DETAIL and METRICS[by].pyiqa_name is not None
        pool = stack.enter_context(ThreadPoolExecutor(1 if networks else THREADS))
        for number, result in enumerate(pool.map(look, range(len(catalogue)))):
            if isinstance(result, Skipped):
                logger.warning("skipped: %s", result.reason)
            elif file is not None:
                file.add(catalogue[number].name, result)
            results.append(result)
    return results


def _measure(by: str) -> Callable[[NDArray[np.uint8]], float]:
    if by == DETAIL:
        return detail_score
    try:
        metric = METRICS[by].scorer(named_device("auto"))
    except NotAvailable as error:
        raise ConfigError(f"data.best_by: {by}: {error}") from None
    return lambda pixels: metric(torch.from_numpy(pixels / 255).permute(2, 0, 1)[None], None)
