"""The figures: known errors have known decibels, and what gains nothing measures as nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from data_prep.world.clips import WorldClips
from stages.training.settings import Bucket
from stages.training.tasks.models import load_part
from stages.training.tasks.quality import Error, measure, spatial_gain, swept, temporal_gain, to_psnr


def test_psnr_of_known_errors():
    truth = np.full((3, 8, 8, 3), 100, np.uint8)
    error = Error()
    error.add(truth + 10, truth)
    error.add(truth, truth)
    assert error.clips == [pytest.approx(28.13, abs=0.01), 100.0]
    assert error.psnr == pytest.approx(to_psnr(50), abs=1e-6)


def test_only_the_swept_pixels_count():
    truth = np.zeros((4, 16, 16, 3), np.uint8)
    truth[:, 4:8, 4:8] = np.array([0, 80, 160, 240])[:, None, None, None]
    mask = swept(truth)
    assert mask.sum() == 16
    error, made = Error(), truth.copy()
    made[:, 12:] = 255
    error.add(made, truth, mask)
    assert error.psnr == 100.0


class Config(dict):
    """A config that says nothing but this."""

    scaling_factor = 1.0


class Perfect(torch.nn.Module):
    """A VAE without compression: its latents are the pixels."""

    def __init__(self):
        super().__init__()
        self.config = Config()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, video):
        from types import SimpleNamespace

        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: video))

    def decode(self, latents, return_dict=True):
        return (latents,)


def test_gains_over_what_costs_nothing():
    vae = Perfect()
    low = WorldClips().clip(12, Bucket(width=64, height=64, frames=5, fps=4)).frames
    wide = WorldClips().clip(12, Bucket(width=128, height=128, frames=5, fps=4)).frames
    fast = WorldClips().clip(12, Bucket(width=64, height=64, frames=9, fps=8)).frames
    assert swept(fast).any()

    def bicubic(z):
        return torch.nn.functional.interpolate(z[0].movedim(0, 1), scale_factor=2, mode="bicubic").movedim(1, 0)[None]

    assert spatial_gain(vae, bicubic, [(low, wide)])["gain"] == pytest.approx(0, abs=1.0)
    truth = torch.from_numpy(fast).movedim(-1, 0)[None] / 127.5 - 1
    found = temporal_gain(vae, lambda z: truth, [(low, fast)])
    assert found["psnr"] > 50
    assert found["gain"] > 10
    assert found["ceiling"] > 50


def test_a_checkpoint_is_measured_whole(start):
    torch.set_num_threads(1)
    base = Bucket(width=32, height=32, frames=5, fps=8)
    found = measure(start, WorldClips(split="heldout"), base, n=3)
    assert found["vae"]["base"]["clips"] == found["vae"]["final"]["clips"] == 3
    assert 0 < found["vae"]["final"]["psnr"] < 20
    for name in ("spatial", "temporal"):
        assert found[name]["psnr"] == pytest.approx(found[name]["plain"] + found[name]["gain"])


def test_loading_a_part_refuses_what_is_no_model(tmp_path):
    from stages.core.errors import BadInput

    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "DDPMScheduler"}))
    (tmp_path / "vae" / "x.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(BadInput, match="not a model of diffusers"):
        load_part(tmp_path, "vae")


@pytest.mark.soak  # import-linter holds the same of our own imports
def test_the_loop_needs_neither_ray_nor_prefect():
    code = "import sys, stages.training.loop, stages.training.__main__, data_prep.world.clips; " \
           "print([m for m in ('ray', 'prefect', 'duckdb') if m in sys.modules])"  # fmt: skip
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
