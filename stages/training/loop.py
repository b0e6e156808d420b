"""The loop: one for every trainable stage. It knows batches, losses, steps and checkpoints, and no model.

Everything random in a step comes from (seed, step, worker), so a checkpoint needs no generator state and no position
in the data: weights, averages, moments and the number of the step are all, and going on from them is exact on a CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from stages.core.step import never
from stages.training.data.batches import clips_in, stream
from stages.training.data.sheets import write_sheet
from stages.training.export import export
from stages.training.optim import lr_factor, make_optimizers, set_lr
from stages.training.parallel import make_group, whole
from stages.training.process import device_name, find_device, hush, on_signals
from stages.training.progress import Progress, Say
from stages.training.settings import TrainConfig
from stages.training.state import load_state, save_state
from stages.training.tasks.base import Task
from stages.training.tasks.registry import make_task

FAR = 10.0 * 365 * 86400


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: the last step done, whether that ends it, the last loss, the model's folder."""

    step: int
    finished: bool
    loss: float
    model: Path | None


class Trainer:
    """One run: networks, optimizers, averages, and its progress."""

    def __init__(
        self, config: TrainConfig, task: Task | None = None, stop: Callable[[], bool] = never, say: Say | None = None
    ) -> None:
        hush()
        self._stop, self._say = stop, say
        self.config = config
        self.began = time.monotonic()
        self.folder = Path(config.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = find_device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.task = (task or make_task(config, self.folder)).place(self.device)
        self.group = make_group(config, self.task, self.device)
        self.rank, self.world = self.group.rank, self.group.world
        self.params = self.task.parameters_by_name()
        self.optimizers = make_optimizers(list(self.params.items()), config.optim)
        averaged = self.params.values()
        at_once = not self.group.sharded  # torch does not copy lists of tensors that lie in parts
        self.ema = EMAModel(averaged, decay=config.optim.ema, foreach=at_once) if config.optim.ema else None
        about = load_state(self.folder, self.params, self.ema, self.optimizers)
        self.step = int(about.get("step", 0))
        self.seconds_before = float(about.get("seconds", 0.0))
        self.stopped = False

    @property
    def deadline(self) -> float:
        """When to save and leave, by time.monotonic()."""
        return self.began + (self.config.stop_after_s or FAR)

    @property
    def seconds(self) -> float:
        """Training time in all slices."""
        return self.seconds_before + time.monotonic() - self.began

    def run(self) -> Outcome:
        """Train until the last step, the deadline or a signal to stop."""
        with on_signals(self._halt):
            if not self.task.get_ready(self.wants_to_stop):
                return Outcome(self.step, False, math.nan, None)
            return self._train(Progress(self.config, self.folder, self.step, speaks=self.rank == 0, say=self._say))

    def _train(self, progress: Progress) -> Outcome:
        self.task.train()
        for batches in self._batches():
            if self.group.any_of(self.wants_to_stop()):
                break
            progress.add(self.step, *self._update(batches), sum(map(clips_in, batches)) * self.world)
            self.step += 1
            self._after_step(progress)
        return self._leave(progress)

    def _halt(self) -> None:
        self.stopped = True

    def _batches(self) -> Iterator[list[Any]]:
        """The batches of each step that is left."""
        parts, data = self.config.optim.accumulate, self.task.batches(self.rank, self.world)
        found = stream(data, self.step * parts, self.config.max_steps * parts, self.config.data.workers)
        return iter(lambda: [b for _, b in zip(range(parts), found, strict=False)], [])

    def _update(self, batches: list[Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
        """One step of the optimizer over its batches; loss, figures, learning rate."""
        config = self.config
        lr = set_lr(self.optimizers, lr_factor(config.optim, self.step, config.max_steps))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part, batch in enumerate(batches):
            seed = step_seed(config.seed, self.step, self.rank, part)
            torch.manual_seed(seed)  # dropout draws from the global generator
            last = part + 1 == len(batches)
            with self.group.backward(last), self.task.autocast():
                loss, metrics = self.group.model(batch, seed)
                (loss / len(batches)).backward()
            total += loss.detach() / len(batches)
        if config.optim.clip:
            metrics["norm"] = whole(nn.utils.clip_grad_norm_(self.params.values(), config.optim.clip))
        for optimizer in self.optimizers:
            optimizer.step()
        if self.ema is not None:
            self.ema.step(self.params.values())
        return total, metrics, lr

    def _after_step(self, progress: Progress) -> None:
        config, due = self.config, self.step < self.config.max_steps
        if config.sample_every and self.step % config.sample_every == 0 and (self.rank == 0 or self.group.sharded):
            self.draw_samples()
        by_steps = config.save_every_steps and self.step % config.save_every_steps == 0
        by_time = config.save_every_s and progress.since_save() > config.save_every_s
        if due and self.group.any_of(bool(by_steps or by_time)):
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        progress.flush(self.step, self.seconds)
        progress.saved()
        about = {"seconds": self.seconds, "stage": self.config.stage, "seed": self.config.seed}
        save_state(
            self.folder, self.step, self.params, self.ema, self.optimizers, about, self.config.keep,
            self.config.compact, writes=self.rank == 0,
        )  # fmt: skip

    def wants_to_stop(self) -> bool:
        """Whether this worker has a reason to save and leave."""
        return self.stopped or self._stop() or time.monotonic() > self.deadline

    def _leave(self, progress: Progress) -> Outcome:
        self._save(progress)
        finished = self.step >= self.config.max_steps
        model = self._export()
        progress.say(f"{'finished' if finished else 'stopped'} at step {self.step} of {self.config.max_steps}")
        return Outcome(self.step, finished, progress.last_loss, model)

    def _export(self) -> Path | None:
        """The averaged weights as a folder, by the first worker."""
        with self.averaged():
            task = self.group.whole_task(self.params)
            if task is None:
                return None
            with torch.no_grad():
                task.eval().finish()
            return export(task, self.config, self.folder, self.about())

    def about(self) -> dict[str, Any]:
        """What goes into training.json beside the weights."""
        return {
            "stage": self.config.stage,
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "device": device_name(self.device),
            "workers": self.world,
            "torch": torch.__version__,
            "data": self.task.source.identity,
            "config": dataclasses.asdict(self.config),
        }

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the networks hold the averaged weights."""
        if self.ema is None:
            yield
            return
        params = list(self.params.values())
        self.ema.store(params)
        self.ema.copy_to(params)
        try:
            yield
        finally:
            self.ema.restore(params)

    def draw_samples(self) -> Path | None:
        """A contact sheet of what the averaged weights can do, below `samples`."""
        self.task.eval()
        with torch.no_grad(), self.averaged(), self.task.autocast():
            clips = self.task.samples()
        self.task.train()
        if not clips or self.rank:
            return None
        return write_sheet(clips, self.folder / "samples" / f"{self.step:08d}.png")


def train(
    config: TrainConfig, task: Task | None = None, *, stop: Callable[[], bool] = never, say: Say | None = None
) -> Outcome:
    """Train, from the newest checkpoint below `out` where there is one. Within a torch.distributed group, all its
    workers call this; the first one writes. `stop` is asked after every step whether to save and leave; `say` is given
    the lines about progress, which are printed otherwise. Raises BadInput for a config that cannot be trained."""
    return Trainer(config, task, stop, say).run()


def step_seed(seed: int, step: int, rank: int, part: int) -> int:
    """The seed of everything that a step draws outside its data."""
    return int(np.random.default_rng([seed, step, rank, part, 0x57E9]).integers(2**62))
