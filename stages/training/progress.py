"""How a run is doing: one JSON line a step in progress.jsonl, and a line with rate and ETA in the terminal."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stages.training.settings import TrainConfig

Say = Callable[[str], None]


class Progress:
    """Collects figures without waiting for the device, and writes them now and then."""

    def __init__(
        self, config: TrainConfig, folder: Path, start: int, speaks: bool = True, say: Say | None = None
    ) -> None:
        self._to = say or _print
        self.config, self.path, self.speaks = config, folder / "progress.jsonl", speaks
        self.last_loss = math.nan
        self._waiting: list[tuple[int, torch.Tensor, dict[str, torch.Tensor], float]] = []
        self._clips = 0
        self._told = self._saved = time.monotonic()
        if speaks:
            self._forget(start)

    def _forget(self, start: int) -> None:
        """Drop the lines of steps after the checkpoint that this run goes on from, and a line cut off by a kill."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] < start:
                    kept.append(line)
            except (ValueError, KeyError):
                continue
        building = self.path.with_suffix(".part")
        building.write_text("".join(f"{line}\n" for line in kept))
        os.replace(building, self.path)

    def add(self, step: int, loss: torch.Tensor, metrics: dict[str, torch.Tensor], lr: float, clips: int) -> None:
        """Take the figures of one step."""
        self._waiting.append((step, loss, metrics, lr))
        self._clips += clips
        if len(self._waiting) >= self.config.log_every:
            self.flush(step + 1, math.nan)

    def flush(self, step: int, _seconds: float) -> None:
        """Write what was taken, and say how it goes. Raises FloatingPointError where a loss is no number any more."""
        if not self._waiting:
            return
        lines, now = [self._line(*entry) for entry in self._waiting], time.monotonic()
        self.last_loss = lines[-1]["loss"]
        if self.speaks:
            with self.path.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        self._tell(step, lines, now)
        self._waiting, self._clips, self._told = [], 0, time.monotonic()
        if not math.isfinite(self.last_loss):
            raise FloatingPointError(f"the loss is {self.last_loss} at step {step}: lower optim.lr, or clip lower")

    def _line(self, step: int, loss: torch.Tensor, metrics: dict[str, torch.Tensor], lr: float) -> dict[str, Any]:
        figures = {name: float(value) for name, value in metrics.items()}
        return {"step": step, "loss": float(loss), "lr": lr, **figures}

    def _tell(self, step: int, lines: list[dict[str, Any]], now: float) -> None:
        spent = max(now - self._told, 1e-6)
        left = (self.config.max_steps - step) * spent / len(lines)
        figures = [k for k in lines[-1] if k not in ("step", "lr")]
        means = " ".join(f"{k} {sum(x.get(k, math.nan) for x in lines) / len(lines):.4f}" for k in figures)
        rate = f"{spent / len(lines):.3f} s/step, {self._clips / spent:.1f} clips/s"
        self.say(f"step {step}/{self.config.max_steps}  {means}  {rate}, {left / 60:.0f} min left")

    def say(self, text: str) -> None:
        """A line for who watches: in the terminal, if not elsewhere."""
        if self.speaks:
            self._to(text)

    def since_save(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self._saved

    def saved(self) -> None:
        """A checkpoint is being written now."""
        self._saved = time.monotonic()


def _print(text: str) -> None:
    print(text, flush=True)


def read_losses(folder: Path) -> list[float]:
    """The loss of every step of a run."""
    return [json.loads(line)["loss"] for line in (folder / "progress.jsonl").read_text().splitlines()]
