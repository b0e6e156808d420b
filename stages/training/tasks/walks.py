"""A teacher's ways from noise to clips, walked once and kept beside a run: of a step of distillation, its teacher takes
two thirds. Walking goes on where it was cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stages.training.data.batches import ORDER, Batch, clip_seed

WALK = 0x3A1C
TENSORS = ("states", "velocities", "free")
Walk = Callable[[Batch, int], Batch]


class Walks(torch.utils.data.Dataset[Batch]):  # type: ignore[misc]
    """`count` batches of ways: entry i is one of them, each once in a round, every round in another order.

    A batch has `states` and `velocities` [intervals * B, C, F, H, W] float32 (float16 at rest), `free` [B, F], `bucket`
    and `captions`.
    """

    def __init__(self, folder: Path, batches: Any, count: int, seed: int, rank: int = 0) -> None:
        self.folder, self.batches, self.count, self.seed, self.rank = folder, batches, count, seed, rank

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def fill(self, walk: Walk, must_stop: Callable[[], bool]) -> bool:
        """Let the teacher walk what is missing: `walk` takes a batch of clips and a seed. False where it had to stop
        before all was there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in (n for n in range(self.count) if not self._path(n).exists()):
            if must_stop():
                return False
            tensors = walk(self.batches[number], clip_seed(self.seed, WALK, number))
            about = {name: json.dumps(tensors[name]) for name in ("bucket", "captions")}
            building = self.folder / f".{number:05d}-{os.getpid()}"
            save_file({n: tensors[n].half().cpu().contiguous() for n in TENSORS}, building, about)
            os.replace(building, self._path(number))
        return True

    def __getitem__(self, index: int) -> Batch:
        lap, place = divmod(index, self.count)
        order = np.random.default_rng([self.seed, self.rank, lap, ORDER]).permutation(self.count)
        with safe_open(self._path(int(order[place])), framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name).float() for name in TENSORS}
        return {**tensors, **{name: json.loads(about[name]) for name in ("bucket", "captions")}}
