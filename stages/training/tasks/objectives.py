"""What a denoiser is asked: how noise enters a latent, what is to be predicted, and how each sample counts.

flow: rectified flow as LTX-Video trains and samples it (x_t = (1 - s) x0 + s n, target n - x0; arXiv 2209.03003,
2501.00103). epsilon and v: denoising diffusion with a DDPM schedule (arXiv 2006.11239, 2202.00512).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import read_json
from stages.families.contract import Sampling
from stages.training.settings import Bucket, Objective

TRAIN_STEPS = 1000


@dataclass
class Noised:
    """noisy [B, C, F, H, W], target like it, timesteps [B] 0..1000, weight [B] of each sample's error."""

    noisy: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    weight: torch.Tensor


def draw_levels(settings: Objective, n: int, bucket: Bucket, generator: torch.Generator) -> torch.Tensor:
    """Noise levels [n], 0 to the bucket's sigma_max; drawn on the generator's device."""
    device, mean = generator.device, settings.mean if bucket.mean is None else bucket.mean
    flat = torch.rand(n, generator=generator, device=device)
    if settings.timesteps == "uniform":
        return flat * bucket.sigma_max
    shaped = compute_density_for_timestep_sampling(
        "logit_normal", n, mean, settings.std, device=str(device), generator=generator
    ).to(device)
    choice = torch.rand(n, generator=generator, device=device) < settings.uniform
    return torch.where(choice, flat, shaped) * bucket.sigma_max


def noise_grid(steps: int, shift: float) -> list[float]:
    """The levels, 1 to 0, between which so many sampling steps go: those of a cascade with `schedule: linear` and this
    shift, which above 1 puts more of them near noise (arXiv 2403.03206, section 5.3.2)."""
    return [*(t / TRAIN_STEPS for t in Sampling(steps=steps, schedule="linear", shift=shift).levels()), 0.0]


class Flow:
    """Flow matching."""

    def noise(self, clean: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> Noised:
        """Mix noise into a latent at levels [B], 0 (clean) to 1 (noise)."""
        sigma = levels.view(-1, 1, 1, 1, 1)
        return Noised((1 - sigma) * clean + sigma * noise, noise - clean, levels * TRAIN_STEPS, torch.ones_like(levels))


class Diffusion:
    """Epsilon or v with a DDPM schedule, weighted by min-SNR where asked."""

    def __init__(self, kind: str, min_snr: float = 0.0, scheduler: DDPMScheduler | None = None) -> None:
        self.kind, self.min_snr = kind, min_snr
        self.scheduler = scheduler or DDPMScheduler(num_train_timesteps=TRAIN_STEPS)

    def noise(self, clean: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> Noised:
        """Add noise at levels [B], 0 to 1, as the schedule's whole timesteps."""
        steps = (levels * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)
        noisy = self.scheduler.add_noise(clean, noise, steps)
        target = noise if self.kind == "epsilon" else self.scheduler.get_velocity(clean, noise, steps)
        return Noised(noisy, target, steps.float(), self._weight(steps))

    def _weight(self, steps: torch.Tensor) -> torch.Tensor:
        """min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v: arXiv 2303.09556, section 3.4."""
        if not self.min_snr:
            return torch.ones(len(steps), device=steps.device)
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(steps.device)
        snr = compute_snr(self.scheduler, steps)
        return snr.clamp(max=self.min_snr) / (snr if self.kind == "epsilon" else snr + 1)


def make_objective(settings: Objective, start: Path) -> Flow | Diffusion:
    """The objective that a config names; epsilon and v with the noise of the checkpoint's own schedule, with which it
    will sample, where that has one. Raises BadInput where it samples with the other prediction."""
    if settings.kind == "flow":
        return Flow()
    path = start / "scheduler" / "scheduler_config.json"
    config = read_json(path) if path.is_file() else {}
    if "beta_start" not in config:
        return Diffusion(settings.kind, settings.min_snr)
    told = {"epsilon": "epsilon", "v": "v_prediction"}[settings.kind]
    if (predicts := config.get("prediction_type", "epsilon")) != told:
        raise BadInput(
            f"objective.kind is {settings.kind}, and the checkpoint's scheduler samples {predicts}: set the same"
        )
    known = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps", "prediction_type")
    own = {k: v for k, v in config.items() if k in known}
    if own.get("num_train_timesteps", TRAIN_STEPS) != TRAIN_STEPS:
        raise BadInput(f"{path}: num_train_timesteps is {own['num_train_timesteps']}; it must be {TRAIN_STEPS}")
    return Diffusion(settings.kind, settings.min_snr, DDPMScheduler(**own))


def draw_clean(n: int, frames: int, generator: torch.Generator) -> torch.Tensor:
    """How many first latent frames of each clip [n] are given clean: of half of them 1, else 2 up to all but one."""
    device = generator.device
    several = torch.randint(2, max(3, frames), (n,), generator=generator, device=device).clamp(max=frames - 1)
    one = torch.rand(n, generator=generator, device=device) < 0.5
    return torch.where(one, torch.ones_like(several), several)


def weighted_error(
    predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, free: torch.Tensor
) -> torch.Tensor:
    """Mean squared error over the frames that had to be predicted. free [B, F] is 1 there, weight [B]."""
    error = (predicted.float() - target.float()).square().mean(dim=(1, 3, 4))
    mask = free * weight[:, None]
    return (error * mask).sum() / free.sum().clamp(min=1)
