"""Optimizers, the learning rate's schedule, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from stages.training.settings import Optim

Named = Sequence[tuple[str, nn.Parameter]]
_EDGES = ("conv_in", "conv_out", "proj_in", "proj_out", "initial_conv", "final_conv", "shared", "embed", "table")
ROWS = 128
"""A kernel with more rows than these is orthogonalised in parts of so many: the work grows with their square."""


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is not typed here
    """Momentum with orthogonalised updates, for matrices and convolution kernels (one row an output channel).

    Source: K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks", 2024; updates are scaled
    to the size of AdamW's as in arXiv 2502.16982 (0.2 * sqrt of the longer side).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self, closure: Any = None) -> None:
        """One update of every parameter that has a gradient."""
        with torch.no_grad():
            for group in self.param_groups:
                self._update([p for p in group["params"] if p.grad is not None], group)

    def _update(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        updates = orthogonal([part for p in params for part in _parts(self._wanted(p, group["momentum"]))])
        rest = iter(updates)
        for p in params:
            parts = [next(rest) for _ in _parts(p)]
            longer = max(parts[0].shape)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(torch.cat(parts).view_as(p), alpha=-group["lr"] * 0.2 * math.sqrt(longer))

    def _wanted(self, p: nn.Parameter, momentum: float) -> torch.Tensor:
        """The gradient with Nesterov's momentum."""
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum_buffer"], momentum)


def _parts(kernel: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The matrices [M, N] of a kernel: large ones of upsampling layers fall apart by rows, where each group makes
    other pixels."""
    flat = kernel.flatten(1)
    parts: tuple[torch.Tensor, ...] = flat.split(ROWS if kernel.ndim > 2 and len(flat) % ROWS == 0 else len(flat))
    return parts


def orthogonal(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The matrices with their singular values driven to about 1, by five Newton-Schulz steps in bfloat16; those of one
    shape at once, which takes half the time."""
    lying = [m.mT if m.shape[0] > m.shape[1] else m for m in matrices]
    alike: dict[torch.Size, list[int]] = {}
    for n, m in enumerate(lying):
        alike.setdefault(m.shape, []).append(n)
    done: dict[int, torch.Tensor] = {}
    for members in alike.values():
        done.update(zip(members, newton_schulz(torch.stack([lying[n] for n in members])), strict=True))
    return [done[n].mT if m.shape[0] > m.shape[1] else done[n] for n, m in enumerate(matrices)]


def newton_schulz(matrices: torch.Tensor) -> torch.Tensor:
    """Five steps of the quintic iteration for matrices [K, M, N], M <= N."""
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.to(matrices.dtype)


def make_optimizers(named: Named, settings: Optim) -> list[torch.optim.Optimizer]:
    """One AdamW, or a Muon and an AdamW for what is no hidden matrix: biases, embeddings, first and last layers."""
    hidden = [p for name, p in named if settings.name == "muon" and _is_hidden(name, p)]
    hidden_ids = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in hidden_ids]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        betas = (settings.betas[0], settings.betas[1])
        optimizers.append(torch.optim.AdamW(rest, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay))
    if hidden:
        optimizers.append(Muon(hidden, lr=settings.muon_lr, weight_decay=settings.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not any(edge in name for edge in _EDGES)


def lr_factor(settings: Optim, step: int, steps: int) -> float:
    """What the full learning rate is multiplied by at a step, 0 to 1."""
    rising = min(1.0, (step + 1) / max(1, settings.warmup))
    span = max(1.0, steps * settings.decay_share)
    left = min(1.0, (steps - step) / span)
    falling = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[settings.decay]
    return rising * falling


def set_lr(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> float:
    """Set every group's rate to this share of its full one; the first group's rate is returned for the log."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor
    return float(optimizers[0].param_groups[0]["lr"])
