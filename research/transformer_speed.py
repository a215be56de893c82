"""Compare the speed of our transformer with `diffusers.SanaTransformer2DModel`, same weights, on this CPU.

    python research/transformer_speed.py --width 192 1152 --tokens 64 128 --dtype float32 bfloat16

Both networks take turns in one process; the ratio is that of the median times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import SanaTransformer2DModel

from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig

LAYERS = {192: 6, 1152: 2}
CROSS_HEADS = {192: (6, 32), 1152: (16, 72)}
CHANNELS = 32
CAPTION_CHANNELS = 64
GUIDANCE_TOKENS = 8


def pair_of_networks(
    width: int, dtype: torch.dtype, qk_norm: str | None
) -> tuple[LinearSRTransformer, SanaTransformer2DModel]:
    """Create our network (fused) and that of diffusers, with the same random weights."""
    heads, head_dim = CROSS_HEADS[width]
    sizes = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_attention_heads": width // 32,
        "attention_head_dim": 32,
        "num_layers": LAYERS[width],
        "num_cross_attention_heads": heads,
        "cross_attention_head_dim": head_dim,
        "caption_channels": CAPTION_CHANNELS,
        "qk_norm": qk_norm,
    }
    torch.manual_seed(0)
    theirs = SanaTransformer2DModel(**sizes, cross_attention_dim=width).to(dtype).eval()
    ours = LinearSRTransformer.from_state(TransformerConfig(**sizes), theirs.state_dict(), "benchmark")
    return ours.fuse_projections_(), theirs


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return wall time and CPU time of one call; CPU time leaves out other programs."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(
    width: int, side: int, dtype: torch.dtype, batch: int, runs: int, qk_norm: str | None
) -> dict[str, object]:
    """Return median seconds of both networks, their ratio, and the relative difference of their outputs."""
    ours, theirs = pair_of_networks(width, dtype, qk_norm)
    latent = torch.randn(batch, CHANNELS, side, side, dtype=dtype)
    timestep = torch.full((batch,), 500.0)
    guidance = torch.randn(batch, GUIDANCE_TOKENS, CAPTION_CHANNELS, dtype=dtype)
    with torch.inference_mode():
        a = ours(latent, timestep, None, guidance)
        b = theirs(latent, guidance, timestep).sample
        times = [
            (
                *seconds(lambda: ours(latent, timestep, None, guidance)),
                *seconds(lambda: theirs(latent, guidance, timestep)),
            )
            for _ in range(runs)
        ]
    our_wall, our_cpu, their_wall, their_cpu = (
        statistics.median(column) for column in zip(*times, strict=True)
    )
    return {
        "width": width,
        "layers": LAYERS[width],
        "tokens": f"{side}x{side}",
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "ours_s": round(our_wall, 4),
        "diffusers_s": round(their_wall, 4),
        "ratio": round(their_wall / our_wall, 2),
        "ratio_cpu_time": round(their_cpu / our_cpu, 2),
        "difference": float((a - b).abs().max() / b.abs().max()),
    }


def main() -> None:
    """Print one line of JSON for each combination."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, nargs="+", default=[192, 1152], choices=sorted(LAYERS))
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[64, 128], help="side of the square token grid"
    )
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--qk-norm", choices=["rms_norm_across_heads"])
    args = parser.parse_args()
    for width in args.width:
        for side in args.tokens:
            for dtype in args.dtype:
                result = compare(width, side, getattr(torch, dtype), args.batch, args.runs, args.qk_norm)
                print(json.dumps(result), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
