"""An LTX VAE as the other stages see it: its config and statistics, without its weights in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo

from stages.core.errors import BadInput
from stages.core.latents.form import DecodeRecipe, Floats
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.digests import weights_digest
from stages.families.contract import VaeFacts
from stages.families.loading import load_tensors
from stages.families.ltx.size import ratios_of

TIMESTEP, NOISE_SCALE = 0.05, 0.025
"""Decoding a timestep-conditioned VAE: what Lightricks recommends for 0.9.1 and later."""


class VaeCard:
    """Stands in for the VAE inside diffusers' pipelines: dtype, config, ratios and latent statistics, 1 kB in all.

    With it the base stage needs no VAE, and pipelines learn the real ratios; with `vae=None` they assume 32 and 8.
    `encode` answers with latents prepared elsewhere, so that conditions come in as latents too.
    """

    def __init__(self, model: ModelConfig, dtype: torch.dtype) -> None:
        folder = model.folder(("vae",))
        config = dict(AutoencoderKLLTXVideo.load_config(folder / "vae"))
        self.config = SimpleNamespace(
            scaling_factor=float(config.get("scaling_factor", 1.0)),
            timestep_conditioning=bool(config.get("timestep_conditioning", False)),
        )
        self.dtype = dtype
        self.spatial_compression_ratio, self.temporal_compression_ratio = ratios_of(config)
        channels = int(config.get("latent_channels", 128))
        self.latents_mean, self.latents_std = _statistics(folder / "vae", channels)
        self._queued: list[torch.Tensor] = []
        self.facts = self._facts(weights_digest(folder, ("vae",)), channels)

    def _facts(self, vae_id: str, channels: int) -> VaeFacts:
        soft = self.config.timestep_conditioning
        return VaeFacts(
            vae_id=vae_id,
            spatial_ratio=self.spatial_compression_ratio,
            temporal_ratio=self.temporal_compression_ratio,
            channels=channels,
            scale=float(self.latents_std.mean()) / self.config.scaling_factor,
            decode=DecodeRecipe(timestep=TIMESTEP, noise_scale=NOISE_SCALE) if soft else DecodeRecipe(),
        )

    def _vectors(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (v.view(1, -1, 1, 1, 1).to(like.device, like.dtype) for v in (self.latents_mean, self.latents_std))
        return mean, std

    def normalize(self, video: Floats) -> torch.Tensor:
        """[C, F, H, W] in VAE space -> [1, C, F, H, W] as the pipelines hold it, spread near 1."""
        latent = torch.from_numpy(np.ascontiguousarray(video))[None]
        mean, std = self._vectors(latent)
        return (latent - mean) * self.config.scaling_factor / std

    def denormalize(self, latents: torch.Tensor) -> Floats:
        """[1, C, F, H, W] as the pipelines hold it -> [C, F, H, W] in VAE space, float32."""
        latents = latents.float().cpu()
        mean, std = self._vectors(latents)
        return cast(Floats, (latents * std / self.config.scaling_factor + mean)[0].contiguous().numpy())

    @contextmanager
    def answering(self, videos: list[Floats]) -> Iterator[None]:
        """Within it, successive calls of `encode` answer with these latents [C, F, H, W] in VAE space.

        Raises RuntimeError where the pipeline did not ask for each of them: a condition was passed over.
        """
        self._queued = [torch.from_numpy(np.ascontiguousarray(v))[None] for v in videos]
        try:
            yield
            if self._queued:
                raise RuntimeError(f"{len(self._queued)} of {len(videos)} conditions were not looked at")
        finally:
            self._queued = []

    def encode(self, pixels: torch.Tensor) -> Any:
        """The next prepared latent; the pixels, which the pipeline made of a blank video, are not looked at."""
        latent = self._queued.pop(0).to(pixels.device)
        mean, _ = self._vectors(latent)
        # The pipeline normalises conditions without the scaling factor, everything else with it.
        return SimpleNamespace(latents=(latent - mean) * self.config.scaling_factor + mean)


def _statistics(folder: Path, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and standard deviation per channel that travel with the weights: only these two are read."""
    found = load_tensors(folder, ("latents_mean", "latents_std"))
    for name, tensor in found.items():
        if tensor.shape != (channels,):
            raise BadInput(f"{folder}: {name} is {list(tensor.shape)}, the config says {channels} latent channels")
    if not bool((found["latents_std"] > 0).all()):
        raise BadInput(f"{folder}: latents_std must be above 0 in every channel")
    return found["latents_mean"], found["latents_std"]
