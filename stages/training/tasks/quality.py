"""How good a checkpoint's VAE and upsamplers are, in dB of PSNR, on clips that training never saw.

    python -m stages.training.tasks.quality FOLDER [--clips 32] [--seed 0] [--out FILE.json] [--sheet FILE.png]

Super-resolution is judged through the VAE, over the pixels that moving shapes sweep, pooled over all clips, against
what costs nothing: bicubic enlargement, and blending of neighbouring frames. `ceiling` is decode(encode(truth)).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from stages.core.errors import BadInput
from stages.training.data.batches import Frames, Source, clip_seed, load_source, to_video
from stages.training.data.sheets import write_sheet
from stages.training.latents import decode, encode
from stages.training.settings import Bucket
from stages.training.tasks.base import to_frames
from stages.training.tasks.models import load_part
from stages.training.tasks.raising import upsample

SWEPT = 24
"""A pixel is swept where the brightest and the darkest of its values over the clip lie so far apart, of 255."""

BASE = Bucket(width=128, height=128, frames=17, fps=8)
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Error:
    """Squared errors, pooled."""

    total: float = 0.0
    count: int = 0
    clips: list[float] = field(default_factory=list)

    def add(self, produced: Frames, truth: Frames, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Take frames [F, H, W, 3]; of them the pixels of mask [H, W], where given."""
        squared = (produced.astype(np.float32) - truth.astype(np.float32)) ** 2
        selected = squared if mask is None else squared[:, mask]
        if selected.size:
            self.total += float(selected.sum(dtype=np.float64))
            self.count += selected.size
            self.clips.append(to_psnr(float(selected.mean(dtype=np.float64))))

    @property
    def psnr(self) -> float:
        """dB, of all errors pooled."""
        return to_psnr(self.total / self.count) if self.count else float("nan")


def to_psnr(mean_square: float) -> float:
    """dB of a mean squared error of values 0..255; equal frames count as 100 dB."""
    return float(10 * np.log10(255**2 / max(mean_square, 255**2 * 1e-10)))


def swept(frames: Frames) -> npt.NDArray[np.bool_]:
    """The pixels [H, W] that something moves over."""
    low, high = frames.min(axis=0).astype(int), frames.max(axis=0).astype(int)
    return np.asarray((high - low).max(axis=-1) > SWEPT)


def reconstruct(vae: Any, frames: Frames) -> Frames:
    """decode(encode(frames))."""
    with torch.no_grad():
        return to_frames(decode(vae, encode(vae, _video(vae, frames)))[0])


def reconstruction(vae: Any, clips: Iterable[Frames]) -> dict[str, float]:
    """PSNR of reconstructions over whole frames: of all pixels pooled, and the mean and least of single clips."""
    error = Error()
    for frames in clips:
        error.add(reconstruct(vae, frames), frames)
    return {
        "psnr": error.psnr,
        "mean": float(np.mean(error.clips)),
        "least": min(error.clips),
        "clips": len(error.clips),
    }


def spatial_gain(vae: Any, upsampler: Network, pairs: Iterable[tuple[Frames, Frames]]) -> dict[str, float]:
    """PSNR over swept pixels of pairs (low, high): upsampled latents, bicubic of the decoded low clip, and ceiling."""
    model, bicubic, ceiling = Error(), Error(), Error()
    for low, high in pairs:
        mask = swept(high)
        if not mask.any():
            continue
        latents = _encoded(vae, low)
        with torch.no_grad():
            model.add(to_frames(decode(vae, upsample(vae, upsampler, latents))[0]), high, mask)
            small = to_frames(decode(vae, latents)[0])
        size = (high.shape[2], high.shape[1])
        bicubic.add(enlarged(small, size), high, mask)
        ceiling.add(reconstruct(vae, high), high, mask)
    return _compared(model, bicubic, ceiling)


