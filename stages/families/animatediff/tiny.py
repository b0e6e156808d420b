"""Tiny checkpoints of AnimateDiff, untrained, for tests; a ControlNet or SparseCtrl net lies in `controlnet` beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    SparseControlNetModel,
    UNet2DConditionModel,
)

from stages.families.engine.tiny import clip_text, clip_tokenizer, liven, save_whole, seeded

FLAT = {"block_out_channels": (8, 8), "layers_per_block": 1, "in_channels": 4, "cross_attention_dim": 32}


def make(folder: Path, variant: str = "text-to-video", seed: int = 0) -> Path:
    """Write one; equal seeds give equal weights. variant: text-to-video, controlnet or sparsectrl."""
    vae = seeded(
        lambda: AutoencoderKL(
            block_out_channels=[8] * 4, down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=2,
        ),
        seed,
    )  # fmt: skip
    unet = seeded(
        lambda: UNet2DConditionModel(
            **FLAT, sample_size=8, out_channels=4, norm_num_groups=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        seed + 1,
    )  # fmt: skip
    motion = seeded(
        lambda: MotionAdapter(
            block_out_channels=(8, 8), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=4
        ),
        seed + 2,
    )
    pipeline = AnimateDiffPipeline(
        vae=vae,
        text_encoder=clip_text(seed=seed + 3),
        tokenizer=clip_tokenizer(),
        unet=unet,
        motion_adapter=motion,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False),
    )
    return save_whole(folder, pipeline, _net(variant, seed + 4))


def _net(variant: str, seed: int) -> dict[str, Any]:
    shape = {**FLAT, "conditioning_embedding_out_channels": (8, 8, 8, 8), "norm_num_groups": 1}
    if variant == "controlnet":
        blocks = ("CrossAttnDownBlock2D", "DownBlock2D")
        made = seeded(lambda: ControlNetModel(**shape, down_block_types=blocks), seed)
    elif variant == "sparsectrl":
        blocks = ("CrossAttnDownBlockMotion", "DownBlockMotion")
        more = {"conditioning_channels": 4, "use_simplified_condition_embedding": True}
        made = seeded(lambda: SparseControlNetModel(**shape, **more, down_block_types=blocks), seed)
    else:
        return {}
    return {"controlnet": liven(made, "controlnet", seed, 0.3)}
