"""The batch of every step, as a pure function of (seed, step, worker): so going on after a kill needs no position."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from stages.core.config import PACKAGES
from stages.core.errors import BadInput
from stages.core.measures.world.words import mirrored
from stages.training.settings import Bucket, Data

Frames = npt.NDArray[np.uint8]
Batch = dict[str, Any]
DRAW, ITEM, ORDER = 0xDA7A, 0xC11F, 0x0DE5  # so that draws for different ends differ


class Clip(Protocol):
    """Frames [F, H, W, 3] uint8 RGB, and what they show."""

    frames: Frames
    caption: str


class Source(Protocol):
    """Where clips come from. identity names its content; length is its number of clips, 0 for one without end."""

    identity: str
    length: int

    def clip(self, seed: int, bucket: Bucket) -> Clip:
        """The clip that a seed draws, in a bucket's size."""

    def caption(self, seed: int, bucket: Bucket, rng: np.random.Generator) -> str:
        """A caption of the clip that a seed draws; another wording each time where there are several."""


def load_source(use: str, args: Mapping[str, Any]) -> Source:
    """The source behind `module:Class`. Raises BadInput for anything outside our packages, or arguments it has not."""
    module, _, name = use.partition(":")
    if not name or not module.startswith(PACKAGES):
        raise BadInput(f"data.use: {use!r} must be `module:Class` inside {' or '.join(p + '*' for p in PACKAGES)}")
    try:
        found = getattr(importlib.import_module(module), name)
        return found(**args)  # type: ignore[no-any-return]
    except (ModuleNotFoundError, AttributeError):
        raise BadInput(f"data.use: there is no {use!r}") from None
    except TypeError as error:
        raise BadInput(f"data.args: {error}") from None


def bucket_at(data: Data, seed: int, step: int) -> tuple[int, Bucket]:
    """The bucket of a step, the same on every worker, and its number (over all phases)."""
    first = 0
    for phase in data.curriculum:
        if phase.until == 0 or step < phase.until or phase is data.curriculum[-1]:
            shares = np.array([b.share for b in phase.buckets])
            rng = np.random.default_rng([seed, step, DRAW])
            index = int(rng.choice(len(shares), p=shares / shares.sum()))
            return first + index, phase.buckets[index]
        first += len(phase.buckets)
    raise AssertionError("the curriculum ends before this step")  # its last phase has no end


def batch_size(data: Data, bucket: Bucket) -> int:
    """Clips of this bucket in a batch: at least one."""
    return max(1, round(bucket.batch * data.scale))


def all_buckets(data: Data) -> list[Bucket]:
    """The buckets of every phase, in order; `bucket_at` counts them so."""
    return [b for phase in data.curriculum for b in phase.buckets]


def clip_seed(seed: int, *position: int) -> int:
    """The seed of one clip at a position, such as (step, worker, number in the batch)."""
    return int(np.random.default_rng([seed, ITEM, *position]).integers(2**62))


def augmented(clip: Clip, rng: np.random.Generator, flip: float, jitter: float) -> tuple[Frames, str]:
    """Frames and caption, mirrored with the given share, and in another brightness and contrast, constant over it."""
    frames, caption = clip.frames, clip.caption
    if rng.random() < flip:
        frames, caption = np.ascontiguousarray(frames[:, :, ::-1]), mirrored(caption)
    if jitter:
        gain, offset = 1 + rng.uniform(-jitter, jitter), 255 * rng.uniform(-jitter, jitter) / 2
        frames = np.clip((frames.astype(np.float32) - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)
    return frames, caption


def to_video(frames: Frames) -> torch.Tensor:
    """uint8 [..., F, H, W, 3] -> float32 [..., 3, F, H, W] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -4).float() / 127.5 - 1


class PixelBatches(torch.utils.data.Dataset[Batch]):  # type: ignore[misc]
    """Batches of frames: index (step, accumulated part) -> {bucket, seeds, frames [B, F, H, W, 3] uint8, captions}."""

    def __init__(self, source: Source, data: Data, seed: int, rank: int = 0, parts: int = 1) -> None:
        self.source, self.data, self.seed, self.rank, self.parts = source, data, seed, rank, parts

    def __getitem__(self, index: int) -> Batch:
        step, part = divmod(index, self.parts)
        number, bucket = bucket_at(self.data, self.seed, step)
        seeds = [clip_seed(self.seed, step, part, self.rank, i) for i in range(batch_size(self.data, bucket))]
        made = [self._one(s, bucket) for s in seeds]
        frames = np.stack([f for f, _ in made])
        return {"bucket": number, "seeds": seeds, "frames": torch.from_numpy(frames), "captions": [c for _, c in made]}

    def _one(self, seed: int, bucket: Bucket) -> tuple[Frames, str]:
        rng = np.random.default_rng([seed, ORDER])
        return augmented(self.source.clip(seed, bucket), rng, self.data.flip, self.data.jitter)


def clips_in(batch: Batch) -> int:
    """How many clips a batch has, whatever it has of them."""
    found = batch.get("low", batch)
    return next(len(found[name]) for name in ("latents", "frames", "free") if name in found)


def stream(batches: Any, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """batches[start], ... batches[stop - 1] in order, prepared ahead by worker processes (0: here, when asked for)."""
    if workers == 0:
        return (batches[i] for i in range(start, stop))
    loader = torch.utils.data.DataLoader(
        batches, batch_size=None, sampler=range(start, stop), num_workers=workers, prefetch_factor=4,
        worker_init_fn=_one_thread, persistent_workers=False, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    return iter(loader)


def _one_thread(_: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
