"""Checkpoints of three compression ratios, quick to build, with statistics that cannot be forgotten unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages.core.ledger.storage import Storage
from stages.core.step import Workspace
from stages.core.weights.checkpoint import ModelConfig
from stages.families.ltx.shape import Shape, make_parts, make_vae
from stages.families.untrained import save_parts, world_words
from tests.stages.families_cases import Case, Stages, made

SMALL = {
    "latent_channels": 8,
    "text_width": 32,
    "text_layers": 2,
    "width": 48,
    "heads": 4,
    "layers": 2,
    "upsampler_width": 32,
}
SHAPES = {
    "16x4": Shape(**SMALL, vae_encoder=(16, 32, 64), vae_decoder=(16, 32), vae_layers=(1, 1, 1)),
    "32x8": Shape(**SMALL, vae_encoder=(16, 32, 64, 64), vae_decoder=(16, 32, 64), vae_layers=(1, 1, 1, 1)),
    "8x2": Shape(**SMALL, vae_encoder=(16, 32), vae_decoder=(32,), vae_layers=(1, 1)),
}
SCALING = 0.7


def build(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """A checkpoint whose mean, spread and scaling factor are all far from doing nothing."""
    parts = make_parts(shape, world_words(), seed)
    torch.manual_seed(seed)
    parts["vae"] = make_vae(shape, scaling_factor=SCALING)
    generator = torch.Generator().manual_seed(seed)
    parts["vae"].latents_mean = torch.rand(shape.latent_channels, generator=generator) - 0.5
    parts["vae"].latents_std = 1.5 * torch.rand(shape.latent_channels, generator=generator) + 0.5
    return save_parts(parts, folder, torch.float32)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint folder of a ratio, built once a session."""
    root, made = tmp_path_factory.mktemp("checkpoints"), {}

    def get(ratio: str) -> Path:
        if ratio not in made:
            made[ratio] = build(root / ratio, SHAPES[ratio])
        return made[ratio]

    return get


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def checkpoint(checkpoints: Callable[[str], Path]) -> Path:
    """The checkpoint of ratios 16 and 4."""
    return checkpoints("16x4")


@pytest.fixture
def model(checkpoint: Path) -> ModelConfig:
    """A config that names it."""
    return ModelConfig(checkpoint=str(checkpoint), device="cpu")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh store."""
    return Workspace(Storage(str(tmp_path / "store")))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Stages]:
    """Folder of a case's tiny checkpoint, and its stages, each made once."""
    root, loaded = tmp_path_factory.mktemp("families"), dict[str, Stages]()

    def get(case: Case) -> Stages:
        if case.name not in loaded:
            loaded[case.name] = Stages(case, made(case, root))
        return loaded[case.name]

    return get
