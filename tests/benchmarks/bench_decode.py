"""Peak memory of decoding and encoding 2 s and 10 s of a clip, and what doing it in pieces changes, per kind of VAE.

Every kind is a tiny untrained checkpoint; each clip is decoded by the step `decode`, and encoded by the codec, in a
process of its own, which says the highest resident memory that the kernel saw (VmHWM). ffmpeg is a further process and
not counted.
python -m tests.benchmarks.bench_decode [KIND[,KIND]...] [WIDTHxHEIGHT] [FPS] [decode|encode]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from stages.core.latents.artifacts import put_latent
from stages.core.latents.form import DecodeRecipe, Floats
from stages.core.ledger.storage import Storage
from stages.core.step import Workspace
from stages.core.weights.checkpoint import ModelConfig
from stages.decode import Decode
from stages.families.contract import load_family, load_maker

KINDS: dict[str, tuple[str, str, int]] = {
    "ltx": ("ltx", "", 48),
    "ltx2": ("ltx2", "2.0", 48),
    "wan": ("wan", "t2v", 0),
    "animatediff": ("animatediff", "text-to-video", 0),
    "svd": ("svd", "image-to-video", 8),
}
"""Kind -> its family, the variant of its tiny checkpoint, and `decode.chunk`."""
THIN: dict[str, Any] = {"latent_channels": 8, "vae_encoder": (8,) * 4, "vae_decoder": (8, 16, 32)}
"""The fewest channels of the embedded checkpoint's kind of VAE at ratios of 32 and 8."""
SIZE, FPS = "1920x1088", "24"
LIMIT = 1.3


def checkpoint(kind: str, root: Path) -> ModelConfig:
    """A tiny checkpoint of this kind."""
    family, variant, _ = KINDS[kind]
    folder = root / family
    if family == "ltx":
        from stages.families.untrained import build_untrained
        from tests.stages.conftest import SHAPES

        build_untrained(folder, shape=replace(SHAPES["32x8"], **THIN))
    elif not folder.exists():
        load_maker(family)(folder, variant, 0)
        if thin := thinner(kind):
            thin.save_pretrained(folder / "vae")
    return ModelConfig(family=family, checkpoint=str(folder), device="cpu")


def thinner(kind: str) -> Any:
    """A VAE of the same kind with the fewest channels that its class takes, so that 1080p takes minutes on one core;
    None where the tiny checkpoint has that already (32 channels in `svd`, whose norms have 32 groups)."""
    import diffusers

    torch.manual_seed(0)
    if kind == "wan":  # as in Wan 2.2 5B, whose patches quarter the largest layers
        return diffusers.AutoencoderKLWan(
            base_dim=2, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            patch_size=2, in_channels=12, out_channels=12, is_residual=True, scale_factor_spatial=16,
        )  # fmt: skip
    if kind == "animatediff":
        return diffusers.AutoencoderKL(
            block_out_channels=[4] * 4, down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=1,
            mid_block_add_attention=False,
        )  # fmt: skip
    return None


def config(kind: str, model: ModelConfig) -> Decode.Config:
    """How it is decoded."""
    return Decode.Config(model=model, chunk=KINDS[kind][2], preset="ultrafast")


def noise(codec: Any, frames: int, height: int, width: int) -> Floats:
    """A latent [C, F, h, w] of a VAE, drawn around 0 with its spread."""
    vae = codec.vae
    shape = (
        vae.channels,
        (frames - 1) // vae.temporal_ratio + 1,
        height // vae.spatial_ratio,
        width // vae.spatial_ratio,
    )
    found: Floats = (np.random.default_rng(0).standard_normal(shape) * vae.scale).astype(np.float32)
    return found


def kept(model: ModelConfig, store: Path, seconds: int, size: str, fps: int) -> dict[str, Any]:
    """The row of a latent that lasts so long."""
    codec, frames = load_family(model.family).codec(model), seconds * fps + 1
    width, height = (int(side) for side in size.split("x"))
    spec = codec.vae.spec(
        family=model.family, width=width, height=height, n_frames=frames, fps=float(fps), fps_conditioning=float(fps)
    )
    return put_latent(Workspace(Storage(str(store))), noise(codec, frames, height, width), spec)


def decode_one(kind: str, model: ModelConfig, store: Path, row: dict[str, Any]) -> dict[str, float]:
    """Megabytes at the peak of this process, and at that before it decodes."""
    step = Decode(config(kind, model), Workspace(Storage(str(store))))
    step.setup()
    before = peak()
    step.process({"latent": row, "seed": 0})
    return {"peak": peak(), "before": before}


