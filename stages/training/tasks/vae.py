"""Training the video VAE: reconstruction without any downloaded perceptual network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from stages.training.data.batches import Batch, Frames, PixelBatches
from stages.training.latents import set_statistics
from stages.training.settings import Bucket, Reconstruction, TrainConfig
from stages.training.start.vae import start_linear
from stages.training.tasks.base import Metrics, Task, to_frames
from stages.training.tasks.models import load_part
from stages.training.tasks.raising import UPSAMPLERS, lift, smaller

STATISTICS_CLIPS = 64


class VaeTask(Task):
    """Trains `vae`, and with it the upsamplers that its latents come through, where `trainable` names them."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        super().__init__(config, folder)
        vae = self.fitted("vae", self._fit) if config.reconstruction.start_clips else load_part(self.start, "vae")
        # Channels last, as the frames come: its norms then copy nothing, and oneDNN is 8 % quicker.
        names = UPSAMPLERS if config.reconstruction.upsampled else ()
        raising = {n: load_part(self.start, n) for n in names}
        self.adopt({"vae": vae.to(memory_format=torch.channels_last_3d), **raising}, {})
        self.partial = any(name.startswith(UPSAMPLERS) for name in self.trained_names)

    def _fit(self, vae: Any) -> None:
        """The linear start."""
        weights, clips = self.config.reconstruction, [b for b in self.buckets if b.frames > 1]
        numbers = range(weights.start_clips)
        start_linear(vae, [self.example(2000 + i, clips[i % len(clips)])[0] for i in numbers], weights.whiten)

    @property
    def vae(self) -> Any:
        """The network."""
        return self.trained["vae"]

    def batches(self, rank: int, world: int) -> PixelBatches:
        """Frames."""
        config = self.config
        return PixelBatches(self.source, config.data, config.seed, rank, config.optim.accumulate)

    def forward(self, batch: Batch, seed: int) -> tuple[torch.Tensor, Metrics]:
        """The weighted losses of one batch, and its PSNR in dB."""
        weights = self.config.reconstruction
        video = to_video_tensor(batch["frames"], self.device)
        ways = self.ways(self.buckets[batch["bucket"]], seed)
        posterior = self.vae.encode(smaller(video, ways)).latent_dist
        mean = self.raised(posterior.mode(), ways)
        noise = torch.randn(mean.shape, generator=self.generator(seed), device=mean.device)
        reconstruction = self.vae.decode(mean + weights.noise * noise).sample.float()
        terms = losses(reconstruction, video, mean.float(), weights)
        if weights.kl:
            terms["kl"] = weights.kl * posterior.kl().mean() / mean[0].numel()
        loss = torch.stack(list(terms.values())).sum()
        with torch.no_grad():
            error = (reconstruction.clamp(-1, 1) - video).square().mean() / 4
            spread = mean.float().std()
        return loss, {"psnr": -10 * torch.log10(error), "spread": spread}

    def ways(self, bucket: Bucket, seed: int) -> tuple[str, ...]:
        """The upsamplers that this batch's latents come through, for a share of the batches of final size and rate."""
        fits = (max(b.width for b in self.buckets) == bucket.width, max(b.fps for b in self.buckets) == bucket.fps)
        known = [n for n, fit in zip(UPSAMPLERS, fits, strict=True) if fit and bucket.frames > 1]
        rng = np.random.default_rng([seed, 0x0B5])
        if not known or rng.random() >= self.config.reconstruction.upsampled:
            return ()
        return (*known,) if rng.random() < 0.5 else (known[int(rng.integers(len(known)))],)

    def raised(self, latents: torch.Tensor, ways: Sequence[str]) -> torch.Tensor:
        """Latents of a smaller or slower video as the upsamplers raise them."""
        for name in ways:
            latents = lift(self.trained[name], latents)
        return latents

    def samples(self) -> list[Frames]:
        """The truth, and below it what the VAE makes of it."""
        shown, longest = [], max(self.buckets, key=lambda b: b.crop_frames or b.frames)
        for number in range(4):
            video, _ = self.example(number, longest)
            reconstruction = self.vae.decode(self.vae.encode(video).latent_dist.mode()).sample
            shown += [to_frames(video[0]), to_frames(reconstruction[0])]
        return shown

    def finish(self) -> None:
        """Measure the latents' mean and spread, which travel with the weights; unless they are the checkpoint's still,
        which other parts of it were trained on."""
        weights = self.config.reconstruction
        if not weights.start_clips and not any(name.startswith("vae.encoder.") for name in self.trained_names):
            return
        whole = [b for b in self.buckets if not b.crop] or self.buckets
        videos = [self.example(1000 + i, whole[i % len(whole)])[0] for i in range(STATISTICS_CLIPS)]
        set_statistics(self.vae, videos, shared=weights.start_clips > 0 and weights.whiten < 1)


def to_video_tensor(frames: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 [B, F, H, W, 3] -> float32 [B, 3, F, H, W] in -1..1, converted on the device."""
    return frames.to(device, non_blocking=True).movedim(-1, 1).float() / 127.5 - 1


def losses(reconstruction: torch.Tensor, truth: torch.Tensor, mean: torch.Tensor, weights: Reconstruction) -> Metrics:
    """The weighted terms of the loss; videos [B, 3, F, H, W] in -1..1. Terms with weight 0 are not computed."""
    error = reconstruction - truth
    terms: Metrics = {}
    if weights.charbonnier:
        terms["charbonnier"] = weights.charbonnier * charbonnier(error)
    if weights.mse:
        terms["mse"] = weights.mse * error.square().mean()
    if weights.gradient:
        terms["gradient"] = weights.gradient * gradient_error(error, weights.scales)
    if weights.temporal and reconstruction.shape[2] > 1:
        terms["temporal"] = weights.temporal * charbonnier(error.diff(dim=2))
    if weights.spectrum:
        terms["spectrum"] = weights.spectrum * spectrum_error(reconstruction, truth)
    if weights.norm:
        terms["norm"] = weights.norm * (mean.square() - 1).relu().mean()
    return terms


def charbonnier(error: torch.Tensor, softness: float = 1e-3) -> torch.Tensor:
    """The mean of sqrt(error^2 + softness^2): an absolute error that is smooth at 0 (arXiv 1710.01992)."""
    return (error.square() + softness**2).sqrt().mean()


def gradient_error(error: torch.Tensor, scales: int) -> torch.Tensor:
    """Errors of the differences of neighbouring pixels [B, C, F, H, W], at so many sizes, each half the one before."""
    total = error.new_zeros(())
    flat = error.movedim(2, 1).flatten(0, 1)
    for scale in range(scales):
        if min(flat.shape[-2:]) < 2:
            break
        total = total + charbonnier(flat.diff(dim=-1)) + charbonnier(flat.diff(dim=-2))
        if scale + 1 < scales:
            flat = F.avg_pool2d(flat, 2)
    return total / scales


def spectrum_error(reconstruction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The mean difference of the spectra of each frame, which weighs fine detail as much as broad areas."""
    spectra = [torch.fft.rfft2(v.float(), norm="ortho") for v in (reconstruction, truth)]
    return (spectra[0] - spectra[1]).abs().mean()
