"""A checkpoint of the real format, small enough that a take runs through all stages in a second."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CASCADE = Path(__file__).parents[2] / "configs" / "cascades" / "tiny.yaml"


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint with few channels."""
    from stages.families.ltx.shape import Shape
    from stages.families.untrained import build_untrained

    shape = Shape(
        latent_channels=16, vae_encoder=(16, 32, 32), vae_decoder=(16, 32), text_width=32, text_layers=1, width=48,
        heads=2, layers=1, upsampler_width=32,
    )  # fmt: skip
    return build_untrained(tmp_path_factory.mktemp("checkpoint") / "small", shape=shape)


@pytest.fixture(scope="session")
def training_file(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of the small checkpoint's VAE."""
    config = {
        "stage": "vae",
        "max_steps": 3,
        "log_every": 1,
        "save_every_s": 0,
        "device": "cpu",
        "model": {"checkpoint": str(small_checkpoint)},
        "data": {"curriculum": [{"buckets": [{"width": 32, "height": 32, "frames": 5, "batch": 1}]}]},
    }
    path = tmp_path_factory.mktemp("training") / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def campaign_file(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts x two seeds of 64x64x9 through every stage of the tiny cascade."""
    campaign = {
        "name": "small",
        "prompts": ["a red circle moving left", "a blue square growing on a black background"],
        "seeds": 2,
        "model": {"checkpoint": str(small_checkpoint)},
        "width": 64,
        "height": 64,
        "frames": 9,
        "base": {"sampling": {"steps": 2}},
        "refine": {"sampling": {"steps": 4}},
    }
    path = tmp_path_factory.mktemp("campaign") / "small.yaml"
    path.write_text(yaml.safe_dump(campaign))
    return path
