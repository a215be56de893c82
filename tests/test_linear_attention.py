"""Linear attention against the sum it stands for, written out token by token in float64."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.models.linear_attention import EPS, apply_summary, kv_summary, relu_linear_attention

FOUR_MILLION = 4_000_000


def quadratic_loop(q, k, v, eps=EPS):
    """o_i = sum_j w_ij v_j / (sum_j w_ij + eps), w_ij = relu(q_i) . relu(k_j): O(N^2), in float64."""
    q, k, v = q.double().relu(), k.double().relu(), v.double()
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    for i in range(q.shape[-2]):
        total = torch.zeros_like(out[..., 0, :])
        weights = torch.zeros_like(total[..., :1])
        for j in range(k.shape[-2]):
            weight = (q[..., i, :] * k[..., j, :]).sum(-1, keepdim=True)
            total += weight * v[..., j, :]
            weights += weight
        out[..., i, :] = total / (weights + eps)
    return out


def random_qkv(batch=2, heads=3, tokens=17, channels=4, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, tokens, channels, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)],
)
@pytest.mark.parametrize("eps", [EPS, 3.0])
def test_equals_the_quadratic_loop(dtype, tolerance, eps):
    x = torch.randn(2, 9, 3, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    # heads with strides, and fewer queries than keys
    q, k, v = (part.transpose(1, 2) for part in x.chunk(3, dim=-1))
    q = q[..., :5, :]
    out = relu_linear_attention(q, k, v, eps)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), quadratic_loop(q, k, v, eps), rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 40), cuts=st.sets(st.integers(1, 39), max_size=5), seed=st.integers(0, 2**31 - 1)
)
def test_streamed_over_any_split_gives_the_same_numbers(tokens, cuts, seed):
    q, k, v = random_qkv(batch=1, heads=2, tokens=tokens, channels=3, dtype=torch.float64, seed=seed)
    edges = [0, *sorted(cut for cut in cuts if cut < tokens), tokens]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    summary = kv_summary(k[..., parts[0], :], v[..., parts[0], :])
    for part in parts[1:]:
        summary = summary + kv_summary(k[..., part, :], v[..., part, :])
    assert summary.tokens == tokens
    streamed = torch.cat([apply_summary(q[..., part, :], summary) for part in reversed(parts)][::-1], dim=-2)
    torch.testing.assert_close(streamed, relu_linear_attention(q, k, v), rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.01, 100))
def test_is_an_average_that_knows_neither_order_nor_scale(seed, scale):
    q, k, v = random_qkv(batch=1, heads=2, tokens=12, dtype=torch.float64, seed=seed)
    out = relu_linear_attention(q, k, v, eps=0.0)
    seen = ~out.isnan()
    low, high = v.amin(-2, keepdim=True).expand_as(out), v.amax(-2, keepdim=True).expand_as(out)
    assert ((out >= low - 1e-9) & (out <= high + 1e-9))[seen].all()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    shuffled = relu_linear_attention(q * scale, k[..., order, :], v[..., order, :], eps=0.0)
    torch.testing.assert_close(shuffled, out, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_gradients():
    q, k, v = (
        x.requires_grad_() for x in random_qkv(batch=1, heads=2, tokens=5, channels=3, dtype=torch.float64)
    )
    assert torch.autograd.gradcheck(relu_linear_attention, (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dead", [0, 1])
def test_queries_or_keys_without_a_positive_channel_give_zero_and_finite_gradients(dtype, dead):
    qkv = random_qkv(dtype=dtype)
    qkv[dead] = -qkv[dead].abs()
    leaves = [x.requires_grad_() for x in qkv]
    out = relu_linear_attention(*leaves)
    assert not out.any()
    out.float().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_four_million_tokens_stay_finite_and_right(dtype):
    generator = torch.Generator().manual_seed(0)
    k = torch.rand(1, 1, FOUR_MILLION, 2, generator=generator).mul_(30).to(dtype)
    v = torch.rand(1, 1, FOUR_MILLION, 2, generator=generator).add_(5).to(dtype)
    q = torch.tensor([[[[20.0, 1.0], [1e-3, 30.0], [-1.0, 0.0]]]], dtype=dtype)
    summary = kv_summary(k, v)
    assert summary.S.dtype == summary.z.dtype == torch.float32
    assert summary.S.amax() > torch.finfo(torch.float16).max
    out = relu_linear_attention(q, k, v)
    assert out.dtype == dtype
    assert out.isfinite().all()
    exact_s = k.double().transpose(-1, -2) @ v.double()
    exact_z = k.double().sum(-2)
    torch.testing.assert_close(summary.S.double(), exact_s, rtol=1e-4, atol=0)
    torch.testing.assert_close(summary.z.double(), exact_z, rtol=1e-4, atol=0)
    phi = q.double().relu()
    expected = phi @ exact_s / (phi @ exact_z.unsqueeze(-1) + EPS)
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=0)


def test_autocast_does_not_round_the_sums():
    q, k, v = random_qkv(tokens=64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        summary = kv_summary(k, v)
        out = apply_summary(q, summary)
    assert torch.equal(summary.S, kv_summary(k, v).S)
    assert torch.equal(out, relu_linear_attention(q, k, v))
