"""Tiny checkpoints of Wan, untrained, for tests: one of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stages.families.engine.tiny import clip_vision, liven, save_whole, seeded, t5_tokenizer, umt5_encoder


def _network(seed: int, kind: Any = WanTransformer3DModel, **more: Any) -> Any:
    shape = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16,
        "out_channels": 16, "text_dim": 32, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
    }  # fmt: skip
    return seeded(lambda: kind(**{**shape, **more}), seed)


def make(folder: Path, variant: str = "t2v", seed: int = 0) -> Path:
    """Write one; equal seeds give equal weights. variant: t2v, i2v, flf2v, ti2v, ti2v-pictures, vace,
    two-experts or i2v-two-experts, which has no image encoder, as Wan 2.2."""
    vae = seeded(
        lambda: AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ),
        seed,
    )
    parts: dict[str, Any] = {
        "tokenizer": t5_tokenizer(),
        "text_encoder": umt5_encoder(seed=seed + 1),
        "vae": vae,
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }  # fmt: skip
    vision = {
        "image_encoder": clip_vision(transformers.CLIPVisionModel, 4, 32, 8, seed + 2),
        "image_processor": CLIPImageProcessorPil(crop_size=32, size=32),
    }
    looking = {"in_channels": 36, "image_dim": 4}
    more: dict[str, Any] = {}
    if variant == "vace":
        net = _network(seed + 3, WanVACETransformer3DModel, num_layers=3, vace_layers=[0, 2], vace_in_channels=96)
        pipeline: Any = WanVACEPipeline(**parts, transformer=liven(net, "vace_", seed, 0.3))
    elif variant in ("i2v", "flf2v"):
        places = {"pos_embed_seq_len": 2 * 17} if variant == "flf2v" else {}
        pipeline = WanImageToVideoPipeline(**parts, **vision, transformer=_network(seed + 3, **looking, **places))
    elif variant == "i2v-two-experts":
        experts = {f"transformer{end}": _network(seed + n, in_channels=36) for end, n in (("", 3), ("_2", 4))}
        pipeline = WanImageToVideoPipeline(**parts, **experts, boundary_ratio=0.9)
    elif variant == "ti2v-pictures":
        pipeline = WanImageToVideoPipeline(**parts, transformer=_network(seed + 3), expand_timesteps=True)
    else:
        if variant == "two-experts":
            more = {"transformer_2": _network(seed + 4), "boundary_ratio": 0.875}
        elif variant == "ti2v":
            more = {"expand_timesteps": True}
        pipeline = WanPipeline(**parts, transformer=_network(seed + 3), **more)
    return save_whole(folder, pipeline)
