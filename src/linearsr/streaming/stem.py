"""The LR stem over a large picture: what it makes of it waits in buffers, and is finished where it is used."""

from collections.abc import Iterator
from time import monotonic

import torch
from torch import Tensor

from linearsr.models.lr_stem import LRCondition, LRStem
from linearsr.models.rows import through, total_of
from linearsr.models.stem_rows import stem_rows
from linearsr.streaming.buffers import Buffer
from linearsr.streaming.source import LRRows, strips
from linearsr.streaming.work import Report, Work

_SECONDS_BETWEEN_NOTES = 10.0


class StreamedStem:
    """The condition of a picture by rows of the latent grid.

    Args:
        lr_per_latent: LR rows for one row of the latent grid.
        strip: LR rows to work on at a time.
    """

    def __init__(self, stem: LRStem, lr: LRRows, work: Work, lr_per_latent: int, strip: int) -> None:
        self._rows = stem_rows(stem)
        self._lr, self._work, self._strip = lr, work, strip
        self._lr_per_latent = lr_per_latent
        self._kept_per_latent = lr_per_latent // self._rows.step
        self._dtype = next(stem.parameters()).dtype
        self._device = next(stem.parameters()).device
        features, estimate = self._rows.channels
        self._features = self._buffer("features", features)
        self._estimate = self._buffer("estimate", estimate) if estimate else None

    def survey(self, _: Tensor | None, report: Report) -> Tensor | None:
        """First pass: what every block must know of the whole picture."""
        part = self._rows.survey()
        if part is None:
            return None
        return total_of(part, self._lr_strips(0, report))

    def run(self, total: Tensor | None, report: Report) -> None:
        """Second pass: all layers. A run that was stopped goes on with the rows whose neighbours are there."""
        done = self._work.rows_done
        start = max(0, done * self._rows.step - self._rows.reach) // self._rows.step
        layers = self._rows.layers(total, self._lr.height, self._lr.width)
        row, noted = start, monotonic()
        for out in through(layers, self._lr_strips(start * self._rows.step, report)):
            rows = out[0].permute(1, 2, 0)
            # the rows first made anew have no neighbours above them; those of the earlier process had
            fresh = rows[max(0, done - row) :]
            row += len(rows)
            self._keep(row - len(fresh), fresh)
            if monotonic() - noted > _SECONDS_BETWEEN_NOTES and row > done:
                self._work.keep_rows(row)
                noted = monotonic()

    def features(self, top: int, bottom: int) -> Tensor:
        """The condition's features for rows of the latent grid, (1, C, bottom - top, w)."""
        kept = self._read(self._features, top * self._kept_per_latent, bottom * self._kept_per_latent)
        return self._rows.features(kept)

    def condition(self, top: int, bottom: int) -> LRCondition:
        """Prediction and deviation for rows of the latent grid, if the stem makes any."""
        if self._estimate is None:
            return LRCondition(torch.empty(0))
        first, last = top * self._lr_per_latent, bottom * self._lr_per_latent
        above, below = min(self._rows.margin, first), min(self._rows.margin, self._lr.height - last)
        place = first - above, last + below
        return self._rows.condition(self._lr.read(*place), self._read(self._estimate, *place), above, below)

    def _lr_strips(self, start: int, report: Report) -> Iterator[Tensor]:
        for top, bottom in strips(self._lr.height - start, self._strip):
            yield self._lr.read(start + top, start + bottom)
            report((start + bottom) / self._lr.height)

    def _keep(self, top: int, rows: Tensor) -> None:
        features, _ = self._rows.channels
        self._features.write(top, rows[..., :features])
        if self._estimate is not None:
            self._estimate.write(top, rows[..., features:])

    def _buffer(self, name: str, channels: int) -> Buffer:
        step = self._rows.step
        shape = (self._lr.width // step, channels)
        return self._work.buffer(name, self._lr.height // step, shape, self._dtype)

    def _read(self, buffer: Buffer, top: int, bottom: int) -> Tensor:
        return buffer.read(top, bottom).to(self._device).permute(2, 0, 1)[None]
