"""Tiny checkpoints of pipelines that run as one step, untrained, for tests: one of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)

from stages.families.engine.tiny import clip_text, clip_tokenizer, save_whole, seeded, skyreels_v2, t5_tokenizer


def make(folder: Path, variant: str = "hunyuan-video", seed: int = 0) -> Path:
    """Write one; equal seeds give equal weights. variant: hunyuan-video or skyreels-v2."""
    return save_whole(folder, skyreels_v2(seed) if variant == "skyreels-v2" else _hunyuan(seed))


def _hunyuan(seed: int) -> Any:
    blocks: dict[str, Any] = {
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 4, "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
        "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4,
    }  # fmt: skip
    llama = transformers.LlamaConfig(
        vocab_size=128, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return HunyuanVideoPipeline(
        text_encoder=seeded(lambda: transformers.LlamaModel(llama), seed),
        tokenizer=t5_tokenizer(1024),
        text_encoder_2=clip_text(8, seed=seed + 1),
        tokenizer_2=clip_tokenizer(),
        vae=seeded(
            lambda: AutoencoderKLHunyuanVideo(
                latent_channels=4, scaling_factor=0.476986, spatial_compression_ratio=8, temporal_compression_ratio=4,
                **blocks,
            ),
            seed + 2,
        ),
        transformer=seeded(
            lambda: HunyuanVideoTransformer3DModel(
                in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
                num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True,
                text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
            ),
            seed + 3,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip
