"""What a task is: it holds the networks and turns a batch into a loss. The training loop knows nothing else of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.training.data.batches import Batch, Frames, all_buckets, clip_seed, load_source, to_video
from stages.training.data.cache import LatentCache
from stages.training.settings import Bucket, TrainConfig
from stages.training.tasks.models import load_part, prepare, start_folder

Metrics = dict[str, torch.Tensor]


class Task(nn.Module):  # type: ignore[misc]
    """The networks of one stage. trained: parts with something to learn; frozen ones are kept out of `parameters`.
    partial: some batches leave some of what is trained without a gradient."""

    partial = False

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.start = start_folder(config.model, folder, config.seed)
        self.buckets = all_buckets(config.data)
        self.source = load_source(config.data.use, config.data.args)
        self.trained = nn.ModuleDict()
        self.frozen: dict[str, Any] = {}
        self.cache: LatentCache | None = None

    def fitted(self, name: str, fit: Callable[[Any], None]) -> Any:
        """Part `name` of the start with the weights that `fit` sets: made once and kept beside the run, since what is
        frozen is in no checkpoint."""
        place = self.folder / "fitted"
        if not (place / name).is_dir():
            part = load_part(self.start, name)
            fit(part)
            building = place.with_name(f".fitted-{os.getpid()}")
            part.save_pretrained(building / name, safe_serialization=True)
            os.replace(building, place)
        return load_part(place, name)

    def adopt(self, trained: Mapping[str, nn.Module], frozen: Mapping[str, Any]) -> None:
        """Take the networks, freeze what is not to be trained, and compile where asked."""
        self.trained.update(trained)
        self.frozen.update(frozen)
        torch.manual_seed(self.config.seed)  # new adapters are drawn from it
        self.trained_names = prepare(trained, self.config.model)
        for part in self.frozen.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        if self.config.model.compile:
            for part in (*self.trained.values(), *self.frozen.values()):
                if isinstance(part, nn.Module):
                    part.compile(dynamic=False)

    def place(self, device: torch.device) -> Task:
        """Move everything to a device, frozen parts as well."""
        self.to(device)
        for name, part in self.frozen.items():
            self.frozen[name] = part.to(device) if isinstance(part, nn.Module) else part
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """What is trained, by `part.name`."""
        return {n: p for n, p in self.trained.named_parameters() if p.requires_grad}

    def forward(self, batch: Batch, seed: int) -> tuple[torch.Tensor, Metrics]:
        """The loss of a batch, and figures for the log. Everything random comes from the seed."""
        raise NotImplementedError

    def samples(self) -> list[Frames]:
        """Clips [F, H, W, 3] that show how far training is, in rows of equal length."""
        return []

    def finish(self) -> None:
        """What is left to do with averaged weights in place, before the networks are written."""

    def batches(self, rank: int, world: int) -> Any:
        """The dataset whose entry `step * accumulate + part` is that batch."""
        raise NotImplementedError

    def get_ready(self, must_stop: Callable[[], bool]) -> bool:
        """Encode the latents that are kept, if any; False where it had to stop first. May go on later."""
        if self.cache is None:
            return True
        workers = self.config.data.workers
        return self.cache.fill(self.frozen["vae"], self.device, must_stop, workers, self.autocast)

    def example(self, number: int, bucket: Bucket) -> tuple[torch.Tensor, str]:
        """Clip `number` of those kept for looking at, [1, 3, F, H, W] on the device, and its caption."""
        clip = self.source.clip(clip_seed(self.config.seed, 0xE8A, number), bucket)
        return to_video(clip.frames)[None].to(self.device), clip.caption

    def autocast(self) -> Any:
        """Mixed precision where the config asks for it: bfloat16, which needs no scaling of losses."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def generator(self, seed: int) -> torch.Generator:
        """A generator on the device."""
        return torch.Generator(self.device).manual_seed(seed)


def to_frames(pixels: torch.Tensor) -> Frames:
    """[3, F, H, W] near -1..1 -> uint8 [F, H, W, 3]."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    frames: Frames = scaled.movedim(0, -1).cpu().numpy()
    return frames
