"""Residual blocks of a decoder that begin as nothing, but awake.

A linear start keeps norms from dividing values away by channels of a large constant. Behind these, values would move a
block's SiLU by so little that it could learn nothing but lines. So its first convolution begins blind to what is
constant, and with outputs of unit spread over data (as in arXiv 1511.06856); its last one begins at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CLIPS = 24
"""What spreads are measured on."""
STEADY, STEADY_SHARE = 1.5, 8
"""Of the inner channels one in so many is this constant: the norm behind them then does not blow noise up."""
STILL = 1e-3
"""A channel with less spread is a constant."""


def wake_blocks(vae: Any, videos: Sequence[Tensor]) -> None:
    """Set the residual blocks of an LTX VAE's decoder from videos [1, 3, F, H, W] in -1..1. They change nothing yet."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = [vae.encode(v).latent_dist.mode() for v in videos[:CLIPS]]
        found = [vae.decoder.mid_block(vae.decoder.conv_in(z), None) for z in latents]
        for block in vae.decoder.up_blocks:
            found = [block.upsamplers[0](h) for h in found]
            for resnet in block.resnets:
                _wake(resnet, found, generator)


def _wake(resnet: Any, found: Sequence[Tensor], generator: torch.Generator) -> None:
    conv, last = resnet.conv1.conv, resnet.conv2.conv
    seen = [resnet.nonlinearity(resnet.norm1(h.movedim(1, -1)).movedim(-1, 1)) for h in found]
    _, spread = _statistics(seen)
    conv.weight.normal_(generator=generator)
    conv.weight.mul_(torch.where(spread > STILL, 1 / spread, 0.0).view(1, -1, 1, 1, 1))
    conv.bias.zero_()
    mean, spread = _statistics([resnet.conv1(h) for h in seen])
    conv.weight.div_(spread.view(-1, 1, 1, 1, 1))
    conv.bias.copy_(-mean / spread)
    steady = len(conv.bias) // STEADY_SHARE
    conv.weight[:steady].zero_()
    conv.bias[:steady].fill_(STEADY)
    last.weight.zero_()
    last.bias.zero_()


def _statistics(found: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and spread of every channel over tensors [1, C, F, H, W]."""
    rows = torch.cat([h.movedim(1, -1).flatten(0, -2) for h in found])
    return rows.mean(dim=0), rows.std(dim=0)
