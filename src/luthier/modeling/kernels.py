"""Reference implementations (placeholder of the lead's, until the native ones land)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class Bucket:
    def __init__(self, starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> None:
        self.longest = max(lengths)
        self.count = len(lengths)
        start_B1 = torch.tensor(starts)[:, None]
        length_B1 = torch.tensor(lengths)[:, None]
        place = torch.arange(self.longest)[None]
        real = place < length_B1
        self.gather = (start_B1 + torch.minimum(place, length_B1 - 1)).to(device)
        self.real = real.to(device)
        self.back = self.gather[self.real]


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    f = x.float()
    return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + eps) * w).to(x.dtype)


def add_rms_norm(x: Tensor, d: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    s = x + d
    return s, rms_norm(s, w, eps)


def rms_norm_backward(dy: Tensor, x: Tensor, w: Tensor, eps: float, residual: Tensor | None) -> Tensor:
    f = x.float()
    r = torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + eps)
    g, h = dy.float() * w, f * r
    d = r * (g - h * (g * h).mean(-1, keepdim=True))
    return (d if residual is None else d + residual.float()).to(x.dtype)


def _act(g: Tensor, act: str) -> Tensor:
    return functional.silu(g) if act == "silu" else functional.gelu(g, approximate="tanh")


def gated(gu: Tensor, act: str) -> Tensor:
    g, u = gu.float().chunk(2, -1)
    return (_act(g, act) * u).to(gu.dtype)


def gated_backward(gu: Tensor, d: Tensor, act: str) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = gu.float().detach().requires_grad_()
        g, u = leaf.chunk(2, -1)
        y = _act(g, act) * u
    (grad,) = torch.autograd.grad(y, leaf, d.float())
    return grad.to(gu.dtype), y.detach().to(gu.dtype)


def _rot(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def _rot_t(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([b, -a], -1)


def heads_out(qkv: Tensor, b: Bucket, cos: Tensor, sin: Tensor, heads: Any) -> tuple[Tensor, Tensor, Tensor]:
    H, K, E, L, G = heads.queries, heads.keys, heads.width, b.longest, heads.group
    x = qkv[b.gather.flatten()].view(b.count, L, H + 2 * K, E) * b.real[:, :, None, None]
    c, s = cos[:L].view(1, L, 1, E), sin[:L].view(1, L, 1, E)
    t = x[:, :, : H + K].float()
    t = (t * c + _rot(t) * s).to(qkv.dtype)
    q = t[:, :, :H].reshape(b.count, L, K, G, E).permute(0, 2, 3, 1, 4).reshape(b.count * K, G * L, E)
    k = t[:, :, H:].permute(0, 2, 1, 3).reshape(b.count * K, L, E)
    v = x[:, :, H + K :].permute(0, 2, 1, 3).reshape(b.count * K, L, E)
    return q.contiguous(), k.contiguous(), v.contiguous()


def heads_back(grads: tuple[Tensor, Tensor, Tensor], b: Bucket, cos: Tensor, sin: Tensor, heads: Any, out: Tensor) -> None:
    dq, dk, dv = grads
    H, K, E, L, G = heads.queries, heads.keys, heads.width, b.longest, heads.group
    c, s = cos[:L].view(1, L, 1, E), sin[:L].view(1, L, 1, E)
    q = dq.view(b.count, K, G, L, E).permute(0, 3, 1, 2, 4).reshape(b.count, L, H, E)
    k = dk.view(b.count, K, L, E).permute(0, 2, 1, 3)
    t = torch.cat([q, k], 2).float()
    t = t * c + _rot_t(t * s)
    whole = torch.cat([t.to(dv.dtype), dv.view(b.count, K, L, E).permute(0, 2, 1, 3)], 2).reshape(b.count, L, (H + 2 * K) * E)
    out[b.back] = whole[b.real]


def causal_softmax_(scores: Tensor, scale: float, window: int) -> None:
    N, GL, L = scores.shape
    f = scores.view(N, GL // L, L, L).float() * scale
    i = torch.arange(L, device=scores.device)
    back = i[:, None] - i[None, :]
    seen = (back >= 0) & (back < window) if window else back >= 0
    scores.copy_(f.masked_fill(~seen, float("-inf")).softmax(-1).view(N, GL, L))


def softmax_backward_(p: Tensor, d: Tensor, scale: float) -> None:
    pf, df = p.float(), d.float()
    d.copy_(pf * (df - (pf * df).sum(-1, keepdim=True)) * scale)


def attention_out(o: Tensor, b: Bucket, heads: Any, out: Tensor) -> None:
    H, K, E, L, G = heads.queries, heads.keys, heads.width, b.longest, heads.group
    out[b.back] = o.view(b.count, K, G, L, E).permute(0, 3, 1, 2, 4).reshape(b.count, L, H * E)[b.real]


def attention_in(do: Tensor, b: Bucket, heads: Any) -> Tensor:
    K, E, L, G = heads.keys, heads.width, b.longest, heads.group
    x = do[b.gather.flatten()].view(b.count, L, K, G, E) * b.real[:, :, None, None, None]
    return x.permute(0, 2, 3, 1, 4).reshape(b.count * K, G * L, E).contiguous()


def logprob_slope_(logits: Tensor, target: Tensor) -> Tensor:
    logp = logits.float().log_softmax(-1)
    picked = logp.gather(1, target[:, None]).squeeze(1)
    slope = logp.exp_().neg_()
    slope.scatter_add_(1, target[:, None], slope.new_ones(len(target), 1))
    logits.copy_(slope)
    return picked
