"""What sizes LTX can make, from the VAE's config. No torch: asked while planning, and by what stands in for the VAE."""

from __future__ import annotations

import math
from typing import Any

from stages.core.errors import BadInput

RATIOS = (32, 8)
"""Spatial and temporal compression of the published LTX VAEs."""

PIPELINE_MULTIPLE = 32
"""LTXConditionPipeline asks for multiples of 32 whatever the VAE's ratio is."""


def check_size(width: int, height: int, n_frames: int, ratios: tuple[int, int] = RATIOS) -> None:
    """Raise BadInput naming the nearest size, unless pixels and frames are what LTX can make.

    Width and height: multiples of 32 and of the VAE's spatial ratio. Frames: k * temporal ratio + 1.
    """
    step, t = math.lcm(PIPELINE_MULTIPLE, ratios[0]), ratios[1]
    near_w, near_h = (max(step, round(v / step) * step) for v in (width, height))
    near_f = max(0, round((n_frames - 1) / t)) * t + 1
    if (width, height) != (near_w, near_h):
        raise BadInput(
            f"ltx cannot make {width}x{height}: width and height must be multiples of {step};"
            f" the nearest is {near_w}x{near_h}"
        )
    if n_frames != near_f:
        raise BadInput(f"ltx cannot make {n_frames} frames: they must be k * {t} + 1; the nearest is {near_f}")


def ratios_of(vae_config: dict[str, Any] | None) -> tuple[int, int]:
    """Spatial and temporal ratio from a VAE's config, computed as AutoencoderKLLTXVideo does; RATIOS where None."""
    if not vae_config:
        return RATIOS
    scaled = 2 ** sum(map(bool, vae_config.get("spatio_temporal_scaling", (True, True, True, False))))
    spatial = vae_config.get("spatial_compression_ratio") or vae_config.get("patch_size", 4) * scaled
    temporal = vae_config.get("temporal_compression_ratio") or vae_config.get("patch_size_t", 1) * scaled
    return int(spatial), int(temporal)
