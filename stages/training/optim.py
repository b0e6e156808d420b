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
                for p in (p for p in group["params"] if p.grad is not None):
                    self._update(p, **{k: group[k] for k in ("lr", "momentum", "weight_decay")})

    def _update(self, p: nn.Parameter, lr: float, momentum: float, weight_decay: float) -> None:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        moment = state["momentum_buffer"]
        moment.lerp_(p.grad, 1 - momentum)
        flat = p.grad.lerp(moment, momentum).flatten(1)
        # Such kernels belong to upsampling layers, where each group of rows makes other pixels.
        rows = ROWS if p.ndim > 2 and len(flat) % ROWS == 0 else len(flat)
        update = torch.cat([orthogonal(part) for part in flat.split(rows)])
        p.mul_(1 - lr * weight_decay)
        p.add_(update.view_as(p), alpha=-lr * 0.2 * math.sqrt(max(rows, flat.shape[1])))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix [M, N] with its singular values driven to about 1, by five Newton-Schulz steps in bfloat16."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).to(matrix.dtype)


def make_optimizers(named: Named, settings: Optim) -> list[torch.optim.Optimizer]:
    """One AdamW, or a Muon and an AdamW for what is no hidden matrix: biases, embeddings, first and last layers."""
    hidden = [p for name, p in named if settings.name == "muon" and _is_hidden(name, p)]
    chosen = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in chosen]
    made: list[torch.optim.Optimizer] = []
    if rest:
        betas = (settings.betas[0], settings.betas[1])
        made.append(torch.optim.AdamW(rest, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay))
    if hidden:
        made.append(Muon(hidden, lr=settings.muon_lr, weight_decay=settings.weight_decay))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return made


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
