"""One call for every kind of denoiser: noisy latents [B, C, F, H, W] in, a prediction of the same shape out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import LTXConditionPipeline, LTXVideoTransformer3DModel, UNetMotionModel

from stages.core.errors import BadInput


@dataclass(frozen=True)
class Geometry:
    """What a transformer is given about a latent: the VAE's ratios and the frame rate."""

    spatial_ratio: int
    temporal_ratio: int
    fps: float


@dataclass
class Keyframe:
    """A clean latent frame [B, C, 1, H, W] of a picture that is to appear at pixel frame `index`."""

    latent: torch.Tensor
    index: int


def predict(
    model: Any,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    mask: torch.Tensor,
    geometry: Geometry,
    keyframe: Keyframe | None = None,
) -> torch.Tensor:
    """The prediction for a latent whose frame f of clip b is at timestep [B, F], 0 (clean) to 1000; or [B, 1] for all.

    text [B, L, D], mask [B, L]. Raises BadInput where a U-Net is given frames of different noise, or keyframes.
    """
    if isinstance(_inner(model), LTXVideoTransformer3DModel):
        return _predict_ltx(model, noisy, timesteps, text, mask, geometry, keyframe)
    if keyframe is not None or not bool((timesteps == timesteps[:, :1]).all()):
        raise BadInput(f"{type(_inner(model)).__name__} has one timestep a clip: set objective.condition to 0")
    if isinstance(_inner(model), UNetMotionModel):
        text = text.repeat_interleave(noisy.shape[2], dim=0)
    out: torch.Tensor = model(noisy, timesteps[:, 0], encoder_hidden_states=text, return_dict=False)[0]
    return out


def _inner(model: Any) -> Any:
    return getattr(model, "_orig_mod", model)


def _predict_ltx(
    model: Any,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    mask: torch.Tensor,
    geometry: Geometry,
    keyframe: Keyframe | None,
) -> torch.Tensor:
    """Tokens, coordinates and per-token timesteps exactly as LTXConditionPipeline arranges them."""
    pipe, (frames, height, width) = LTXConditionPipeline, noisy.shape[2:]
    tokens, coords = pipe._pack_latents(noisy), _coords(noisy, geometry, 0)
    # One level a clip where its frames agree: an embedding for each token costs a tenth of a step.
    if timesteps.shape[1] == frames or keyframe is not None:
        timesteps = timesteps.expand(-1, frames).repeat_interleave(height * width, dim=1)
    levels = timesteps
    extra = 0
    if keyframe is not None:
        extra = height * width
        tokens = torch.cat([pipe._pack_latents(keyframe.latent), tokens], dim=1)
        coords = torch.cat([_coords(keyframe.latent, geometry, keyframe.index), coords], dim=2)
        levels = torch.cat([levels.new_zeros(len(levels), extra), levels], dim=1)
    coords[:, 0] = coords[:, 0] / geometry.fps
    out = model(
        hidden_states=tokens,
        encoder_hidden_states=text,
        timestep=levels,
        encoder_attention_mask=mask,
        video_coords=coords,
        return_dict=False,
    )[0]
    unpacked: torch.Tensor = pipe._unpack_latents(out[:, extra:], frames, height, width)
    return unpacked


def _coords(latent: torch.Tensor, geometry: Geometry, index: int) -> torch.Tensor:
    ids = LTXConditionPipeline._prepare_video_ids(len(latent), *latent.shape[2:], device=latent.device)
    scaled: torch.Tensor = LTXConditionPipeline._scale_video_ids(
        ids, geometry.spatial_ratio, geometry.temporal_ratio, index, device=latent.device
    )
    return scaled.float()
