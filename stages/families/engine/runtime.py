"""What every stage of every family shares: device, dtype, pinned threads and generators."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from stages.core.weights.checkpoint import ModelConfig
from stages.families.engine.device import find_device
from stages.families.load_report import hush

_RUNNING = threading.RLock()
"""One forward pass at a time in a process: thread counts, pipelines and the global generator are shared."""


class Stage:
    """Device, dtype and threads of one stage's models."""

    def __init__(self, model: ModelConfig) -> None:
        hush()
        self.model = model
        self.dtype: torch.dtype = getattr(torch, model.dtype)
        self.device = find_device(model.device, "model.device")

    def place(self, module: Any) -> Any:
        """Put a model on the device, or have its layers visit it; what is no model stays as it is."""
        if not isinstance(module, torch.nn.Module):
            return module
        module.eval().requires_grad_(False)
        if self.model.offload == "group" and self.device.type != "cpu":
            apply_group_offloading(module, self.device, torch.device("cpu"), offload_type="leaf_level", use_stream=True)
            return module
        return module.to(self.device)

    @contextlib.contextmanager
    def running(self, seed: int) -> Iterator[torch.Generator]:
        """Threads pinned, no gradients, a generator of this seed, and the global one seeded and put back after."""
        with _RUNNING, torch.inference_mode(), torch.random.fork_rng(enabled=True):
            if torch.get_num_threads() != self.model.threads:
                torch.set_num_threads(self.model.threads)
            torch.manual_seed(seed)
            yield torch.Generator("cpu").manual_seed(seed)


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
