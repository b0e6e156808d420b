"""What is decoded and encoded again and again keeps its small parts where the encoder is asked what it missed."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.world.rendering import render
from data_prep.world.scene import load_world, sample_scene
from stages.core.config_files import CONFIGS, ROOT
from stages.core.errors import BadInput
from stages.core.latents.form import DecodeRecipe
from stages.core.measures.world.words import Attributes
from stages.core.weights.checkpoint import ModelConfig
from stages.extend import Extend
from stages.families.back_projection import encode_closely
from stages.families.contract import load_family

RECIPE = DecodeRecipe()


@pytest.fixture(scope="module")
def codec():
    model = ModelConfig(checkpoint=str(ROOT / "stages" / "pretrained" / "world"))
    return load_family("ltx").codec(model)


@pytest.fixture(scope="module")
def star() -> np.ndarray:
    """The last frame of a star that shrank."""
    wanted = Attributes(colour="pink", shape="star", motion="shrinking", background="white")
    scene = sample_scene(3, load_world(str(CONFIGS / "world.yaml")), split="heldout", fixed=wanted)
    return render(scene, 128, 128, 1, 8, scene.duration_s)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((one.astype(float) - other) ** 2).mean()))


def after_passes(codec, frames: np.ndarray, rounds: int, passes: int = 4) -> float:
    """How close frames stay to themselves, in dB, when they are encoded and decoded again and again."""
    seen = frames
    for _ in range(passes):
        seen = codec.decode(encode_closely(codec, seen, RECIPE, rounds), RECIPE)
    return psnr(seen, frames)


def test_small_shapes_outlast_many_passes(codec, star):
    plain, closer = after_passes(codec, star, 0), after_passes(codec, star, 3)
    assert closer > plain + 3
    assert closer > 35


def test_no_rounds_are_the_encoder_alone(codec, star):
    np.testing.assert_array_equal(encode_closely(codec, star, RECIPE, 0), codec.encode(star))


def test_rounds_count_from_none():
    with pytest.raises(BadInput, match=r"back_projections is -1; it must be 0 or more"):
        Extend.Config(back_projections=-1)
