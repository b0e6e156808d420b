"""LTX-Video (0.9.5 and later) through diffusers' LTXConditionPipeline and LTXLatentUpsamplePipeline.

Base and refine both use LTXConditionPipeline, so text is encoded its way only: the attention mask goes into T5, which
makes a token's embedding independent of the padding after it. (LTXPipeline leaves the mask out; its embeddings differ.)
This module imports no torch: sizes can be checked while planning. `models` and its neighbours hold what runs.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import NO_LORA
from stages.families.ltx.size import check_size, ratios_of

if TYPE_CHECKING:
    from stages.families.ltx.codec import LTXCodec
    from stages.families.ltx.models import LTXDenoiser, LTXTextEncoder
    from stages.families.ltx.upsample import LTXUpsampler


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

    parts = MappingProxyType(
        {
            "checkpoint": ("tokenizer", "text_encoder", "transformer", "vae", "scheduler"),
            "spatial_upsampler": (),
            "temporal_upsampler": (),
        }
    )


FAMILY = LTX()
