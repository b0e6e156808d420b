"""Latents as training uses them: from pixels and back through a VAE, normalised, and what names them.

Shapes: B clips, C latent channels, F H W frames and pixels, f h w latent frames and positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL


def normalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """VAE space -> spread near 1, as a denoiser works on it; [B, C, F, H, W]."""
    mean, std = statistics(vae, latents)
    return (latents - mean) * getattr(vae.config, "scaling_factor", 1.0) / std


def denormalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `normalise`."""
    mean, std = statistics(vae, latents)
    return latents * std / getattr(vae.config, "scaling_factor", 1.0) + mean


def statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of every latent channel, [1, C, 1, 1, 1]; 0 and 1 for a VAE that keeps none."""
    both = []
    for name, default in (("latents_mean", 0.0), ("latents_std", 1.0)):
        value = getattr(vae, name, None)
        value = getattr(vae.config, name, None) if value is None else value
        flat = torch.full((like.shape[1],), default) if value is None else torch.as_tensor(value)
        both.append(flat.to(like.device, like.dtype).view(1, -1, 1, 1, 1))
    return both[0], both[1]


def latents_digest(vae: Any) -> str:
    """A digest of all that latents depend on: every tensor of the VAE but the decoder's, which may be trained on."""
    decoding = ("decoder.", "post_quant_conv.")
    encoding = {n: t for n, t in vae.state_dict().items() if not n.startswith(decoding)}
    return tensors_digest(encoding, f"{vae.config.get('scaling_factor', 1.0)}")


def tensors_digest(tensors: Mapping[str, torch.Tensor], about: str = "") -> str:
    """A digest of named tensors as they rest, in half precision, and of the text `about`."""
    hashed = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def encode(vae: Any, video: torch.Tensor) -> torch.Tensor:
    """The posterior's mean, normalised: [B, 3, F, H, W] in -1..1 -> [B, C, f, h, w]. No gradients."""
    with torch.no_grad():
        if isinstance(vae, AutoencoderKL):  # knows pictures only, of which it is given all frames
            frames = vae.encode(video.movedim(2, 1).flatten(0, 1)).latent_dist.mode().float()
            return normalise(vae, frames.unflatten(0, (len(video), -1)).movedim(1, 2))
        return normalise(vae, vae.encode(video).latent_dist.mode().float())


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Pixels [B, 3, F, H, W] near -1..1 of normalised latents. Gradients pass."""
    raw = denormalise(vae, latents)
    if isinstance(vae, AutoencoderKL):
        frames: torch.Tensor = vae.decode(raw.movedim(2, 1).flatten(0, 1)).sample
        return frames.unflatten(0, (len(raw), -1)).movedim(1, 2)
    steps = torch.full((len(raw),), 0.05, device=raw.device) if vae.config.get("timestep_conditioning") else None
    pixels: torch.Tensor = vae.decode(raw, steps, return_dict=False)[0] if steps is not None else vae.decode(raw)[0]
    return pixels


def set_statistics(vae: Any, videos: Sequence[torch.Tensor], *, shared: bool = False) -> None:
    """Measure mean and spread of every latent channel over videos [1, 3, F, H, W] and keep them in the VAE.

    shared: one spread for all channels, so that those that carry more stay stronger.
    """
    with torch.no_grad():
        flat = [vae.encode(v).latent_dist.mode().float().movedim(1, 0).flatten(1).cpu() for v in videos]
    joined = torch.cat(flat, dim=1)
    std = joined.std(dim=1).clamp(min=1e-4)
    std = std.square().mean().sqrt().expand_as(std) if shared else std
    vae.latents_mean.copy_(joined.mean(dim=1))
    vae.latents_std.copy_(std)
