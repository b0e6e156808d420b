"""The optimizer for hidden matrices: what it makes of gradients of many shapes at once."""

from __future__ import annotations

import torch

from stages.training.optim import Muon, orthogonal

SHAPES = [(24, 24), (48, 24), (24, 48), (24, 24), (24, 24, 3)]


def test_matrices_of_any_shape_become_nearly_orthogonal_and_keep_their_places() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(shape).flatten(1) for shape in SHAPES]
    for given, made in zip(matrices, orthogonal(matrices), strict=True):
        assert made.shape == given.shape
        values = torch.linalg.svdvals(made)
        assert float(values.median()) > 0.6  # five steps do not lift the very smallest
        assert float(values.max()) < 1.4
        # the nearest orthogonal matrix is U V^T of the same matrix, of no other one
        u, _, v = torch.linalg.svd(given, full_matrices=False)
        assert float((made * (u @ v)).sum() / made.norm() / (u @ v).norm()) > 0.9


def test_an_update_goes_down_and_what_has_no_gradient_stays() -> None:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    idle = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([*params, idle], lr=0.05)
    before = sum(float(p.detach().square().sum()) for p in params)
    for _ in range(5):
        optimizer.zero_grad(set_to_none=True)
        sum(p.square().sum() for p in params).backward()
        optimizer.step()
    assert sum(float(p.detach().square().sum()) for p in params) < before
    assert bool((idle == 1).all())
