"""Tiny checkpoints of LTX-2 and LTX-2.3, untrained, for tests. Ratios and rates are those of the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE

from stages.families.engine.tiny import BLANK, liven, save_whole, seeded

WIDTH, LAYERS, CHANNELS, MELS = 16, 2, 4, 8


def make(folder: Path, variant: str = "2.0", seed: int = 0) -> Path:
    """Write one; equal seeds give equal weights. variant: 2.0 or 2.3."""
    newer = variant == "2.3"
    pipeline = LTX2Pipeline(
        tokenizer=_tokenizer(),
        text_encoder=_encoder(seed),
        connectors=_connectors(newer, seed + 1),
        transformer=_transformer(newer, seed + 2),
        vae=_with_statistics(seeded(_vae, seed + 3), seed),
        audio_vae=_with_statistics(seeded(_audio_vae, seed + 4), seed),
        vocoder=_vocoder(newer, seed + 5),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
            max_image_seq_len=4096, shift_terminal=0.1,
        ),
    )  # fmt: skip
    return save_whole(folder, pipeline)


def _tokenizer() -> Any:
    """Spells every word in ASCII characters."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", BLANK, *(chr(c) for c in range(33, 127))]
    return transformers.GemmaTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=1024)


def _encoder(seed: int) -> Any:
    text = {
        "vocab_size": 128, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 2048,
    }  # fmt: skip
    vision = {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, boi_token_index=125, eoi_token_index=126,
        image_token_index=127,
    )  # fmt: skip
    return seeded(lambda: transformers.Gemma3ForConditionalGeneration(config), seed)


def _connectors(newer: bool, seed: int) -> Any:
    shape: dict[str, Any] = {"caption_channels": WIDTH, "text_proj_in_factor": LAYERS + 1, "rope_type": "split"}
    for name, heads in (("video", 4), ("audio", 2 if newer else 4)):
        shape |= {
            f"{name}_connector_num_attention_heads": heads, f"{name}_connector_attention_head_dim": 4,
            f"{name}_connector_num_layers": 1, f"{name}_connector_num_learnable_registers": 128,
            f"{name}_gated_attn": newer,
        }  # fmt: skip
    if newer:
        shape |= {"per_modality_projections": True, "video_hidden_dim": 16, "audio_hidden_dim": 8, "proj_bias": True}
    return seeded(lambda: LTX2TextConnectors(**shape), seed)


def _transformer(newer: bool, seed: int) -> Any:
    more: dict[str, Any] = {}
    if newer:
        names = ("gated_attn", "cross_attn_mod", "audio_gated_attn", "audio_cross_attn_mod", "perturbed_attn")
        more = {**dict.fromkeys(names, True), "use_prompt_embeddings": False}
    made = seeded(
        lambda: LTX2VideoTransformer3DModel(
            in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=8,
            cross_attention_dim=16, audio_in_channels=CHANNELS, audio_out_channels=CHANNELS,
            audio_num_attention_heads=2, audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=LAYERS,
            caption_channels=WIDTH, rope_type="split", **more,
        ),
        seed,
    )  # fmt: skip
    return liven(made, "scale_shift_table", seed, 0.3)


def _vae() -> Any:
    return AutoencoderKLLTX2Video(
        latent_channels=CHANNELS, block_out_channels=(4, 8, 16, 32), decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 4, spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )  # fmt: skip


def _audio_vae() -> Any:
    return AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1, 1, 1), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=MELS
    )


def _vocoder(newer: bool, seed: int) -> Any:
    first = {"in_channels": 2 * MELS, "resnet_kernel_sizes": [3], "resnet_dilations": [[1, 3, 5]]}
    if not newer:
        return seeded(lambda: LTX2Vocoder(**first, hidden_channels=32), seed)
    second = {f"bwe_{name}": value for name, value in first.items()}
    made = seeded(
        lambda: LTX2VocoderWithBWE(
            **first, **second, hidden_channels=64, bwe_hidden_channels=32, num_mel_channels=MELS
        ),
        seed,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in made.named_buffers():
        if name.startswith("mel_stft."):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) * 0.1)
    return made


def _with_statistics(vae: Any, seed: int) -> Any:
    """With statistics away from 0 and 1, so that whoever forgets them sees it."""
    generator = torch.Generator().manual_seed(seed)
    vae.latents_mean = torch.rand(vae.latents_mean.shape, generator=generator) - 0.5
    vae.latents_std = torch.rand(vae.latents_std.shape, generator=generator) + 0.5
    return vae
