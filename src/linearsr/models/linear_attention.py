"""ReLU linear attention, O(N) in the number of tokens, in one call or as two streamed passes.

With phi = ReLU, each output token is (SANA, arXiv 2410.10629, eq. 1 and 2)

    o_i = phi(q_i) S / (phi(q_i) z + eps),    S = sum_j phi(k_j)^T v_j,    z = sum_j phi(k_j)

and S and z have a fixed size. They are sums over tokens, so they can be gathered from any split of the tokens
(`kv_summary`, merged with `+`) and then applied to any split of the queries (`apply_summary`).

Shapes: B batch, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.runtime.devices import widest_dtype

EPS = 1e-15
"""Added to the normaliser, as in `diffusers`: a query with no positive channel gives zero."""


CHUNK = 16_384
"""Tokens per product. One float32 product over 4 million tokens was off by 1e-3; sums of chunks are not."""


@dataclass(frozen=True)
class KVSummary:
    """The sums over keys and values that linear attention needs.

    They are float32 whatever the dtype of the inputs (float64 for float64): after 16 thousand tokens they
    exceed the range of float16, and after a few hundred the precision of bfloat16.
    """

    S: Tensor
    """Sum of phi(k_j)^T v_j over tokens j, (B, H, D, D)."""
    z: Tensor
    """Sum of phi(k_j) over tokens j, (B, H, D)."""
    tokens: int
    """Number of tokens summed."""

    def __add__(self, other: KVSummary) -> KVSummary:
        """Return the summary of both sets of tokens together."""
        return KVSummary(self.S + other.S, self.z + other.z, self.tokens + other.tokens)

    def to(self, dtype: torch.dtype) -> KVSummary:
        """Return the sums in another precision."""
        return KVSummary(self.S.to(dtype), self.z.to(dtype), self.tokens)


def kv_summary(k: Tensor, v: Tensor) -> KVSummary:
    """Sum keys and values, (B, H, N, D) of any floating-point dtype, over their tokens."""
    # first pass of linear attention: sum over all keys and values, independently of the queries
    chunks = zip(torch.split(k, CHUNK, dim=-2), torch.split(v, CHUNK, dim=-2), strict=True)
    return sum_of(_chunk_summary(*chunk) for chunk in chunks)


def sum_of(summaries: Iterable[KVSummary]) -> KVSummary:
    """Add up summaries, in the precision of the first. Raises ValueError if there are none.

    The running sum is float64 where the device has it: a float32 sum loses a digit for every hundred terms,
    and a picture of a billion pixels has tens of thousands of terms.
    """
    iterator = iter(summaries)
    first = next(iterator, None)
    if first is None:
        raise ValueError("a summary of no tokens at all")
    total: KVSummary | None = None
    for summary in iterator:
        total = (first.to(widest_dtype(first.S.device)) if total is None else total) + summary
    return first if total is None else total.to(first.S.dtype)


def apply_summary(q: Tensor, summary: KVSummary, eps: float = EPS) -> Tensor:
    """Attend with queries (B, H, N, D) to all tokens of `summary`; return (B, H, N, D) in the dtype of `q`.

    Each output is an average of values with weights >= 0, so it is never larger than the values.
    """
    with torch.autocast(q.device.type, enabled=False):
        # second pass: each query reads the sums and is divided by the sum of its weights
        phi_q = _accurate(F.relu(q))
        normaliser = phi_q @ summary.z.unsqueeze(-1) + eps
        return (phi_q @ summary.S / normaliser).to(q.dtype)


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = EPS) -> Tensor:
    """Apply linear attention to queries, keys and values, each (B, H, N, D), in the dtype of `q`."""
    return apply_summary(q, kv_summary(k, v), eps)


def _chunk_summary(k: Tensor, v: Tensor) -> KVSummary:
    with torch.autocast(k.device.type, enabled=False):
        phi_k = _accurate(F.relu(k))
        return KVSummary(phi_k.transpose(-1, -2) @ _accurate(v), phi_k.sum(-2), k.shape[-2])


def _accurate(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
