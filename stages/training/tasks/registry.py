"""The tasks that there are, by the name that a training config gives as its `stage`."""

from __future__ import annotations

from pathlib import Path

from stages.core.errors import BadInput
from stages.training.settings import TrainConfig
from stages.training.tasks.base import Task
from stages.training.tasks.denoise import DenoiseTask
from stages.training.tasks.distill import DistillTask
from stages.training.tasks.upsample import UpsampleTask
from stages.training.tasks.vae import VaeTask

TASKS: dict[str, type[Task]] = {
    "vae": VaeTask,
    "base": DenoiseTask,
    "spatial": UpsampleTask,
    "temporal": UpsampleTask,
    "distill": DistillTask,
}


def make_task(config: TrainConfig, folder: Path) -> Task:
    """The task that a config names. folder: that of the run. Raises BadInput where there is no such task."""
    if config.stage not in TASKS:
        raise BadInput(f"stage is {config.stage!r}; known: {', '.join(TASKS)}")
    return TASKS[config.stage](config, folder)
