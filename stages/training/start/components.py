"""Principal components of the blocks of a video: what a transform coder keeps of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Basis = tuple[Tensor, Tensor, Tensor]
"""Mean [D], axes [n, D], the strongest first, and spreads [n]."""


def blocks(video: Tensor, ratios: tuple[int, int]) -> Tensor:
    """The pixels of every block of a video [1, 3, F, H, W], whose first frame counts as often as a block is long:
    [1, D, F / t, H / s, W / s]."""
    s, t = ratios
    lead = video[:, :, :1].expand(-1, -1, t - 1, -1, -1)
    parts = torch.cat([lead, video], dim=2).unflatten(4, (-1, s)).unflatten(3, (-1, s)).unflatten(2, (-1, t))
    return parts.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def components(maps: Iterator[Tensor], n: int) -> Basis:
    """Mean [D], the first n principal axes [n, D] and their spreads [n] of what maps [1, D, F, H, W] hold."""
    sums: list[Tensor] = []
    count = 0
    for rows in map(rows_of, maps):
        found = [rows.sum(0), rows.T @ rows]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        count += len(rows)
    mean = sums[0] / count
    values, axes = torch.linalg.eigh(sums[1] / count - torch.outer(mean, mean))
    return mean, axes.flip(1)[:, :n].T.contiguous(), values.flip(0)[:n].clamp(min=1e-8).sqrt()


def rows_of(found: Tensor) -> Tensor:
    """Maps [B, D, F, H, W] as rows [N, D], one a position."""
    return found.movedim(1, -1).flatten(0, -2)


def project(found: Tensor, basis: Basis, whiten: float = 1.0) -> Tensor:
    """Coefficients [1, n, F, H, W] of maps [1, D, F, H, W] with spreads of power 1 - whiten, whose mean square is 1."""
    mean, axes, spreads = basis
    scale = spreads**whiten * spreads.pow(2 - 2 * whiten).mean().sqrt()
    return ((found.movedim(1, -1) - mean) @ (axes / scale[:, None]).T).movedim(-1, 1)
