"""What a refine pass is given, and what it has to make of it: latents out of the upsamplers, and the true ones.

A denoiser that only ever saw noised true latents takes what the upsamplers leave soft for the truth, and keeps it. So
it learns the straight way from upsampled latents with some noise to the true latents of the same clip: flow matching
between coupled ends (arXiv 2310.03725), with which the second stage of FlashVideo begins as well (arXiv 2502.05179).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from stages.training.latents import denormalise, encode, normalise, tensors_digest
from stages.training.tasks.models import load_part
from stages.training.tasks.objectives import Noised

UPSAMPLERS = SPATIAL, TEMPORAL = "spatial_upsampler", "temporal_upsampler"


class Raiser(nn.Module):  # type: ignore[misc]
    """A checkpoint's upsamplers, one after the other, as a cascade has them. Raises BadInput where it has none."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: load_part(folder, name) for name in UPSAMPLERS})

    @property
    def identity(self) -> str:
        """A digest of their weights."""
        return tensors_digest(self.networks.state_dict())

    def forward(self, vae: Any, video: torch.Tensor) -> torch.Tensor:
        """Normalised latents of a video [B, 3, F, H, W], F odd, raised from those of half its size and rate."""
        with torch.no_grad():
            latents = denormalise(vae, encode(vae, smaller(video, UPSAMPLERS)))
            for network in self.networks.values():
                latents = lift(network, latents)
        return normalise(vae, latents)


def upsample(vae: Any, network: Any, latents: torch.Tensor) -> torch.Tensor:
    """Normalised latents, up by a network that works in VAE space, as LTXLatentUpsamplePipeline has it."""
    return normalise(vae, lift(network, denormalise(vae, latents)))


def lift(network: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents in VAE space, up by a network, in float32 also where the rest has mixed precision: constants that carry
    a linear start through norms are far above what goes beside them, and bfloat16 would round that away."""
    with torch.autocast(latents.device.type, enabled=False):
        lifted: torch.Tensor = network(latents.float())
    return lifted


def smaller(video: torch.Tensor, ways: tuple[str, ...]) -> torch.Tensor:
    """A video [B, 3, F, H, W] as it is before these upsamplers: of half the width and height, of every other frame."""
    if SPATIAL in ways:
        video = F.avg_pool3d(video, (1, 2, 2))
    return video[:, :, ::2] if TEMPORAL in ways else video


def between(raised: torch.Tensor, clean: torch.Tensor, level: float, generator: torch.Generator) -> Noised:
    """Points on the straight ways from raised latents with noise of a level, 0 to 1, to the clean ones, anywhere on
    them; the way's velocity; and timesteps [B], which say how much of the noise is left, of 1000."""
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    start = (1 - level) * raised + level * noise
    left = torch.rand(len(clean), generator=generator, device=clean.device)
    spread = left.view(-1, 1, 1, 1, 1)
    return Noised(
        spread * start + (1 - spread) * clean, (start - clean) / level, 1000 * level * left, torch.ones_like(left)
    )
