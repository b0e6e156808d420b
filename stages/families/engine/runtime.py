"""What every stage of every family shares: device, dtype, pinned threads and generators."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import cpu_offload, cpu_offload_with_hook
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
        self.whole: list[Any] = []
        self.turns: list[Any] = []

    def place(self, module: Any, turns: bool = False) -> Any:
        """Put a model on the device, or have it visit there as `model.offload` says; what is no model stays as it is.

        turns: whether it takes turns with other such models of the stage, each called as a whole.
        """
        if not isinstance(module, torch.nn.Module):
            return module
        module.eval().requires_grad_(False)
        if getattr(module, "quantization_method", None) == "bitsandbytes":
            return module  # is on the GPU already, and refuses to be moved
        if self.model.offload == "none" or self.device.type == "cpu":
            return module.to(self.device)
        if self.model.offload == "model" and not turns:
            self.whole.append(module)
        else:
            self.turns += visiting(module, self.model.offload, self.device, self.turns)
        return module

    @contextlib.contextmanager
    def running(self, seed: int) -> Iterator[torch.Generator]:
        """Threads pinned, no gradients, a generator of this seed, and the global one seeded and put back after."""
        with _RUNNING, torch.inference_mode(), torch.random.fork_rng(enabled=True):
            if torch.get_num_threads() != self.model.threads:
                torch.set_num_threads(self.model.threads)
            torch.manual_seed(seed)
            try:
                for module in self.whole:
                    module.to(self.device)
                yield torch.Generator("cpu").manual_seed(seed)
            finally:
                for module in self.whole:
                    module.to("cpu")
                for turn in self.turns:
                    turn.offload()


def visiting(module: Any, how: str, device: torch.device, before: Sequence[Any] = ()) -> list[Any]:
    """Keep a model's weights in host memory, and have them on the device when they are needed: all (`model`), or layer
    by layer (`group`, `sequential`).

    before: what this gave for the models that take turns with it. What it gives is to be offloaded after each clip.
    """
    if how == "group":
        stream = device.type == "cuda"
        apply_group_offloading(module, device, torch.device("cpu"), offload_type="leaf_level", use_stream=stream)
        return []
    if how == "sequential":
        cpu_offload(module, device, offload_buffers=bool(module._parameters))
        return []
    return [cpu_offload_with_hook(module, device, before[-1] if before else None)[1]]


def quiet(pipeline: Any, device: torch.device | None = None) -> Any:
    """A pipeline without a progress bar. device: where it runs; the library would go by where its weights lie, and they
    may only visit there."""
    pipeline.set_progress_bar_config(disable=True)
    if device is not None:
        kind = type(pipeline)
        told = {"__module__": kind.__module__, "_execution_device": property(lambda self: device)}
        pipeline.__class__ = type(kind.__name__, (kind,), told)
    return pipeline
