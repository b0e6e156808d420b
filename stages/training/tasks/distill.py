"""Few steps from many: a student whose every step does what several guided steps of its teacher do.

Progressive distillation (arXiv 2202.00512) in one round to a fixed grid, with classifier-free guidance built in as in
arXiv 2210.03142, for flow matching: the teacher walks from noise to a clip, and over each interval of its way the
student learns the mean velocity. Sample the student with `timesteps`: student_timesteps(...), and guidance 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.training.data.batches import Batch
from stages.training.latents import latents_digest, tensors_digest
from stages.training.settings import Bucket, Distillation, TrainConfig
from stages.training.tasks.base import Metrics
from stages.training.tasks.denoise import DenoiseTask
from stages.training.tasks.denoisers import predict
from stages.training.tasks.models import load_part
from stages.training.tasks.objectives import noise_grid, weighted_error
from stages.training.tasks.walks import TENSORS, Walks

Text = tuple[torch.Tensor, torch.Tensor]


class DistillTask(DenoiseTask):
    """Trains `transformer` against a frozen copy of itself."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        super().__init__(config, folder)
        if config.objective.kind != "flow":
            raise BadInput("distill needs objective.kind=flow: intervals are steps of rectified flow")
        self.grid = noise_grid(config.distillation.teacher_steps, config.objective.shift)
        self.stride = config.distillation.teacher_steps // config.distillation.steps
        self.frozen["teacher"] = load_part(self.start, self.name).requires_grad_(False).eval()

    def get_ready(self, must_stop: Callable[[], bool]) -> bool:
        """Encode the latents that are kept, and walk the ways that are."""
        if not super().get_ready(must_stop):
            return False
        kept = self._walks(0, 1)
        return kept is None or kept.fill(self.way, must_stop)

    def batches(self, rank: int, world: int) -> Any:
        """Ways where they are kept, else clips."""
        return self._walks(rank, world) or super().batches(rank, world)

    def _walks(self, rank: int, world: int) -> Walks | None:
        config, count = self.config, self.config.distillation.kept
        if not count:
            return None
        weights = tensors_digest(self.frozen["teacher"].state_dict()), latents_digest(self.frozen["vae"])
        settings = config.objective, replace(config.distillation, kept=0), replace(config.data, workers=0)
        about = digest(*weights, self.source.identity, config.seed, *settings)
        return Walks(self.folder / f"walks-{about[:12]}", super().batches(0, 1), count, config.seed, rank)

    def forward(self, batch: Batch, seed: int) -> tuple[torch.Tensor, Metrics]:
        """The error of the student's velocity over every interval of its grid."""
        way = batch if "velocities" in batch else self.way(batch, seed)
        states, velocities, free = (way[name].to(self.device) for name in TENSORS)
        n = self.config.distillation.steps
        text, mask = self.embed(batch["captions"])
        levels = torch.tensor(self.grid[: -1 : self.stride], device=self.device).repeat_interleave(len(free))
        predicted = predict(
            self.trained[self.name],
            states,
            1000 * levels[:, None] * free.repeat(n, 1),
            text.repeat(n, 1, 1),
            mask.repeat(n, 1),
            self.geometry(self.buckets[batch["bucket"]]),
        )
        loss = weighted_error(predicted, velocities, torch.ones_like(levels), free.repeat(n, 1))
        return loss, {"error": loss.detach()}

    def way(self, batch: Batch, seed: int) -> Batch:
        """The teacher's ways for a batch of clips, some of whose frames are given, as `Walks` keeps them."""
        generator, bucket = self.generator(seed), self.buckets[batch["bucket"]]
        with torch.no_grad(), self.autocast():
            clean, _ = self.latents(batch)
            is_clean = self.clean_frames(clean, self.starts_clean(bucket, seed), generator)
            noise = torch.randn(clean.shape, generator=generator, device=clean.device)
            start = torch.where(is_clean[:, None, :, None, None], clean, noise)
            text, plain = self.embed(batch["captions"]), self.embed([""])
            free = (~is_clean).float()
            states, velocities = self.walk(
                start, free, text, tuple(t.expand(len(clean), *t.shape[1:]) for t in plain), bucket
            )
        way = {"states": states, "velocities": velocities, "free": free}
        return {"bucket": batch["bucket"], "captions": batch["captions"], **way}

    def walk(
        self, start: torch.Tensor, free: torch.Tensor, text: Text, plain: Text, bucket: Bucket
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's guided way from noise [B, C, F, H, W]: its states where an interval of the student begins, and
        its mean velocities there, interval after interval [steps * B, ...]. free [B, F] is 0 for frames given clean."""
        states, velocities, x = [], [], start
        for first in range(0, self.config.distillation.teacher_steps, self.stride):
            levels = self.grid[first : first + self.stride + 1]
            states.append(x)
            for now, after in pairwise(levels):
                x = x + (after - now) * self.velocity(x, now, free, text, plain, bucket)
            velocities.append((states[-1] - x) / (levels[0] - levels[-1]))
        return torch.cat(states), torch.cat(velocities)

    def velocity(
        self, x: torch.Tensor, sigma: float, free: torch.Tensor, text: Text, plain: Text, bucket: Bucket
    ) -> torch.Tensor:
        """The teacher's guided velocity at one noise level, 0 in frames that are given."""
        both = [torch.cat(pair) for pair in zip(text, plain, strict=True)]
        timesteps = (1000 * sigma * free).repeat(2, 1)
        with torch.no_grad():
            out = predict(
                self.frozen["teacher"], torch.cat([x, x]), timesteps, both[0], both[1], self.geometry(bucket)
            ).float()
        conditional, unconditional = out.chunk(2)
        guided = unconditional + self.config.distillation.guidance * (conditional - unconditional)
        return guided * free[:, None, :, None, None]


def student_timesteps(settings: Distillation, shift: float = 1.0) -> list[float]:
    """The timesteps that the student is sampled at, 1000 downwards; the step to 0 is the last one's."""
    return [1000 * level for level in noise_grid(settings.steps, shift)[:-1]]
