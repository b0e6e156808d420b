"""Checkpoints with one thing wrong, made from a sound one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def weights_of(folder: Path, part: str) -> Path:
    """The file with a part's weights."""
    return next((folder / part).glob("*.safetensors"))


def broken(
    sound: Path,
    to: Path,
    part: str,
    tensors: Callable[[Tensors], Tensors] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """A copy of a checkpoint folder, its tensors changed, or its config."""
    shutil.copytree(sound, to)
    if tensors:
        path = weights_of(to, part)
        save_file({k: v.contiguous() for k, v in tensors(load_file(path)).items()}, path, {"format": "pt"})
    if config:
        path = to / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return to


def without(*endings: str) -> Callable[[Tensors], Tensors]:
    """All tensors but those whose names end so."""
    return lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(endings)}


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    """All tensors, a prefix before their names."""
    return lambda tensors: {prefix + k: v for k, v in tensors.items()}


def times(name: str, factor: float) -> Callable[[Tensors], Tensors]:
    """All tensors, one of them multiplied."""
    return lambda tensors: {k: v * factor if k == name else v for k, v in tensors.items()}


def cut_off(path: Path) -> None:
    """Leave the first two thirds of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
