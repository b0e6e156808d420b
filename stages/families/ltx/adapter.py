"""LTX-Video (0.9.5 and later) through diffusers' LTXConditionPipeline and LTXLatentUpsamplePipeline.

Base and refine both use LTXConditionPipeline, so text is encoded its way only: the attention mask goes into T5, which
makes a token's embedding independent of the padding after it. (LTXPipeline leaves the mask out; its embeddings differ.)
This module imports no torch: sizes can be checked while planning. `models` and its neighbours hold what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import NO_LORA
from stages.families.ltx.size import ratios_of, size_rule
from stages.families.offers import Accepts, Offers, Weights, check_parts_known

if TYPE_CHECKING:
    from stages.families.ltx.codec import LTXCodec
    from stages.families.ltx.models import LTXDenoiser, LTXTextEncoder
    from stages.families.ltx.see import LTXSeer
    from stages.families.ltx.upsample import LTXUpsampler

PARTS: Mapping[str, Weights] = MappingProxyType(
    {
        "text": {"checkpoint": ("tokenizer", "text_encoder")},
        "see": {"checkpoint": ("vae",)},
        "denoise": {"checkpoint": ("transformer", "scheduler", "vae")},
        "spatial": {"checkpoint": ("vae",), "spatial_upsampler": ()},
        "temporal": {"checkpoint": ("vae",), "temporal_upsampler": ()},
        "decode": {"checkpoint": ("vae",)},
    }
)

MOST_STILLS = 32  # each but the first is further tokens of the transformer, a latent frame of them


class LTX:
    """The adapter."""

    name = "ltx"

    kinds = MappingProxyType({"still": "", "source": ""})
    strength = "share"
    makers = ()

    def offers(self, model: ModelConfig) -> Offers:
        """Sizes and noise go by the VAE's config; a published checkpoint that is not on this machine has its own."""
        check_parts_known(self.name, model, ())
        vae = model.read_config("vae") or {}
        # A VAE that is conditioned on a timestep denoises while it decodes.
        decodes = ("decode",) if vae.get("timestep_conditioning", False) else ()
        return Offers(
            size=size_rule(ratios_of(vae)),
            parts=PARTS,
            accepts={
                "still": Accepts(roles=("first", "last", "keyframe"), most=MOST_STILLS),
                "source": Accepts(heeds=("level",), must=("level",)),
            },
            sampling=("rescale", "schedule", "shift", "timesteps", "condition_noise"),
            attention="masked",
            quantizes=("transformer",),
            caches=("FirstBlockCache", "PyramidAttentionBroadcast", "TaylorSeerCache", "MagCache"),
            draws=("denoise", *decodes),
            sees=("frames",),
            continues=True,
        )

    def text(self, model: ModelConfig) -> LTXTextEncoder:
        """Tokenizer and T5 encoder."""
        from stages.families.ltx.models import LTXTextEncoder

        return LTXTextEncoder(model)

    def seer(self, model: ModelConfig) -> LTXSeer:
        """The VAE."""
        from stages.families.ltx.see import LTXSeer

        return LTXSeer(model)

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

    def sound(self, model: ModelConfig) -> NoReturn:
        """Its clips are silent."""
        raise BadInput("ltx makes no sound")

    def codec(self, model: ModelConfig) -> LTXCodec:
        """The VAE."""
        from stages.families.ltx.codec import LTXCodec

        return LTXCodec(model)


FAMILY = LTX()
