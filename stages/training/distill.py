"""Few steps from many: a student whose every step does what several guided steps of its teacher do.

Progressive distillation (arXiv 2202.00512) in one round to a fixed grid, with classifier-free guidance built in as in
arXiv 2210.03142, for flow matching: the student's velocity over an interval is the mean of the teacher's along it.
Sample the student with `timesteps`: 1000 * student_levels(...)[:-1], and guidance 1.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from stages.core.errors import BadInput
from stages.training.data import Batch
from stages.training.denoise import DenoiseTask
from stages.training.denoisers import predict
from stages.training.models import load_part
from stages.training.objectives import weighted_error
from stages.training.settings import Bucket, Distillation, TrainConfig
from stages.training.tasks import Metrics


class DistillTask(DenoiseTask):
    """Trains `transformer` against a frozen copy of itself."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        super().__init__(config, folder)
        if config.objective.kind != "flow":
            raise BadInput("distill wants objective.kind=flow: intervals are steps of rectified flow")
        teacher = load_part(self.start, self.name)
        assert isinstance(teacher, nn.Module)
        self.frozen["teacher"] = copy.deepcopy(teacher).requires_grad_(False).eval()

    def forward(self, batch: Batch, seed: int) -> tuple[torch.Tensor, Metrics]:
        """The error of the student's velocity over one interval of its grid."""
        bucket, generator = self.buckets[batch["bucket"]], self.generator(seed)
        clean, _ = self.latents(batch)
        levels = student_levels(self.config.distillation).to(clean.device)
        at = torch.randint(0, len(levels) - 1, (len(clean),), generator=generator, device=clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        noised = self.objective.noise(clean, noise, levels[at])
        given = self.given(clean, bucket, generator)
        start, _ = self.with_given(noised.noisy, clean, noised.timesteps, given, generator)
        text, mask = self.embed(batch["captions"])
        plain = tuple(t.expand(len(clean), *t.shape[1:]) for t in self.embed([""]))
        target = self.walk(start, levels[at], given, (text, mask), plain, bucket)  # type: ignore[arg-type]
        timesteps = noised.timesteps[:, None] * (~given)
        predicted = predict(self.trained[self.name], start, timesteps, text, mask, self.geometry(bucket))
        loss = weighted_error(predicted, target, noised.weight, (~given).float())
        return loss, {"error": loss.detach()}

    @torch.no_grad()
    def walk(
        self,
        start: torch.Tensor,
        level: torch.Tensor,
        given: torch.Tensor,
        text: tuple[torch.Tensor, torch.Tensor],
        plain: tuple[torch.Tensor, torch.Tensor],
        bucket: Bucket,
    ) -> torch.Tensor:
        """The mean guided velocity of the teacher from noise level [B] over one interval of the student."""
        settings = self.config.distillation
        stride = settings.teacher_steps // settings.steps
        both = [torch.cat([a, b]) for a, b in zip(text, plain, strict=True)]
        free = (~given).float()
        x, total = start, torch.zeros_like(start)
        for i in range(stride):
            timesteps = 1000 * (level - i / settings.teacher_steps)[:, None] * free
            doubled = predict(
                self.frozen["teacher"], torch.cat([x, x]), timesteps.repeat(2, 1), *both, self.geometry(bucket)
            )
            wanted, unguided = doubled.float().chunk(2)
            velocity = (unguided + settings.guidance * (wanted - unguided)) * free[:, None, :, None, None]
            x = x - velocity / settings.teacher_steps
            total = total + velocity / stride
        return total


def student_levels(settings: Distillation) -> torch.Tensor:
    """The student's noise levels [steps + 1], 1 to 0."""
    return torch.linspace(1, 0, settings.steps + 1)
