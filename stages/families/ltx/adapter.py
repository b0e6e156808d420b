"""LTX-Video (0.9.5 and later) through diffusers' LTXConditionPipeline and LTXLatentUpsamplePipeline.

Base and refine both use LTXConditionPipeline, so text is encoded its way only: the attention mask goes into T5, which
makes a token's embedding independent of the padding after it. (LTXPipeline leaves the mask out; its embeddings differ.)
This module imports no torch: sizes can be checked while planning. `models` and its neighbours hold what runs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import NO_LORA

if TYPE_CHECKING:
    from stages.families.ltx.codec import LTXCodec
    from stages.families.ltx.models import LTXDenoiser, LTXTextEncoder
    from stages.families.ltx.upsample import LTXUpsampler

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


class LTX:
    """The adapter."""

    name = "ltx"

    def check_size(self, model: ModelConfig, width: int, height: int, n_frames: int) -> None:
        """Raise BadInput, naming the nearest size, where this checkpoint's VAE cannot make this one."""
        check_size(width, height, n_frames, ratios_of(model.read_config("vae")))

    def decode_draws(self, model: ModelConfig) -> bool:
        """Whether the VAE is conditioned on a timestep: such a one denoises while it decodes."""
        return bool((model.read_config("vae") or {}).get("timestep_conditioning", False))

    def text(self, model: ModelConfig) -> LTXTextEncoder:
        """Tokenizer and T5 encoder."""
        from stages.families.ltx.models import LTXTextEncoder

        return LTXTextEncoder(model)

    def denoiser(self, model: ModelConfig, lora: LoraConfig = NO_LORA) -> LTXDenoiser:
        """Transformer, adapter and scheduler; of the VAE only its config and its two vectors of latent statistics."""
        from stages.families.ltx.models import LTXDenoiser

        return LTXDenoiser(model, lora)

    def spatial(self, model: ModelConfig) -> LTXUpsampler:
        """The spatial latent upsampler, and the VAE's latent statistics."""
        from stages.families.ltx.upsample import LTXUpsampler

        return LTXUpsampler(model, "spatial_upsampler")

    def temporal(self, model: ModelConfig) -> LTXUpsampler:
        """The temporal latent upsampler, and the VAE's latent statistics."""
        from stages.families.ltx.upsample import LTXUpsampler

        return LTXUpsampler(model, "temporal_upsampler")

    def codec(self, model: ModelConfig) -> LTXCodec:
        """The VAE."""
        from stages.families.ltx.codec import LTXCodec

        return LTXCodec(model)


FAMILY = LTX()
