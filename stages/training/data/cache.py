"""Latents that are encoded once and kept in shards beside a run; encoding goes on where it was cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.training.data.batches import (
    ORDER,
    Batch,
    Source,
    augmented,
    batch_size,
    bucket_at,
    clip_seed,
    stream,
    to_video,
)
from stages.training.latents import encode
from stages.training.settings import Bucket, Data

SHARD_CLIPS = 32
Shard = dict[str, torch.Tensor]


def _form(bucket: Bucket) -> tuple[Any, ...]:
    """What of a bucket its latents depend on: buckets that differ in the rest share them."""
    b = bucket
    return b.width, b.height, b.frames, b.fps, b.crop, b.crop_frames, b.lead_s


class LatentCache:
    """Normalised latents, float16, of `data.cache` clips in every one of these buckets. Clip i shows the same scene in
    all of them, so that they make pairs. `last` is the latent of a clip's last frame as a picture by itself; buckets
    that refine have `raised` as well, which a `raising.Raiser` made."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        data: Data,
        buckets: list[Bucket],
        vae_id: str,
        seed: int,
        raiser: Any = None,
    ) -> None:
        self.source, self.data, self.buckets, self.seed, self.raiser = source, data, buckets, seed, raiser
        self._raised_by = raiser.identity[:8] if raiser else ""
        about = digest(source.identity, vae_id, seed, data.flip, data.jitter)
        self.folder = folder / f"latents-{about[:12]}"
        self._loaded: dict[Path, Shard] = {}
        self._captions: dict[Path, list[str]] = {}

    def n_clips(self, bucket: int) -> int:
        """How many clips of a bucket are kept."""
        wanted = self.buckets[bucket].cache or self.data.cache
        return min(wanted, self.source.length or wanted)

    def _path(self, bucket: int, shard: int) -> Path:
        return self._place(bucket) / f"{shard:05d}.safetensors"

    def _place(self, bucket: int) -> Path:
        form = [f"{v:g}" for v in _form(self.buckets[bucket])]
        return self.folder / "-".join([*form, self._raised_by] if self.buckets[bucket].refines else form)

    def shards(self, bucket: int) -> list[Path]:
        """The files of a bucket; the last one holds what is left."""
        return [self._path(bucket, s) for s in range(-(-self.n_clips(bucket) // SHARD_CLIPS))]

    def _missing(self) -> list[tuple[int, int]]:
        wanted = {p: (b, s) for b in range(len(self.buckets)) for s, p in enumerate(self.shards(b))}
        return [key for path, key in wanted.items() if not path.exists()]

    def fill(self, vae: Any, device: torch.device, must_stop: Callable[[], bool], workers: int, autocast: Any) -> bool:
        """Encode what is missing; False where it had to stop before all was there."""
        missing = self._missing()
        ahead = stream(_Shards(self, missing), 0, len(missing), workers)
        for (bucket, shard), batch in zip(missing, ahead, strict=True):
            if must_stop():
                return False
            with autocast():
                found = self._encoded(vae, bucket, batch, device)
            path = self._path(bucket, shard)
            path.parent.mkdir(parents=True, exist_ok=True)
            building = path.with_name(f".{path.name}-{os.getpid()}")
            save_file(found, building, {"captions": json.dumps(batch["captions"])})
            os.replace(building, path)
        return True

    def _encoded(self, vae: Any, bucket: int, batch: Batch, device: torch.device) -> Shard:
        make = partial(encode, vae)
        found = {k: _made(make, batch[v], device) for k, v in (("latents", "frames"), ("last", "last_frame"))}
        if self.raiser and self.buckets[bucket].refines:
            found["raised"] = _made(partial(self.raiser, vae), batch["frames"], device)
        return found

    def load(self, bucket: int) -> Shard:
        """Everything of one bucket: latents (and raised) [N, C, F, H, W], last [N, C, 1, H, W], float16."""
        place = self._place(bucket)
        if place not in self._loaded:
            paths = self.shards(bucket)
            shards = [_read(p) for p in paths]
            self._loaded[place] = {k: torch.cat([s[k] for s in shards]) for k in shards[0]}
            self._captions[place] = [c for p in paths for c in _captions(p)]
        return self._loaded[place]

    def caption(self, bucket: int, clip: int, rng: np.random.Generator) -> str:
        """A caption of a clip: another wording each time, unless clips were mirrored when they were encoded."""
        self.load(bucket)
        if self.data.flip:
            return self._captions[self._place(bucket)][clip]
        return self.source.caption(self.scene(clip), self.buckets[bucket], rng)

    def scene(self, clip: int) -> int:
        """The seed of clip i, the same in all buckets."""
        return clip_seed(self.seed, clip)


class _Shards(torch.utils.data.Dataset[Batch]):  # type: ignore[misc]
    """The frames of a shard, for worker processes."""

    def __init__(self, cache: LatentCache, keys: list[tuple[int, int]]) -> None:
        self.cache, self.keys = cache, keys

    def __getitem__(self, index: int) -> Batch:
        bucket, shard = self.keys[index]
        numbers = range(shard * SHARD_CLIPS, min((shard + 1) * SHARD_CLIPS, self.cache.n_clips(bucket)))
        made = [self._one(self.cache.scene(i), self.cache.buckets[bucket]) for i in numbers]
        frames = torch.from_numpy(np.stack([f for f, _ in made]))
        return {"frames": frames, "last_frame": frames[:, -1:], "captions": [c for _, c in made]}

    def _one(self, seed: int, bucket: Bucket) -> Any:
        rng = np.random.default_rng([seed, ORDER])
        return augmented(self.cache.source.clip(seed, bucket), rng, self.cache.data.flip, self.cache.data.jitter)


def _made(make: Callable[[torch.Tensor], torch.Tensor], frames: torch.Tensor, device: torch.device) -> torch.Tensor:
    group = 16 if device.type == "cuda" else 1
    parts = [make(to_video(part.numpy()).to(device)) for part in frames.split(group)]
    return torch.cat(parts).half().cpu().contiguous()


def _read(path: Path) -> Shard:
    if not path.exists():
        raise BadInput(f"{path} is missing: encode the latents again (they are made before training starts)")
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _captions(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return [str(c) for c in json.loads((file.metadata() or {}).get("captions", "[]"))]


class LatentBatches(torch.utils.data.Dataset[Batch]):  # type: ignore[misc]
    """Batches out of a cache: {bucket, latents, last, captions}, and `raised` in a bucket that refines; or with `pair`
    {low, high} of the same clips."""

    def __init__(
        self, cache: LatentCache, data: Data, seed: int, rank: int = 0, parts: int = 1, pair: bool = False
    ) -> None:
        self.cache, self.data, self.seed, self.rank, self.parts, self.pair = cache, data, seed, rank, parts, pair
        if data.workers:  # read once, before they start: they share what is in memory by then
            for number in range(len(cache.buckets)):
                cache.load(number)

    def __getitem__(self, index: int) -> Batch:
        step, part = divmod(index, self.parts)
        number, bucket = bucket_at(self.data, self.seed, step)
        rng = np.random.default_rng([clip_seed(self.seed, step, part, self.rank), ORDER])
        picked = rng.integers(0, self.cache.n_clips(number), batch_size(self.data, bucket))
        if self.pair:
            return {"low": self._take(0, picked), "high": self._take(1, picked)}
        captions = [self.cache.caption(number, int(i), rng) for i in picked]
        return {"bucket": number, "captions": captions, **self._take(number, picked)}

    def _take(self, bucket: int, picked: Any) -> Batch:
        return {name: tensor[torch.from_numpy(picked)] for name, tensor in self.cache.load(bucket).items()}
