"""What sizes LTX can make, from the VAE's config. No torch: asked while planning, and by what stands in for the VAE."""

from __future__ import annotations

import math
from typing import Any

from stages.families.offers import SizeRule

RATIOS = (32, 8)
"""Spatial and temporal compression of the published LTX VAEs."""

PIPELINE_MULTIPLE = 32
"""LTXConditionPipeline asks for multiples of 32 whatever the VAE's ratio is."""


def size_rule(ratios: tuple[int, int] = RATIOS) -> SizeRule:
    """Width and height: multiples of 32 and of the VAE's spatial ratio. Frames: k * temporal ratio + 1."""
    return SizeRule(step=math.lcm(PIPELINE_MULTIPLE, ratios[0]), frames=ratios[1])


def ratios_of(vae_config: dict[str, Any] | None) -> tuple[int, int]:
    """Spatial and temporal ratio from a VAE's config, computed as AutoencoderKLLTXVideo does; RATIOS where None."""
    if not vae_config:
        return RATIOS
    scaled = 2 ** sum(map(bool, vae_config.get("spatio_temporal_scaling", (True, True, True, False))))
    spatial = vae_config.get("spatial_compression_ratio") or vae_config.get("patch_size", 4) * scaled
    temporal = vae_config.get("temporal_compression_ratio") or vae_config.get("patch_size_t", 1) * scaled
    return int(spatial), int(temporal)
