"""LTX models small enough to ship and to run on a laptop: their shape, and new ones of it with seeded random weights.

Final videos of 256x256, 33 frames at 16 fps are 2,304 tokens; the base take of 128x128, 17 frames at 8 fps is 320.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

SPACE = "\u2581"  # what Metaspace writes for the blank before a word


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of every part. With the defaults: 16x16x4 compression, 10.8M parameters in all, 21.6 MB in half precision.

    Of the VAE, blocks and residual space-to-depth both ways are those of LTX-Video 0.9.5, which learn where the
    plain ones stay at the mean colour. Each decoder block has half the channels of the one before it, the last one a
    share of `vae_last_factor`: what is left there has to carry the edges of a whole patch. `vae_layers` counts the
    residual blocks of each level, the outermost first, `vae_decoder_layers` those of the decoder where it has others.
    Attention heads divide `width`; upsamplers normalise in 32 groups, so their width is a multiple of 32, and a linear
    start (`stages.training.start.upsample`) needs two channels of each group for itself.
    """

    latent_channels: int = 56
    vae_patch: int = 4
    vae_encoder: tuple[int, ...] = (48, 64, 128)
    vae_decoder: tuple[int, ...] = (64, 128)
    vae_last_factor: int = 1
    vae_layers: tuple[int, ...] = (1, 1, 0)
    vae_decoder_layers: tuple[int, ...] = ()
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    max_tokens: int = 64
    width: int = 192
    heads: int = 3
    layers: int = 6
    upsampler_width: int = 128
    upsampler_blocks: int = 0


def make_tokenizer(words: Sequence[str], max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer for T5 that has these words whole, spells every other one in ASCII characters, the rest in bytes.

    It is a generic one, because transformers rebuilds a T5Tokenizer by its own rules on loading.
    Text is lower-cased. Words are so much likelier than characters that a known one is never spelled.
    """
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    known = sorted({w.lower() for w in words})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces += [(f"<0x{b:02X}>", -15.0) for b in range(256)]
    pieces += [(SPACE, -8.0), *((c, -10.0) for c in letters), *((SPACE + w, -1.0) for w in known)]
    rules = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=True))
    rules.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # Commas and full stops are words of their own, so that "circle," is still a circle.
    split = [pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")]
    rules.pre_tokenizer = pre_tokenizers.Sequence(split)
    rules.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement=SPACE)])
    rules.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=rules, model_max_length=max_tokens, **special)


def make_text_encoder(shape: Shape, vocabulary: int) -> T5EncoderModel:
    """A T5 encoder of this shape; its dropout is off."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=shape.text_width,
        d_kv=shape.text_width // shape.text_heads,
        d_ff=2 * shape.text_width,
        num_layers=shape.text_layers,
        num_heads=shape.text_heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5EncoderModel(config).eval()


def make_transformer(shape: Shape) -> LTXVideoTransformer3DModel:
    """An LTX transformer of this shape."""
    return LTXVideoTransformer3DModel(
        in_channels=shape.latent_channels,
        out_channels=shape.latent_channels,
        num_attention_heads=shape.heads,
        attention_head_dim=shape.width // shape.heads,
        cross_attention_dim=shape.width,
        num_layers=shape.layers,
        caption_channels=shape.text_width,
    ).eval()


def make_vae(shape: Shape, scaling_factor: float = 1.0) -> AutoencoderKLLTXVideo:
    """An LTX VAE of this shape, with causal encoder and a decoder that sees both ways."""
    down, up = len(shape.vae_encoder) - 1, len(shape.vae_decoder)
    return AutoencoderKLLTXVideo(
        latent_channels=shape.latent_channels,
        block_out_channels=shape.vae_encoder,
        decoder_block_out_channels=shape.vae_decoder,
        down_block_types=("LTXVideo095DownBlock3D",) * down,
        layers_per_block=shape.vae_layers,
        decoder_layers_per_block=shape.vae_decoder_layers or shape.vae_layers,
        spatio_temporal_scaling=(True,) * down,
        decoder_spatio_temporal_scaling=(True,) * up,
        decoder_inject_noise=(False,) * (up + 1),
        downsample_type=("spatiotemporal",) * down,
        upsample_residual=(True,) * up,
        upsample_factor=(shape.vae_last_factor, *(2,) * (up - 1)),
        patch_size=shape.vae_patch,
        patch_size_t=1,
        scaling_factor=scaling_factor,
    ).eval()


def make_upsampler(shape: Shape, *, temporal: bool) -> LTXLatentUpsamplerModel:
    """A latent upsampler of this shape, in space or in time."""
    return LTXLatentUpsamplerModel(
        in_channels=shape.latent_channels,
        mid_channels=shape.upsampler_width,
        num_blocks_per_stage=shape.upsampler_blocks,
        spatial_upsample=not temporal,
        temporal_upsample=temporal,
    ).eval()


def make_parts(shape: Shape, words: Sequence[str], seed: int) -> dict[str, Any]:
    """Every part by the name of its folder, each drawn from a generator of its own, so that none depends on another."""
    tokenizer = make_tokenizer(words, shape.max_tokens)
    makers = {
        "text_encoder": lambda: make_text_encoder(shape, len(tokenizer)),
        "transformer": lambda: make_transformer(shape),
        "vae": lambda: make_vae(shape),
        "spatial_upsampler": lambda: make_upsampler(shape, temporal=False),
        "temporal_upsampler": lambda: make_upsampler(shape, temporal=True),
    }
    scheduler = FlowMatchEulerDiscreteScheduler()
    parts: dict[str, Any] = {"tokenizer": tokenizer, "scheduler": scheduler}
    for number, (name, make) in enumerate(makers.items()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * len(makers) + number)
            parts[name] = make()  # type: ignore[no-untyped-call]
    return parts
