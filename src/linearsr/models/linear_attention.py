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
"""Tokens summed in one product. One float32 product over 4 million tokens was off by 1e-3; sums of chunks are not."""


@dataclass(frozen=True)
class KVSummary:
    """What linear attention needs to know of keys and values.

    The sums are float32 whatever the inputs were (float64 for float64): after 16 thousand tokens they are
    beyond the range of float16, after a few hundred beyond the precision of bfloat16.
    """

    S: Tensor
    """sum_j phi(k_j)^T v_j: (B, H, D, D)"""
    z: Tensor
    """sum_j phi(k_j): (B, H, D)"""
    tokens: int
    """How many tokens were summed."""

    def __add__(self, other: KVSummary) -> KVSummary:
        """The summary of both sets of tokens together."""
        return KVSummary(self.S + other.S, self.z + other.z, self.tokens + other.tokens)

    def to(self, dtype: torch.dtype) -> KVSummary:
        """The sums in another precision."""
        return KVSummary(self.S.to(dtype), self.z.to(dtype), self.tokens)


def kv_summary(k: Tensor, v: Tensor) -> KVSummary:
    """Sum keys and values, (B, H, N, D) of any floating-point dtype, over their tokens."""
    # first pass of linear attention: one sum over all keys and values, whatever the queries
    chunks = zip(torch.split(k, CHUNK, dim=-2), torch.split(v, CHUNK, dim=-2), strict=True)
    return sum_of(_chunk_summary(*chunk) for chunk in chunks)


def sum_of(summaries: Iterable[KVSummary]) -> KVSummary:
    """The summary of all tokens together, in the precision of the first; ValueError for none.

    The running sum is float64: a float32 one loses a digit for every hundred parts it is made of, and a picture of a
    billion pixels has ten thousands of them.
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
    """Attend with queries (B, H, N, D) to all tokens of `summary`; (B, H, N, D) in the dtype of `q`.

    Each output is an average of values with weights >= 0, so it is never larger than they are.
    """
    with torch.autocast(q.device.type, enabled=False):
        # second pass: each query reads the sum, and is divided by the sum of its weights
        phi_q = _accurate(F.relu(q))
        normaliser = phi_q @ summary.z.unsqueeze(-1) + eps
        return (phi_q @ summary.S / normaliser).to(q.dtype)


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = EPS) -> Tensor:
    """Linear attention of queries to keys and values, each (B, H, N, D); the result has the dtype of `q`."""
    return apply_summary(q, kv_summary(k, v), eps)


def _chunk_summary(k: Tensor, v: Tensor) -> KVSummary:
    with torch.autocast(k.device.type, enabled=False):
        phi_k = _accurate(F.relu(k))
        return KVSummary(phi_k.transpose(-1, -2) @ _accurate(v), phi_k.sum(-2), k.shape[-2])


def _accurate(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
