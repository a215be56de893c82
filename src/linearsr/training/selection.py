"""The best subset of the photos, for fine-tuning: those with the most crisp detail."""

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np

from linearsr.images.detail import detail_score
from linearsr.images.io import ImageError
from linearsr.training.catalogue import Catalogue, Photo, Skipped
from linearsr.training.photo_cache import read_photo
from linearsr.training.section import ConfigError

logger = logging.getLogger(__name__)

_THREADS = 4


def best_photos(catalogue: Catalogue, share: float) -> Catalogue:
    """The `share` of the readable photos with the highest `detail_score`, rounded up, in their old order.

    With a share of 1 nothing is read.

    Raises:
        ConfigError: not one photo can be read.
    """
    if share == 1:
        return catalogue
    results = _scores(catalogue)
    broken = [result for result in results if isinstance(result, Skipped)]
    scores = np.array([-1.0 if isinstance(result, Skipped) else result for result in results])
    count = math.ceil(round(share * (len(scores) - len(broken)), 6))
    if not count:
        raise ConfigError(f"data.best_share: all photos are broken, e.g. {broken[0].reason}")
    best = np.sort(np.argsort(-scores, kind="stable")[:count])
    return replace(catalogue.take(best), skipped=[*catalogue.skipped, *broken])


@cache
def _scores(catalogue: Catalogue) -> list[float | Skipped]:
    """One for each photo; read once, as all experts draw from the same photos."""
    with ThreadPoolExecutor(_THREADS) as pool:
        # a thread keeps the score and not the photo: all photos together need not fit the memory
        results = list(pool.map(_score, (catalogue[i] for i in range(len(catalogue)))))
    for result in results:
        if isinstance(result, Skipped):
            logger.warning("skipped: %s", result.reason)
    return results


def _score(photo: Photo) -> float | Skipped:
    try:
        return detail_score(read_photo(photo))
    except ImageError as error:
        return Skipped(photo.name, str(error))
