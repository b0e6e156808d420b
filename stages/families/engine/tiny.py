"""Networks small enough for a test, with seeded random weights: what makers of tiny checkpoints share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from diffusers import (
    AutoencoderKLWan,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from stages.families.load_report import hush

T = TypeVar("T")
BLANK = "▁"


def seeded(make: Callable[[], T], seed: int = 0) -> T:
    """A network in evaluation mode, its weights drawn with a seed of its own."""
    hush()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = make()
        return made.eval()  # type: ignore[no-any-return]


def liven(network: Any, marks: str, seed: int = 0, spread: float = 0.05) -> Any:
    """Draw the weights whose names hold this word anew: what begins at zero hides what it would let through."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if marks in name:
            torch.nn.init.normal_(weight, std=spread, generator=generator)
    return network


def t5_tokenizer(length: int = 512) -> Any:
    """Spells every word in ASCII characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), (BLANK, -2.0)]
    rules = Tokenizer(models.Unigram([*pieces, *((chr(c), -3.0) for c in range(33, 127))], unk_id=2))
    rules.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="always")
    rules.decoder = decoders.Metaspace(replacement=BLANK, prepend_scheme="always")
    rules.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=rules, model_max_length=length, **special)


def umt5_encoder(width: int = 32, seed: int = 0) -> Any:
    """A UMT5 encoder of two layers."""
    config = transformers.UMT5Config(
        vocab_size=128, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    return seeded(lambda: transformers.UMT5EncoderModel(config), seed)


def clip_tokenizer(length: int = 77) -> Any:
    """Spells every word in bytes."""
    chars = list(bytes_to_unicode().values())
    words = [*chars, *(c + "</w>" for c in chars), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=length)


def clip_text(width: int = 32, length: int = 77, seed: int = 0) -> Any:
    """The text half of CLIP, three layers."""
    config = transformers.CLIPTextConfig(
        vocab_size=514, bos_token_id=512, eos_token_id=513, pad_token_id=513, hidden_size=width, projection_dim=width,
        intermediate_size=37, num_attention_heads=4, num_hidden_layers=3, max_position_embeddings=length,
    )  # fmt: skip
    return seeded(lambda: transformers.CLIPTextModel(config), seed)


def clip_vision(kind: Any, width: int, size: int, patch: int, seed: int = 0) -> Any:
    """The picture half of CLIP, three layers."""
    config = transformers.CLIPVisionConfig(
        hidden_size=width, projection_dim=width, num_hidden_layers=3, num_attention_heads=2, image_size=size,
        intermediate_size=37, patch_size=patch,
    )  # fmt: skip
    return seeded(lambda: kind(config), seed)


def save_whole(folder: Path, pipeline: Any, further: Mapping[str, Any] | None = None) -> Path:
    """Write a pipeline as a checkpoint folder, and further networks in folders beside its components, whole or not at
    all. An existing folder is replaced."""
    hush()
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        pipeline.save_pretrained(building, safe_serialization=True)
        for name, network in (further or {}).items():
            network.save_pretrained(building / name, safe_serialization=True)
        os.chmod(building, 0o755)  # mkdtemp makes it private
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def skyreels_v2(seed: int) -> Any:
    """SkyReels V2 with diffusion forcing, which is a family, and one of the pipelines that run whole."""
    return SkyReelsV2DiffusionForcingPipeline(
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
