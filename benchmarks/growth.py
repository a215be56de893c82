"""Measure how the time of one evaluation grows with the picture, for our transformer and quadratic attention.

    python benchmarks/growth.py --preset default --sizes 64 128 256 512 --figure growth.png
    python benchmarks/growth.py --preset 600m --device cuda --dtype bfloat16

The weights are random, so that the sizes of the paper need no checkpoint. `--sizes` are sides of the LR
image, for x4. Times are medians after a warm-up. Quadratic attention is the same network with PyTorch's
`scaled_dot_product_attention`. If it would take longer than `--max-seconds`, its time is estimated (~) from
its multiply-accumulates at our pace.
"""

import argparse
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from linearsr.evaluation.benchmark import evaluation_inputs, measure, transformer_macs
from linearsr.evaluation.plotting import BLUE, RED, drawn
from linearsr.models.attention import Attention, LinearSelfAttention
from linearsr.models.blocks import TransformerBlock
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.runtime.devices import named_device

_COMPRESSION = {"tiny": 8, "default": 8, "600m": 32, "1600m": 32}
"""HR pixels per latent position along one side, by preset."""
_SCALE = 4


class SoftmaxSelfAttention(Attention):
    """Softmax attention of every token to all others by PyTorch's fused kernel: O(N^2) in the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend over tokens (B, N, C) -> (B, N, C)."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = self._split_heads(q), self._split_heads(k), self._split_heads(v)
        return self.project_out(F.scaled_dot_product_attention(q, k, v))


def with_softmax_attention(network: LinearSRTransformer) -> LinearSRTransformer:
    """Return a copy of the network with the same weights, whose self-attention is quadratic."""
    config, table = network.config, network.scale_shift_table
    plain = LinearSRTransformer.from_state(config, network.state_dict(), "the network").to(table.device)
    for block in plain.transformer_blocks:
        ours = cast(LinearSelfAttention, block.attn1)
        width, heads, head_dim = config.width, config.num_attention_heads, config.attention_head_dim
        quadratic = SoftmaxSelfAttention(width, heads, head_dim, config.attention_bias, config.qk_norm)
        quadratic.load_state_dict(ours.state_dict())
        block.attn1 = quadratic.to(table.device, table.dtype)
        # bands work only with the sums of linear attention
        block.forward = cast(TransformerBlock, block).in_one
    return plain.eval()


def exponent(tokens: list[int], seconds: list[float]) -> float:
    """Fit p in seconds = c * tokens ** p by least squares on the logarithms of at least two sizes."""
    return float(np.polyfit(np.log(tokens), np.log(seconds), 1)[0])


def growth(tokens: list[int], seconds: list[float]) -> str:
    """Return the exponents over all sizes and from each to the next, as text: 1 is linear, 2 quadratic."""
    steps = (exponent(list(n), list(s)) for n, s in zip(pairwise(tokens), pairwise(seconds), strict=True))
    return f"{exponent(tokens, seconds):.2f} ({', '.join(f'{step:.2f}' for step in steps)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="sides of the LR image")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=60, help="for one evaluation with softmax")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--figure", type=Path, help="draw seconds over megapixels into this PNG")
    args = parser.parse_args()
    try:
        device = named_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    config, dtype = PRESETS[args.preset], getattr(torch, args.dtype)
    network = LinearSRTransformer(config).to(device, dtype).eval().fuse_projections_()
    curves: dict[str, tuple[list[int], list[float]]] = {"ours": ([], []), "softmax": ([], [])}
    table = Table("LR side", "output MP", "tokens", "ours, s", "softmax, s", "ratio", box=SIMPLE_HEAD)
    megapixels = {}
    for side in sorted(args.sizes):
        grid = -(-side * _SCALE // _COMPRESSION[args.preset])
        tokens, macs = grid**2 // config.patch_size**2, transformer_macs(config, grid, grid)
        megapixels[tokens] = (side * _SCALE) ** 2 / 1e6
        with torch.inference_mode():
            inputs = evaluation_inputs(config, grid, grid, None, device, dtype)
            ours = measure(partial(network, **inputs), device, args.runs)
            quadratic = ours * (macs + 2 * tokens**2 * config.width * config.num_layers) / macs
            mark = "~"
            if quadratic <= args.max_seconds:
                call = partial(with_softmax_attention(network), **inputs)
                mark, quadratic = "", measure(call, device, args.runs)
        for name, seconds in (("ours", ours), ("softmax", quadratic)):
            if name == "ours" or not mark:
                curves[name][0].append(tokens)
                curves[name][1].append(seconds)
        figures = f"{ours:.3f}", f"{mark}{quadratic:.3f}", f"{quadratic / ours:.1f}"
        table.add_row(str(side), f"{megapixels[tokens]:.2f}", f"{tokens:,}", *figures)
    console = Console(width=100)
    console.print(f"preset {args.preset}, {args.dtype}, {device}, {torch.get_num_threads()} threads")
    console.print(table)
    known = {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
    for name, curve in known.items():
        console.print(f"{name}: tokens to the power {growth(*curve)}")
    if args.figure is not None:
        with drawn(args.figure, 6.4, 4.2) as figure:
            axis = figure.subplots()
            for name, (counts, seconds) in known.items():
                label = f"{name}: tokens to the power {exponent(counts, seconds):.2f}"
                colour = BLUE if name == "ours" else RED
                axis.loglog([megapixels[n] for n in counts], seconds, "o-", color=colour, label=label)
            axis.set(xlabel="output megapixels", ylabel="seconds for one evaluation (1 NFE)")
            axis.grid(visible=True, which="both", linewidth=0.3)
            axis.legend(fontsize=9)


if __name__ == "__main__":
    main()
