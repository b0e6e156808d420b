"""A VAE that begins as a transform coder: its latents are principal components of the clips, its decoder the best
linear one, all by least squares, layer by layer. Training then adds what is not linear.

Where training from random weights takes hours to pass 22 dB on shapes that move, this start is near 28 dB in seconds.
Residual blocks begin as the identity (their last convolution is zero, as in arXiv 1901.09321), those of the decoder
awake (`blocks_start`). SiLU(x) - SiLU(-x) = x, so pairs of channels with opposite signs carry values through the last
activation as they are, and channels of a large constant keep the norm before it from dividing the values away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.errors import BadInput
from stages.training.start.blocks import wake_blocks
from stages.training.start.components import Basis, blocks, components, project, rows_of
from stages.training.start.least_squares import LeastSquares

Videos = Sequence[Tensor]
Map = Callable[[Tensor], Tensor]
CONSTANTS = 2
HEADROOM = 100.0
"""Energy of the constant channels over that of the values."""
SOFT = 1e-4
"""Ridge of the least squares, as a share of the inputs' mean energy."""
GAIN, LAST_GAIN = 3.0, 20.0
"""How far what a level keeps stands above the averages that its block adds on its own."""
LOG_VARIANCE = -6.0
WHITEN = 0.5
"""How far a decoder's inner channels are brought to one spread: with less, steps that barely move the strong ones
throw the weak ones, which hold the edges, about."""
ENCODER_CLIPS, ENCODER_ROWS = 40, 30_000
"""What the encoder is fitted to: its components settle early, while the decoder gains from every further clip."""
ROWS = 200_000
"""Most positions that a layer of the decoder is fitted to."""


def start_linear(vae: Any, videos: Videos, whiten: float = 1.0) -> None:
    """Set the weights of an LTX VAE with the residual blocks of 0.9.5 from videos [1, 3, F, H, W] in -1..1.

    whiten: how far the latents' channels are brought to one spread, 0 (as the pixels have it) to 1. Raises BadInput
    for a VAE of another build.
    """
    _check(vae)
    with torch.no_grad():
        for module in vae.modules():
            if hasattr(module, "conv2") and hasattr(module, "norm2"):
                nn.init.zeros_(module.conv2.conv.weight)
                nn.init.zeros_(module.conv2.conv.bias)
        _start_encoder(vae.encoder, videos[:ENCODER_CLIPS], _ratios(vae), whiten)
        _start_decoder(vae, videos)
        wake_blocks(vae, videos)


def _check(vae: Any) -> None:
    encoder, decoder = getattr(vae, "encoder", None), getattr(vae, "decoder", None)
    downs = [d for b in getattr(encoder, "down_blocks", []) for d in b.downsamplers or []]
    ups = [u for b in getattr(decoder, "up_blocks", []) for u in b.upsamplers or []]
    known = downs and ups and all(hasattr(d, "group_size") for d in downs) and all(u.residual for u in ups)
    if not known or vae.config.patch_size_t != 1 or vae.config.timestep_conditioning:
        raise BadInput("reconstruction.start_clips needs an LTX VAE with the residual blocks of 0.9.5")


def _ratios(vae: Any) -> tuple[int, int]:
    return int(vae.spatial_compression_ratio), int(vae.temporal_compression_ratio)


def _set_pointwise(conv: Any, matrix: Tensor, bias: Tensor) -> None:
    """Make a causal 3x3x3 convolution look at one position alone: the last of its time taps, the middle in space."""
    conv.conv.weight.zero_()
    conv.conv.weight[: len(matrix), : matrix.shape[1], 2 if conv.is_causal else 1, 1, 1] = matrix
    conv.conv.bias.zero_()
    conv.conv.bias[: len(bias)] = bias


def _signed(n: int) -> int:
    """Pairs of values among n channels, beside the constant ones."""
    return (n - CONSTANTS) // 2


