"""A tiny checkpoint of SkyReels V2, untrained, for tests."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderKLWan,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)

from stages.families.engine.tiny import save_whole, seeded, t5_tokenizer, umt5_encoder


def make(folder: Path, variant: str = "diffusion-forcing", seed: int = 0) -> Path:
    """Write one; equal seeds give equal weights. There is one variant."""
    pipeline = SkyReelsV2DiffusionForcingPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=umt5_encoder(seed=seed),
        vae=seeded(
            lambda: AutoencoderKLWan(
                base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
            ),
            seed + 1,
        ),
        transformer=seeded(
            lambda: SkyReelsV2Transformer3DModel(
                patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
                text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True,
                qk_norm="rms_norm_across_heads", rope_max_seq_len=32, inject_sample_info=True,
            ),
            seed + 2,
        ),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
    )  # fmt: skip
    return save_whole(folder, pipeline)
