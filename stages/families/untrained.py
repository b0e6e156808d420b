"""A seeded untrained checkpoint of the same shape as the embedded one: it shows nothing, but it goes the whole way.

python -m stages.families.untrained FOLDER [--seed N]
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import LTXConditionPipeline

from stages.core.config_files import CONFIGS
from stages.core.weights.checkpoint import check_parts
from stages.families.ltx.shape import Shape, make_parts

PARTS = (
    "tokenizer",
    "text_encoder",
    "transformer",
    "vae",
    "scheduler",
    "spatial_upsampler",
    "temporal_upsampler",
)


def world_words() -> list[str]:
    """Every word in the grammar of the procedural world, from configs/world.yaml."""
    text = (CONFIGS / "world.yaml").read_text()
    kept = re.sub(r"#.*|\{[^}]*\}|^\s*\w+:|\w+_\w+", " ", text, flags=re.MULTILINE)
    return sorted({*re.findall(r"[a-z]+", kept), "a", "an", "and", "the", "of", "small", "medium", "large"})


def save_parts(parts: Mapping[str, Any], folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write parts as a checkpoint folder in the diffusers layout, whole or not at all; weights rest in `dtype`.

    parts: tokenizer, text_encoder, transformer, vae, scheduler, spatial_upsampler, temporal_upsampler. An existing
    folder is replaced. Statistics of the latents stay in float32.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write({name: _resting(part, dtype) for name, part in parts.items()}, building)
        check_parts(building, PARTS)
        os.chmod(building, 0o755)  # mkdtemp makes it private
        _swap(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _resting(part: Any, dtype: torch.dtype) -> Any:
    """A copy of a model in the dtype it rests in; the caller's own, which may be in training, stays as it is."""
    if not isinstance(part, torch.nn.Module):
        return part
    resting = copy.deepcopy(part).cpu()
    for tensor in (*resting.parameters(), *(b for n, b in resting.named_buffers() if not n.startswith("latents_"))):
        tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data
    return resting


def _write(parts: Mapping[str, Any], folder: Path) -> None:
    names = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    LTXConditionPipeline(**{name: parts[name] for name in names}).save_pretrained(folder, safe_serialization=True)
    for name in ("spatial_upsampler", "temporal_upsampler"):
        parts[name].save_pretrained(folder / name, safe_serialization=True)


def _swap(building: Path, folder: Path) -> None:
    """A reader sees the old folder or the new one; between the two renames, for an instant, none."""
    old = folder.with_name(f".{folder.name}-old-{os.getpid()}")
    if folder.exists():
        os.rename(folder, old)
    os.rename(building, folder)
    shutil.rmtree(old, ignore_errors=True)


def build_untrained(
    folder: str | Path, seed: int = 0, shape: Shape | None = None, words: Sequence[str] | None = None
) -> Path:
    """Write an untrained checkpoint unless a complete folder is there already; equal arguments give equal bytes.

    Latent statistics are set away from 0 and 1, so that whoever forgets to denormalise sees it.
    """
    folder = Path(folder)
    if folder.is_dir() and all((folder / part).is_dir() for part in PARTS):
        check_parts(folder, PARTS)
        return folder
    transformers.logging.disable_progress_bar()
    parts = make_parts(shape or Shape(), words if words is not None else world_words(), seed)
    generator = torch.Generator().manual_seed(seed)
    channels = parts["vae"].latents_mean.shape
    parts["vae"].latents_mean = torch.rand(channels, generator=generator) - 0.5
    parts["vae"].latents_std = torch.rand(channels, generator=generator) + 0.5
    return save_parts(parts, folder)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a seeded untrained checkpoint.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(build_untrained(given.folder, given.seed))


if __name__ == "__main__":
    main()