def _constant(pairs: int) -> float:
    """The value of the constant channels beside so many pairs of spread 1."""
    return float((HEADROOM * 2 * pairs / CONSTANTS) ** 0.5)


def _paired(matrix: Tensor, offset: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Rows and biases that give every value (of spread 1) with both signs, and constants that outweigh them."""
    n = len(matrix)
    bias = torch.zeros(channels)
    bias[: 2 * n] = torch.cat([offset, -offset])
    bias[channels - CONSTANTS :] = _constant(n)
    full = matrix.new_zeros(channels, matrix.shape[1])
    full[: 2 * n] = torch.cat([matrix, -matrix])
    return full, bias


def _start_encoder(encoder: Any, videos: Videos, ratios: tuple[int, int], whiten: float) -> None:
    """Keep the strongest components at every level; the last layer maps them to those of whole blocks."""
    _, axes, _ = basis = components((_patched(encoder, v) for v in videos), encoder.conv_in.conv.out_channels)
    _set_pointwise(encoder.conv_in, axes, -axes @ basis[0])
    for number, block in enumerate(encoder.down_blocks):
        conv, last = block.downsamplers[0].conv, number + 1 == len(encoder.down_blocks)
        kept = _signed(conv.conv.out_channels) if last else conv.conv.out_channels
        mean, axes, spreads = components((_until(encoder, number, v) for v in videos), kept)
        if last:
            axes = axes / spreads[0] * kept**0.5  # the strongest has the others' energy together
        matrix, bias = _paired(axes, -axes @ mean, conv.conv.out_channels) if last else (axes, -axes @ mean)
        gain = LAST_GAIN if last else GAIN
        _set_pointwise(conv, matrix * gain, bias * gain)
    basis = components((blocks(v, ratios) for v in videos), encoder.conv_out.conv.out_channels - 1)
    pairs = ((_last_features(encoder, v), project(blocks(v, ratios), basis, whiten)) for v in videos)
    _fit(encoder.conv_out, pairs, len(videos), ENCODER_ROWS)
    encoder.conv_out.conv.bias[-1] = LOG_VARIANCE


def _patch_order(p: int) -> Tensor:
    """Where the network has the pixels of a patch that `blocks` counts (channel, row, column): columns come first."""
    return torch.arange(3 * p * p).view(3, p, p).transpose(1, 2).reshape(-1)


def _patched(encoder: Any, video: Tensor) -> Tensor:
    return blocks(video, (encoder.patch_size, 1))[:, _patch_order(encoder.patch_size)]


def _until(encoder: Any, level: int, video: Tensor) -> Tensor:
    """What comes to the downsampler of a level."""
    h = encoder.conv_in(_patched(encoder, video))
    for number, block in enumerate(encoder.down_blocks[: level + 1]):
        for resnet in block.resnets:
            h = resnet(h)
        h = block.downsamplers[0](h) if number < level else h
    return h


def _last_features(encoder: Any, video: Tensor) -> Tensor:
    h = _until(encoder, len(encoder.down_blocks) - 1, video)
    h = encoder.mid_block(encoder.down_blocks[-1].downsamplers[0](h))
    return encoder.conv_act(encoder.norm_out(h.movedim(1, -1)).movedim(-1, 1))


def _start_decoder(vae: Any, videos: Videos) -> None:
    """Let every level predict the strongest components of smaller blocks, and the last layer the pixels."""
    decoder, (s, t) = vae.decoder, _ratios(vae)
    _set_pointwise(decoder.conv_in, torch.eye(decoder.conv_in.conv.in_channels), torch.zeros(0))
    latents = [vae.encode(v).latent_dist.mode() for v in videos]
    for level, block in enumerate(decoder.up_blocks):
        size, last = (s >> level + 1, t >> level + 1), level + 1 == len(decoder.up_blocks)
        wanted = _wanted(videos, size, block.upsamplers[0].conv.conv.out_channels // 8, last)
        pairs = (_up_pair(decoder, level, z, wanted(blocks(v, size))) for z, v in zip(latents, videos, strict=True))
        _fit(block.upsamplers[0].conv, pairs, len(videos))
    pairs = ((_final_features(decoder, z), _patched(vae.encoder, v)) for z, v in zip(latents, videos, strict=True))
    _fit(decoder.conv_out, pairs, len(videos))


def _wanted(videos: Videos, size: tuple[int, int], channels: int, last: bool) -> Map:
    """What a level's channels are to hold of blocks of this size: components; before the last layer, in pairs."""
    basis = components((blocks(v, size) for v in videos), _signed(channels) if last else channels)
    return _paired_map(basis, channels) if last else lambda found: project(found, basis, WHITEN)


def _paired_map(basis: Basis, channels: int) -> Map:
    def wanted(found: Tensor) -> Tensor:
        values = project(found, basis, WHITEN)
        shape = (1, channels - 2 * values.shape[1], *values.shape[2:])
        return torch.cat([values, -values, values.new_full(shape, _constant(len(basis[1])))], dim=1)

    return wanted


def _to_up(decoder: Any, level: int, latent: Tensor) -> Tensor:
    """What comes to the upsampler of a level."""
    h = decoder.mid_block(decoder.conv_in(latent), None)
    for block in decoder.up_blocks[:level]:
        h = block(h, None)
    return h


def _up_pair(decoder: Any, level: int, latent: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs of an upsampler's convolution, and what it has to add to the block's own residual."""
    h = _to_up(decoder, level, latent)
    wanted = torch.cat([wanted[:, :, :1], wanted], dim=2)  # the block drops the first of the frames that it makes
    parts = wanted.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    packed = parts.permute(0, 1, 3, 5, 7, 2, 4, 6)  # channel, then place in the block
    own = h.unflatten(1, (-1, 2, 2, 2))
    return h, (packed - own.repeat(1, packed.shape[1] // own.shape[1], 1, 1, 1, 1, 1, 1)).flatten(1, 4)


def _final_features(decoder: Any, latent: Tensor) -> Tensor:
    h = _to_up(decoder, len(decoder.up_blocks), latent)
    return decoder.conv_act(decoder.norm_out(h.movedim(1, -1)).movedim(-1, 1))


def _fit(conv: Any, pairs: Iterator[tuple[Tensor, Tensor]], n: int, most: int = ROWS) -> None:
    """Weights and bias of a 3x3x3 convolution by least squares over n pairs of its input and its output, of which at
    most so many positions are taken."""
    sums = LeastSquares()
    live = torch.zeros(0, dtype=torch.bool)
    for number, (given, wanted) in enumerate(pairs):
        live = live if len(live) else given.flatten(2).std(dim=2)[0] > 0
        generator = torch.Generator().manual_seed(number)
        picked = torch.randperm(wanted[0, 0].numel(), generator=generator)[: max(1, most // n)]
        sums.add(_windows(conv, given[:, live])[picked], rows_of(wanted)[picked])
    _set_fitted(conv.conv, sums.solve(SOFT), live)


def _set_fitted(conv: Any, solved: Tensor, live: Tensor) -> None:
    outputs = len(solved)
    conv.weight.zero_()
    conv.weight[:outputs, live] = solved[:, :-1].reshape(outputs, -1, *conv.weight.shape[2:])
    conv.bias.zero_()
    conv.bias[:outputs] = solved[:, -1]


def _windows(conv: Any, given: Tensor) -> Tensor:
    """Every 3x3x3 window that the convolution sees, and a 1: [N, C * 27 + 1]."""
    before, after = (2, 0) if conv.is_causal else (1, 1)
    padded = torch.cat([given[:, :, :1]] * before + [given] + [given[:, :, -1:]] * after, dim=2)
    padded = nn.functional.pad(padded, (1, 1, 1, 1))
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    flat = windows.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(0, 3)
    return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
