from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SHAPE = {
    "latent_channels": 8, "vae_encoder": [16, 16, 32], "vae_decoder": [16, 32], "text_width": 32, "text_layers": 1,
    "text_heads": 2, "width": 48, "heads": 2, "layers": 2, "upsampler_width": 32,
}  # fmt: skip
LOW = {"width": 32, "height": 32, "frames": 5, "fps": 8.0, "batch": 2}
SMALL_AND_FINAL = [{**LOW, "frames": 9}, {**LOW, "frames": 9, "width": 64, "height": 64, "fps": 16.0}]
OPTIM = {"name": "muon", "lr": 0.003, "muon_lr": 0.01, "warmup": 2, "decay": "constant", "ema": 0.9}


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained checkpoint in the LTX format."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from stages.families.ltx.shape import Shape
    from stages.families.untrained import build_untrained

    shape = Shape(**{k: tuple(v) if isinstance(v, list) else v for k, v in SHAPE.items()})  # type: ignore[arg-type]
    return build_untrained(tmp_path_factory.mktemp("start") / "model", 0, shape)


@pytest.fixture
def settings(start: Path, tmp_path: Path) -> Any:
    """A function that makes the config of a small run: stage, and whatever else."""
    from stages.core.config import merge
    from stages.training.settings import TrainConfig

    def make(stage: str = "vae", buckets: list[dict[str, Any]] | None = None, **more: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "stage": stage, "out": str(tmp_path / "run"), "max_steps": 6, "log_every": 4, "save_every_s": 0,
            "device": "cpu", "data": {"curriculum": [{"buckets": buckets or [LOW]}]}, "optim": OPTIM,
            "model": {"checkpoint": str(start)},
        }  # fmt: skip
        return merge(TrainConfig, [("base", values), ("test", more)])[0]

    return make
