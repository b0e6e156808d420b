"""The linear start of a latent upsampler: right before the first step, at every level; refused where too narrow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from stages.core.errors import BadInput
from stages.families.ltx.shape import Shape, make_upsampler
from stages.training.start.upsample import start_linear

from .conftest import LOW, SHAPE

CHANNELS = 8


def pairs(temporal: bool, n: int, seed: int) -> list[tuple[Any, Any]]:
    """Clips of a smooth pattern, each at a level of its own, and the same at twice the size by a linear rule."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        coarse = torch.randn(1, CHANNELS, 3, 3, 3, generator=generator)
        level = 3 * torch.randn(1, CHANNELS, 1, 1, 1, generator=generator)
        low = F.interpolate(coarse, size=(5, 6, 6), mode="trilinear") + level
        size = (9, 6, 6) if temporal else (5, 12, 12)
        made.append((low, F.interpolate(low, size=size, mode="trilinear", align_corners=temporal)))
    return made


@pytest.mark.parametrize(
    ("temporal", "blocks"),
    [
        (False, 1), *(pytest.param(*case, marks=pytest.mark.soak) for case in ((True, 0), (False, 0))),
        pytest.param(True, 1, marks=pytest.mark.soak),
    ],
)  # fmt: skip
def test_start_is_the_linear_rule_at_every_level(temporal, blocks):
    shape = Shape(latent_channels=CHANNELS, upsampler_width=96, upsampler_blocks=blocks)
    model = make_upsampler(shape, temporal=temporal)
    start_linear(model, pairs(temporal, 14, 0))
    with torch.no_grad():
        errors = [(model.half().float()(low) - high).square().mean() for low, high in pairs(temporal, 4, 1)]
    assert max(float(e) for e in errors) < (0.06 if blocks else 0.02)  # of an energy of 10; a block adds its part


def test_a_run_starts_from_it_and_keeps_it(settings):
    from stages.training.loop import Trainer

    shape = {**SHAPE, "upsampler_width": 96, "upsampler_blocks": 0}
    buckets = [LOW, {**LOW, "width": 64, "height": 64}]
    config = settings(
        "spatial", buckets, max_steps=1, model={"checkpoint": "", "shape": shape}, upsampling={"start_clips": 3}
    )
    first, again = (Trainer(config).task.trained["spatial_upsampler"].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert float(first["initial_conv.bias"].abs().max()) > 1


def test_a_narrow_one_is_refused():
    model = make_upsampler(Shape(latent_channels=CHANNELS, upsampler_width=64), temporal=False)
    with pytest.raises(BadInput, match="room for 0 of the latents' 8 channels"):
        start_linear(model, pairs(False, 1, 0))
