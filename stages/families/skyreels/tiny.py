"""A tiny checkpoint of SkyReels V2, untrained, for tests."""

from __future__ import annotations

from pathlib import Path

from stages.families.engine.tiny import save_whole, skyreels_v2


def make(folder: Path, variant: str = "diffusion-forcing", seed: int = 0) -> Path:
    """Write one; equal seeds give equal weights. There is one variant."""
    return save_whole(folder, skyreels_v2(seed))
