"""The steps of the flow over a large picture: the network layer by layer, each layer in one pass over all rows.

A pass applies one block, for which it needs the summary of the whole picture's keys and values, and gathers the
summary for the next block from the rows that it has just made. So attention is that of the whole picture, exactly,
and every pass reads and writes the tokens once.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import torch
from torch import Tensor

from linearsr.models.bands import BlockRows
from linearsr.models.block_rows import detail_head_rows
from linearsr.models.blocks import TransformerBlock
from linearsr.models.layout import joined
from linearsr.models.linear_attention import KVSummary, sum_of
from linearsr.models.rows import PerPixel, Rows, through
from linearsr.models.transformer import Conditions, LinearSRTransformer
from linearsr.streaming.buffers import Buffer
from linearsr.streaming.source import strips
from linearsr.streaming.work import Body, Report

ReadRows = Callable[[int, int], Tensor]
"""(top, bottom) -> rows (1, C, bottom - top, w)"""


class StreamedEvaluation:
    """One evaluation of a network for one time and one guidance, into the buffer `output` of (w, channels) rows.

    Args:
        latent, features: rows of what goes in, on a latent grid of `height` x `width`.
        strip: latent rows to work on at a time, a multiple of the patch.
    """

    def __init__(
        self,
        network: LinearSRTransformer,
        said: Conditions,
        latent: ReadRows,
        features: ReadRows,
        output: Buffer,
        tokens: tuple[Buffer, Buffer],
        grid: tuple[int, int],
        strip: int,
    ) -> None:
        self._network, self._said = network, said
        self._latent, self._features, self._output, self._tokens = latent, features, output, tokens
        patch = network.config.patch_size
        self._patch = patch
        self._height, self._width = grid[0] // patch, grid[1] // patch
        self._blocks = cast(list[TransformerBlock], list(network.transformer_blocks))
        # whole bands: they are those of the picture in one piece, and so are the sums, to the last bit
        self._band_rows = self._block(0).band_rows
        self._strip = max(1, strip // patch // self._band_rows) * self._band_rows

    @property
    def passes(self) -> list[tuple[str, Body]]:
        """Names and bodies of the passes, in order."""

        def layer(index: int) -> Body:
            return lambda total, report: self._layer(index, total, report)

        return [("embed", self._embed), *((f"layer {i}", layer(i)) for i in range(len(self._blocks)))]

    def _embed(self, _: Tensor | None, report: Report) -> Tensor:
        first = self._block(0)

        def summaries() -> Iterator[KVSummary]:
            for top, bottom in strips(self._height, self._strip):
                latent = self._latent(top * self._patch, bottom * self._patch)
                x = self._network.embed(latent, self._given(top, bottom))[0]
                self._tokens[0].write(top, x.view(bottom - top, self._width, -1))
                yield from map(first.summary, first.bands(x))
                report(bottom / self._height)

        return _flat(sum_of(summaries()))

    def _layer(self, index: int, total: Tensor | None, report: Report) -> Tensor | None:
        assert total is not None
        block = self._block(index)
        block.attend_to(self._summary(total))
        following = self._block(index + 1) if index + 1 < len(self._blocks) else None
        source, target = self._tokens[index % 2], self._tokens[(index + 1) % 2]

        def bands() -> Iterator[Tensor]:
            for top, bottom in strips(self._height, self._strip):
                x = source.read(top, bottom).to(self._said.modulation.device)
                yield from block.bands(x.flatten(0, 1))
                report(bottom / self._height)

        outputs = _regrouped(through(block, bands()), self._band_rows * self._width)
        if following is None:
            self._finish(outputs)
            return None

        def summaries() -> Iterator[KVSummary]:
            done = 0
            for out in outputs:
                rows = out.view(-1, self._width, out.shape[1])
                target.write(done, rows)
                yield from map(following.summary, following.bands(out))
                done += len(rows)

        return _flat(sum_of(summaries()))

    def _finish(self, tokens: Iterable[Tensor]) -> None:
        """Tokens (n, C) of the last block, row after row -> the network's output."""
        # the last layers may compute the rows between two strips twice: not for every band
        strip = _regrouped(tokens, self._strip * self._width)
        done = 0
        for image in through(last_rows(self._network), self._unpatched(strip)):
            self._output.write(done, image[0].permute(1, 2, 0))
            done += image.shape[2]

    def _unpatched(self, tokens: Iterable[Tensor]) -> Iterator[Tensor]:
        done = 0
        for x in tokens:
            rows = len(x) // self._width
            image = self._network.unpatch(x[None], self._said.embedded, (rows, self._width))
            given = self._given(done, done + rows)
            yield image if given is None else joined(image, given.to(image.dtype))
            done += rows

    def _given(self, top: int, bottom: int) -> Tensor | None:
        if not self._network.config.lr_channels:
            return None
        return self._features(top * self._patch, bottom * self._patch)

    def _block(self, index: int) -> BlockRows:
        block = self._blocks[index]
        modulation = block.scale_shift_table + self._said.modulation[0]
        return BlockRows(block, self._said.context, self._said.bias, modulation, self._width)

    def _summary(self, total: Tensor) -> KVSummary:
        config = self._network.config
        heads, channels = config.num_attention_heads, config.attention_head_dim
        modulation = self._said.modulation
        sums = total.to(modulation.device, torch.promote_types(modulation.dtype, torch.float32))
        S, z = torch.split(sums, [heads * channels**2, heads * channels])
        return KVSummary(
            S.view(1, heads, channels, channels), z.view(1, heads, channels), self._height * self._width
        )


def last_rows(network: LinearSRTransformer) -> Rows:
    """What follows a network's last tokens: (1, ., n, w), image before the last layers and LR features, -> output."""
    if network.detail_head is not None:
        return detail_head_rows(network.detail_head)
    channels = network.config.out_channels
    return PerPixel(lambda x: network.finish(x[:, :channels], x[:, channels:]))


def _regrouped(parts: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same tokens in parts of `size` or whole multiples of it; the last is what is left."""
    waiting: list[Tensor] = []
    for part in parts:
        waiting.append(part)
        count = sum(map(len, waiting))
        if count >= size:
            together = torch.cat(waiting)
            whole = count // size * size
            yield together[:whole]
            waiting = [together[whole:]]
    if any(map(len, waiting)):
        yield torch.cat(waiting)


def _flat(summary: KVSummary) -> Tensor:
    return torch.cat([summary.S.flatten(), summary.z.flatten()]).cpu().double()