def encode_one(model: ModelConfig, seconds: int, size: str, fps: int) -> dict[str, float]:
    """`decode_one` of encoding so long a clip, of a picture that moves, drawn as it is asked for."""
    codec = load_family(model.family).codec(model)
    width, height = (int(side) for side in size.split("x"))
    picture = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    before = peak()
    codec.encode_stream(np.roll(picture, number, axis=2) for number in range(seconds * fps + 1))
    return {"peak": peak(), "before": before}


def encode_difference(model: ModelConfig) -> tuple[float, float]:
    """The largest difference that encoding in pieces makes to a latent of 65 frames of 256x192, and its spread."""
    codec = load_family(model.family).codec(model)
    frames = np.random.default_rng(0).integers(0, 256, (65, 192, 256, 3), np.uint8)
    whole = codec.encode(frames)
    return float(np.abs(codec.encode_stream([frames]) - whole).max()), float(whole.std())


def peak() -> float:
    """The highest resident memory of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def difference(model: ModelConfig, chunk: int) -> tuple[int, float]:
    """The largest and the mean difference, of 255, that chunks make to a clip decoded at once, 65 frames of 256x192."""
    codec = load_family(model.family).codec(model)
    latent = noise(codec, 65, 192, 256)
    whole = codec.decode(latent, DecodeRecipe(chunk=65)).astype(int)
    off = np.abs(codec.decode(latent, DecodeRecipe(chunk=chunk)) - whole)
    return int(off.max()), float(off.mean())


def run(*words: str) -> dict[str, float]:
    """One clip in a process of its own."""
    words = (sys.executable, "-m", "tests.benchmarks.bench_decode", *words)
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """One JSON line a figure."""
    if sys.argv[1:2] == ["--one"]:
        kind, folder, store, row = sys.argv[2:6]
        model = ModelConfig(family=KINDS[kind][0], checkpoint=folder, device="cpu")
        print(json.dumps(decode_one(kind, model, Path(store), json.loads(row))))
        return
    if sys.argv[1:2] == ["--encode"]:
        kind, folder, seconds, size, fps = sys.argv[2:7]
        model = ModelConfig(family=KINDS[kind][0], checkpoint=folder, device="cpu")
        print(json.dumps(encode_one(model, int(seconds), size, int(fps))))
        return
    kinds, size, fps, what = [*sys.argv[1:5], *(",".join(KINDS), SIZE, FPS, "")[len(sys.argv[1:5]) :]]
    with tempfile.TemporaryDirectory() as place:
        for kind in kinds.split(","):
            model = checkpoint(kind, Path(place))
            if what != "encode":
                decodes(kind, model, Path(place) / "store", size, int(fps))
            if what != "decode":
                encodes(kind, model, size, int(fps))


def decodes(kind: str, model: ModelConfig, store: Path, size: str, fps: int) -> None:
    """The figures of decoding."""
    chunk = KINDS[kind][2]
    most, mean = difference(model, chunk)
    say(f"decode.{kind}.largest_difference", most, "of 255", mean=round(mean, 4), chunk=chunk)
    rows = (json.dumps(kept(model, store, seconds, size, fps)) for seconds in (2, 10))
    compare(f"decode.{kind}", *(run("--one", kind, model.checkpoint, str(store), row) for row in rows), size, fps)


def encodes(kind: str, model: ModelConfig, size: str, fps: int) -> None:
    """The figures of encoding."""
    most, spread = encode_difference(model)
    say(f"encode.{kind}.largest_difference", most, "of a latent", spread=round(spread, 3))
    found = (run("--encode", kind, model.checkpoint, str(seconds), size, str(fps)) for seconds in (2, 10))
    compare(f"encode.{kind}", *found, size, fps)


def compare(name: str, short: dict[str, float], long: dict[str, float], size: str, fps: int) -> None:
    """One figure of two peaks."""
    more = {"size": size, "fps": fps, "before_mb": round(long["before"])}
    more |= {"peak_2s_mb": round(short["peak"]), "peak_10s_mb": round(long["peak"])}
    say(f"{name}.peak_ratio_10s_to_2s", long["peak"] / short["peak"], "ratio", limit=LIMIT, **more)


def say(figure: str, value: float, unit: str, **more: Any) -> None:
    """One JSON line."""
    print(json.dumps({"figure": figure, "value": float(f"{value:.4g}"), "unit": unit, **more}), flush=True)


if __name__ == "__main__":
    main()
