"""Stable Video Diffusion through StableVideoDiffusionPipeline: a picture becomes a clip; there is no text.

Noise is added to the picture's pixels before they are encoded, so what is seen depends on the seed. The VAE's latent of
the picture is used as it is, without its scaling factor; embeddings of the picture are doubled under guidance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from stages.core.weights.checkpoint import ModelConfig
from stages.families.engine.family import EngineFamily
from stages.families.engine.variant import Call, Variant, check_index
from stages.families.offers import Accepts, Knob, Offers, SizeRule, Weights, check_parts_known

PIPELINE = "StableVideoDiffusionPipeline"
PARTS: Mapping[str, Weights] = MappingProxyType(
    {
        "see": {"checkpoint": ("image_encoder", "feature_extractor", "vae")},
        "denoise": {"checkpoint": ("unet", "scheduler", "vae")},
        "decode": {"checkpoint": ("vae",)},
    }
)
KNOBS = MappingProxyType(
    {
        "motion_bucket": Knob(default=127, low=0, high=1000, whole=True, help="how much moves: more is more"),
        "guidance_first": Knob(default=1, low=0, high=100, help="guidance of the first frame; it rises to `guidance`"),
        "noise_aug": Knob(default=0.02, low=0, high=10, role="see", help="noise on the picture; more moves more"),
    }
)


class SVD(EngineFamily):
    """The adapter."""

    name = "svd"
    kinds = MappingProxyType({"still": "", "source": ""})
    makers = ("image-to-video",)

    def variant(self, model: ModelConfig) -> Variant:
        """There is one; how many frames it makes by default is in the denoiser's config."""
        check_parts_known(self.name, model, ())
        check_index(self.name, model, (PIPELINE,))
        unet, vae = model.read_part("unet"), model.read_part("vae")
        ratio = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
        halved = len(unet.get("down_block_types", (0,) * 4)) - 1  # what is halved so often must be whole
        return Variant(
            pipeline=PIPELINE,
            denoise=("unet", "scheduler"),
            see=("image_encoder", "feature_extractor"),
            looks=("_encode_image",),
            layout="BFCHW",
            scales=True,
            encodes=("still",),
            bind=_bind,
            offers=Offers(
                size=SizeRule(step=ratio * 2**halved),
                parts=PARTS,
                accepts={
                    "still": Accepts(roles=("first",), least=1),
                    "source": Accepts(heeds=("level",), must=("level",)),
                },
                knobs=KNOBS,
                schedulers=("EulerDiscreteScheduler",),
                defaults={
                    "width": 1024,
                    "height": 576,
                    "frames": int(unet.get("num_frames", 14)),
                    "fps": 7.0,
                    "guidance": 3.0,
                },
                draws=("see", "denoise"),
                sees=("frames",),
                decodes=("chunk",),
                refines_after=True,
                lora=(),
            ),
        )

    def look(self, answer: Any, arguments: Sequence[Any]) -> Any:
        """The embedding, behind one of zeros where there is guidance."""
        import torch

        guided = arguments[3]
        return torch.cat([torch.zeros_like(answer), answer]) if guided else answer


def _bind(call: Call) -> dict[str, Any]:
    return {
        "image": call.pictures(call.of("still")[0])[0],
        "fps": call.shot.fps,
        "motion_bucket_id": int(call.knobs["motion_bucket"]),
        "noise_aug_strength": float(call.knobs["noise_aug"]),
        "min_guidance_scale": float(call.knobs["guidance_first"]),
        "max_guidance_scale": 3.0 if call.sampling.guidance is None else call.sampling.guidance,
    }


FAMILY = SVD()
