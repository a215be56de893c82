# ruff: noqa: ANN001, ANN202 - the arguments of a kernel are pointers and numbers, by Triton's own rules
"""ReLU linear attention in two Triton kernels, each of which reads its inputs once.

`kv_sums` gathers S = sum phi(k)^T v and z = sum phi(k); `attend` gives phi(q) S / (phi(q) z + eps). ReLU, sums and
normalisation happen in registers, so nothing but q, k, v and the result passes through memory. Sums are float32.

Shapes: B batch, H heads, N tokens, D channels of a head, a power of two of 16 or more.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 64
"""Tokens of a block."""
PARTS = 32
"""Programs that share a head; each makes a sum of its own, so that the result does not depend on who is first."""


@triton.jit  # type: ignore[untyped-decorator]
def _kv_kernel(  # type: ignore[no-untyped-def]
    k,
    v,
    s,
    z,
    heads,
    tokens,
    parts,
    kb,
    kh,
    kn,
    kd,
    vb,
    vh,
    vn,
    vd,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    pair, part = tl.program_id(0), tl.program_id(1)
    batch, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    columns = tl.arange(0, D)
    sums = tl.zeros((D, D), tl.float32)
    total = tl.zeros((D,), tl.float32)
    for start in range(part * BLOCK, tokens, parts * BLOCK):
        rows = (start + tl.arange(0, BLOCK)).to(tl.int64)
        inside = rows[:, None] < tokens
        keys = tl.load(
            k + batch * kb + head * kh + rows[:, None] * kn + columns[None, :] * kd, inside, other=0.0
        )
        values = tl.load(
            v + batch * vb + head * vh + rows[:, None] * vn + columns[None, :] * vd, inside, other=0.0
        )
        phi = tl.maximum(keys.to(tl.float32), 0.0)
        sums += tl.dot(tl.trans(phi), values.to(tl.float32), input_precision=PRECISION)
        total += tl.sum(phi, 0)
    place = pair.to(tl.int64) * parts + part
    tl.store(s + place * D * D + columns[:, None] * D + columns[None, :], sums)
    tl.store(z + place * D + columns, total)


@triton.jit  # type: ignore[untyped-decorator]
def _attend_kernel(  # type: ignore[no-untyped-def]
    q, s, z, out, heads, tokens, qb, qh, qn, qd, ob, oh, on, od, eps, D: tl.constexpr, BLOCK: tl.constexpr
):
    pair, block = tl.program_id(0), tl.program_id(1)
    batch, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    rows = (block * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    columns = tl.arange(0, D)
    inside = rows[:, None] < tokens
    queries = tl.load(
        q + batch * qb + head * qh + rows[:, None] * qn + columns[None, :] * qd, inside, other=0.0
    )
    phi = tl.maximum(queries.to(tl.float32), 0.0)
    place = pair.to(tl.int64)
    sums = tl.load(s + place * D * D + columns[:, None] * D + columns[None, :])
    total = tl.load(z + place * D + columns)
    normaliser = tl.sum(phi * total[None, :], 1) + eps
    attended = tl.dot(phi, sums, input_precision="ieee") / normaliser[:, None]
    target = out + batch * ob + head * oh + rows[:, None] * on + columns[None, :] * od
    tl.store(target, attended.to(out.dtype.element_ty), inside)


def fits(q: Tensor) -> bool:
    """Whether the kernels can take heads (B, H, N, D) of this width and type."""
    width = q.shape[-1]
    return 16 <= width <= 128 and width & (width - 1) == 0 and q.dtype != torch.float64


def kv_sums(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, N, D) of any strides -> S (B, H, D, D) and z (B, H, D) in float32."""
    batch, heads, tokens, width = k.shape
    parts = max(1, min(PARTS, triton.cdiv(tokens, TOKENS)))
    s = k.new_empty(batch, heads, parts, width, width, dtype=torch.float32)
    z = k.new_empty(batch, heads, parts, width, dtype=torch.float32)
    grid: Any = (batch * heads, parts)
    # a product in TF32 is exact for the mantissas of both half types
    precision = "ieee" if k.dtype == torch.float32 else "tf32"
    strides = *k.stride(), *v.stride()
    _kv_kernel[grid](k, v, s, z, heads, tokens, parts, *strides, D=width, BLOCK=TOKENS, PRECISION=precision)
    return s.sum(2), z.sum(2)


def attend(q: Tensor, s: Tensor, z: Tensor, eps: float) -> Tensor:
    """Queries (B, H, N, D) of any strides and the sums of `kv_sums` -> (B, H, N, D) in the type of `q`.

    The result lies in memory as (B, N, H, D), which is how the output projection reads it.
    """
    batch, heads, tokens, width = q.shape
    out = q.new_empty(batch, tokens, heads, width).transpose(1, 2)
    grid: Any = (batch * heads, triton.cdiv(tokens, TOKENS))
    _attend_kernel[grid](
        q,
        s.float().contiguous(),
        z.float().contiguous(),
        out,
        heads,
        tokens,
        *q.stride(),
        *out.stride(),
        eps,
        D=width,
        BLOCK=TOKENS,
    )
    return out
