"""A tiny checkpoint of Stable Video Diffusion, untrained, for tests."""

from __future__ import annotations

from pathlib import Path

import transformers
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stages.families.engine.tiny import clip_vision, save_whole, seeded


def make(folder: Path, variant: str = "", seed: int = 0) -> Path:
    """Write it; equal seeds give equal weights."""
    vae = seeded(
        lambda: AutoencoderKLTemporalDecoder(
            block_out_channels=[32] * 4, down_block_types=["DownEncoderBlock2D"] * 4, latent_channels=4
        ),
        seed,
    )
    unet = seeded(
        lambda: UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64), layers_per_block=1, sample_size=8, in_channels=8, out_channels=4, num_frames=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=32,
            num_attention_heads=(2, 4), projection_class_embeddings_input_dim=96, addition_time_embed_dim=32,
        ),
        seed + 1,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        sigma_max=700.0, sigma_min=0.002, steps_offset=1, timestep_spacing="leading", timestep_type="continuous",
        use_karras_sigmas=True,
    )  # fmt: skip
    pipeline = StableVideoDiffusionPipeline(
        vae=vae,
        unet=unet,
        scheduler=scheduler,
        image_encoder=clip_vision(transformers.CLIPVisionModelWithProjection, 32, 224, 56, seed + 2),
        feature_extractor=CLIPImageProcessorPil(crop_size=224, size=224),
    )
    return save_whole(folder, pipeline)
