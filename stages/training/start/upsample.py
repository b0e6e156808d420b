"""A latent upsampler that begins as the best linear one, by least squares; training then adds what is not linear.

Its first norm takes mean and spread of every group of channels out of a clip, and with them the level of what it shows.
So each group has two channels of large constants, one of either sign: they fix the spread, and what the norm leaves of
one of them is the mean that it took. Values are kept small, where SiLU(x) is x / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.errors import BadInput
from stages.training.start.least_squares import LeastSquares

Pairs = Sequence[tuple[Tensor, Tensor]]
GROUPS = 32
CONSTANT = 100.0
SMALL = 0.05
"""What a value of spread 1 becomes before an activation."""
SOFT = 1e-5
"""Ridge of the least squares, as a share of the inputs' mean energy."""


def start_linear(model: Any, pairs: Pairs) -> None:
    """Set an LTXLatentUpsamplerModel's weights from pairs of latents in VAE space, [1, C, F, H, W] each: what comes in,
    what must come out. Raises BadInput for one that is too narrow to carry all channels."""
    _check(model)
    with torch.no_grad():
        low = [a for a, _ in pairs]
        spreads = torch.cat([a.flatten(2)[0] for a in low], dim=1).std(dim=1)
        _start_first(model, spreads)
        for block in (*model.res_blocks, *model.post_upsample_res_blocks):
            nn.init.zeros_(block.norm2.weight)
            nn.init.zeros_(block.norm2.bias)
        wanted = [_packed(model, high * SMALL / spreads.view(1, -1, 1, 1, 1)) for _, high in pairs]
        _fit(model.upsampler[0], [_features(model, a) for a in low], wanted)
        _fit(model.final_conv, [_last(model, a) for a in low], [high for _, high in pairs])


def _check(model: Any) -> None:
    values = GROUPS * (model.mid_channels // GROUPS - 2)
    if model.dims != 3 or model.mid_channels % GROUPS or values < model.in_channels:
        raise BadInput(
            f"upsampling.start_clips: an upsampler of width {model.mid_channels} has room for {max(0, values)} of the "
            f"latents' {model.in_channels} channels; make model.shape.upsampler_width a larger multiple of {GROUPS}"
        )


def _start_first(model: Any, spreads: Tensor) -> None:
    """The first convolution and its norm: every group holds some channels with a spread of 1, and two constants."""
    n, size = model.in_channels, model.mid_channels // GROUPS
    places = torch.arange(n) // (size - 2) * size + torch.arange(n) % (size - 2)
    conv, norm = model.initial_conv, model.initial_norm
    for tensor in (conv.weight, conv.bias, norm.weight, norm.bias):
        tensor.zero_()
    conv.weight[places, torch.arange(n), 1, 1, 1] = 1 / spreads
    conv.bias[size - 2 :: size], conv.bias[size - 1 :: size] = CONSTANT, -CONSTANT
    _keep_small(norm, places, size)
    for tensor in (conv.weight, norm.weight, norm.bias):
        tensor.copy_(tensor.half())  # as they will rest: the layers after them are fitted to that


def _keep_small(norm: Any, places: Tensor, size: int) -> None:
    """Scales and offsets after which a value of 1 is SMALL, and a constant is the mean that it lost, as small."""
    spread = (2 / size) ** 0.5 * CONSTANT
    norm.weight[places] = SMALL * spread
    norm.weight[size - 2 :: size] = SMALL * spread
    norm.bias[size - 2 :: size] = -SMALL * CONSTANT


def _features(model: Any, low: Tensor) -> Tensor:
    """What comes to the upsampling layer."""
    h = model.initial_activation(model.initial_norm(model.initial_conv(low)))
    for block in model.res_blocks:
        h = block(h)
    return h


def _last(model: Any, low: Tensor) -> Tensor:
    """What comes to the last layer."""
    found: list[Tensor] = []
    handle = model.final_conv.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        model(low)
    finally:
        handle.remove()
    return found[0]


def _packed(model: Any, high: Tensor) -> Tensor:
    """The higher latent [1, C, F, H, W] as the upsampling layer makes it, before its places are spread out; the
    channels that the latents do not need are 0."""
    full = torch.cat([high, high.new_zeros(1, model.mid_channels - high.shape[1], *high.shape[2:])], dim=1)
    if model.temporal_upsample:
        full = torch.cat([full[:, :, :1], full], dim=2)  # the model drops the first
        return full.unflatten(2, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(1, 2)
    parts = full.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))
    return parts.permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)


def _fit(conv: Any, given: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Weights and bias of a convolution of kernel 3, in two or three dimensions, by least squares."""
    flat, found = conv.weight.ndim == 4, LeastSquares()
    for inputs, outputs in zip(given, wanted, strict=True):
        found.add(_windows(inputs, flat), outputs[0].movedim(0, -1).flatten(0, 2))
    solved = found.solve(SOFT)
    conv.weight.copy_(solved[:, :-1].reshape(conv.weight.shape))
    conv.bias.copy_(solved[:, -1])


def _windows(given: Tensor, flat: bool) -> Tensor:
    """Every window of [1, C, F, H, W] that a kernel of 3 sees, and a 1: [N, C * 27 + 1], or C * 9 + 1 if flat."""
    padded = nn.functional.pad(given, (1, 1, 1, 1) if flat else (1, 1, 1, 1, 1, 1))
    windows = padded.unfold(3, 3, 1).unfold(4, 3, 1)
    windows = windows if flat else windows.unfold(2, 3, 1).movedim(-1, -3)
    rows = windows.permute(0, 2, 3, 4, 1, *range(5, windows.ndim)).flatten(4).flatten(0, 3)
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
