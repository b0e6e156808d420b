"""Training the latent upsamplers, on pairs of latents of one scene: smaller and larger, or slower and faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stages.core.errors import BadInput
from stages.training.data.batches import Batch, Frames, PixelBatches, batch_size, clip_seed
from stages.training.data.cache import LatentBatches, LatentCache
from stages.training.latents import decode, denormalise, encode, latents_digest
from stages.training.settings import TrainConfig
from stages.training.start.upsample import start_linear
from stages.training.tasks.base import Metrics, Task, to_frames
from stages.training.tasks.models import load_part
from stages.training.tasks.raising import upsample
from stages.training.tasks.vae import charbonnier, to_video_tensor


class UpsampleTask(Task):
    """Trains `spatial_upsampler` or `temporal_upsampler`, after the config's stage. The curriculum has one phase with
    two buckets: what comes in, what must come out."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.name = f"{config.stage}_upsampler"
        vae_folder = Path(config.model.vae).expanduser() if config.model.vae else self.start
        if len(config.data.curriculum) != 1 or len(self.buckets) != 2:
            raise BadInput("an upsampler's data.curriculum has one phase with two buckets: the lower, then the higher")
        vae = load_part(vae_folder, "vae")
        starts = range(2000, 2000 + config.upsampling.start_clips)
        self.adopt({self.name: self._start(vae, starts)}, {"vae": vae})
        self.gains = channel_gains(self.frozen["vae"], encode(self.frozen["vae"], self.example(0, self.buckets[0])[0]))
        if config.data.cache:
            vae_id = latents_digest(self.frozen["vae"])
            self.cache = LatentCache(folder, self.source, config.data, self.buckets, vae_id, config.seed)

    def _start(self, vae: Any, examples: range) -> Any:
        """The upsampler as it begins: a linear one, fitted to these examples, where there are any."""
        if not examples:
            return load_part(self.start, self.name)
        return self.fitted(self.name, lambda model: start_linear(model, [self._latents_of(vae, i) for i in examples]))

    def _latents_of(self, vae: Any, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Both latents of an example, in VAE space."""
        low, high = (denormalise(vae, encode(vae, self.example(number, b)[0])) for b in self.buckets)
        return low, high

    def batches(self, rank: int, world: int) -> Any:
        """Pairs of latents where they are kept, else pairs of frames."""
        config, parts = self.config, self.config.optim.accumulate
        if self.cache is not None:
            return LatentBatches(self.cache, config.data, config.seed, rank, parts, pair=True)
        return _PairBatches(self.source, config.data, config.seed, rank, parts)

    def pair(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Low and high latents, normalised, float32."""
        latents = []
        for part in (batch["low"], batch["high"]):
            if "latents" in part:
                latents.append(part["latents"].to(self.device, torch.float32, non_blocking=True))
            else:
                latents.append(encode(self.frozen["vae"], to_video_tensor(part["frames"], self.device)))
        return latents[0], latents[1]

    def upsample(self, low: torch.Tensor) -> torch.Tensor:
        """Normalised latents, up by the network."""
        return upsample(self.frozen["vae"], self.trained[self.name], low)

    def forward(self, batch: Batch, seed: int) -> tuple[torch.Tensor, Metrics]:
        """The error of the higher latent, and of the pixels it decodes to where that is asked for."""
        settings, generator = self.config.upsampling, self.generator(seed)
        low, high = self.pair(batch)
        amount = settings.input_noise * torch.rand(len(low), 1, 1, 1, 1, generator=generator, device=low.device)
        upsampled = self.upsample(low + amount * torch.randn(low.shape, generator=generator, device=low.device))
        loss = settings.latent * charbonnier((upsampled - high) * self.gains.to(upsampled.device))
        if settings.pixels:
            with torch.no_grad():
                truth = decode(self.frozen["vae"], high)
            loss = loss + settings.pixels * charbonnier(decode(self.frozen["vae"], upsampled).float() - truth.float())
        with torch.no_grad():
            error = (upsampled - high).square().mean()
        return loss, {"error": error}

    def samples(self) -> list[Frames]:
        """The truth as the VAE shows it, and below it what came of the lower latent."""
        shown, vae = [], self.frozen["vae"]
        for number in range(4):
            low, high = (encode(vae, self.example(number, b)[0]) for b in self.buckets)
            shown += [to_frames(decode(vae, z)[0]) for z in (high, self.upsample(low))]
        return shown


def channel_gains(vae: Any, latents: torch.Tensor, size: float = 0.1) -> torch.Tensor:
    """How much each channel of normalised latents [1, C, F, H, W] moves the pixels, [1, C, 1, 1, 1], mean square 1.

    An error of the latents counts by it, so that the weak channels of fine texture do not outweigh those of layout.
    """
    with torch.no_grad():
        plain, moved = decode(vae, latents).float(), []
        for channel in range(latents.shape[1]):
            changed = latents.clone()
            changed[:, channel] += size
            moved.append((decode(vae, changed).float() - plain).square().mean().sqrt())
    gains = torch.stack(moved).view(1, -1, 1, 1, 1)
    return gains / gains.square().mean().sqrt().clamp(min=1e-8)


class _PairBatches(PixelBatches):
    """{low, high}: the same clips in the first and in the second bucket's size."""

    def __getitem__(self, index: int) -> Batch:
        step, part = divmod(index, self.parts)
        low, high = self.data.curriculum[0].buckets
        seeds = [clip_seed(self.seed, step, part, self.rank, i) for i in range(batch_size(self.data, low))]
        pair = [[self._one(s, b)[0] for s in seeds] for b in (low, high)]
        frames = [torch.stack([torch.from_numpy(f) for f in side]) for side in pair]
        return {"low": {"frames": frames[0]}, "high": {"frames": frames[1]}}