def temporal_gain(vae: Any, upsampler: Network, pairs: Iterable[tuple[Frames, Frames]]) -> dict[str, float]:
    """PSNR over swept pixels of the missing frames of pairs (F frames, 2 F - 1 frames): upsampled latents, blending
    of the decoded neighbours, and ceiling."""
    model, blended, ceiling = Error(), Error(), Error()
    for low, high in pairs:
        mask = swept(high)
        if not mask.any():
            continue
        latents = _encoded(vae, low)
        with torch.no_grad():
            model.add(to_frames(decode(vae, upsample(vae, upsampler, latents))[0])[1::2], high[1::2], mask)
            few = to_frames(decode(vae, latents)[0]).astype(np.float32)
        blended.add(((few[:-1] + few[1:]) / 2).round().astype(np.uint8), high[1::2], mask)
        ceiling.add(reconstruct(vae, high)[1::2], high[1::2], mask)
    return _compared(model, blended, ceiling)


def enlarged(frames: Frames, size: tuple[int, int]) -> Frames:
    """Frames [F, H, W, 3] at another size (width, height), bicubic."""
    return np.stack([np.asarray(cv2.resize(f, size, interpolation=cv2.INTER_CUBIC), np.uint8) for f in frames])


def _compared(model: Error, plain: Error, ceiling: Error) -> dict[str, float]:
    return {
        "psnr": model.psnr,
        "plain": plain.psnr,
        "gain": model.psnr - plain.psnr,
        "ceiling": ceiling.psnr,
        "clips": len(model.clips),
    }


def _video(vae: Any, frames: Frames) -> torch.Tensor:
    return to_video(frames)[None].to(next(vae.parameters()).device)


def _encoded(vae: Any, frames: Frames) -> torch.Tensor:
    return encode(vae, _video(vae, frames))


def clips_of(source: Source, bucket: Bucket, n: int, seed: int) -> list[Frames]:
    """The first n clips that a seed draws; the same scenes in every size."""
    return [source.clip(clip_seed(seed, 0x9A1, i), bucket).frames for i in range(n)]


def measure(folder: Path, source: Source, base: Bucket = BASE, n: int = 32, seed: int = 0) -> dict[str, Any]:
    """Every figure of a checkpoint folder: reconstruction at the base and at the final size, both gains."""
    vae = load_part(folder, "vae")
    wide = replace(base, width=base.width * 2, height=base.height * 2)
    final = replace(wide, frames=base.frames * 2 - 1, fps=base.fps * 2)
    sizes = [(name, clips_of(source, bucket, n, seed)) for name, bucket in (("base", base), ("final", final))]
    figures: dict[str, Any] = {"vae": {name: reconstruction(vae, clips) for name, clips in sizes}}
    middle = clips_of(source, wide, n, seed)
    pairs: dict[str, Sequence[tuple[Frames, Frames]]] = {
        "spatial": list(zip(sizes[0][1], middle, strict=True)),
        "temporal": list(zip(middle, sizes[1][1], strict=True)),
    }
    for name, gain in (("spatial", spatial_gain), ("temporal", temporal_gain)):
        if (folder / f"{name}_upsampler").is_dir():
            figures[name] = gain(vae, load_part(folder, f"{name}_upsampler"), pairs[name])
    return figures


def draw(folder: Path, source: Source, path: Path, base: Bucket = BASE, n: int = 4, seed: int = 0) -> Path:
    """A contact sheet of the first clips: the truth, and below it what the VAE makes of it, in both sizes."""
    vae = load_part(folder, "vae")
    final = replace(base, width=base.width * 2, height=base.height * 2, frames=base.frames * 2 - 1, fps=base.fps * 2)
    clips = [c for bucket in (base, final) for c in clips_of(source, bucket, n, seed)]
    return write_sheet([row for c in clips for row in (c, reconstruct(vae, c))], path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure a checkpoint's VAE and upsamplers on held-out clips.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", default="data_prep.world.clips:WorldClips")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    if options.clips < 1:
        raise BadInput("--clips must be at least 1")
    source = load_source(options.source, {"split": "heldout"})
    figures = measure(options.folder, source, n=options.clips, seed=options.seed)
    if options.sheet:
        draw(options.folder, source, options.sheet, seed=options.seed)
    text = json.dumps(figures, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
