"""Schedulers by name, the tail of a schedule, and clean latents brought to where it begins."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from stages.core.config_files import nearest
from stages.core.errors import BadInput

SHIFTS = ("shift", "flow_shift")
"""What schedulers call the same number."""


def make_scheduler(own: Any, asked: Mapping[str, Any]) -> Any:
    """The checkpoint's scheduler, or another one with its config, and the settings that are asked for.

    Raises BadInput for a setting that the class does not have: the library would leave it out without a word.
    """
    settings = {k: v for k, v in asked.items() if k != "name"}
    kind = getattr(diffusers, str(asked.get("name") or type(own).__name__))
    known = set(inspect.signature(kind.__init__).parameters) - {"self"}
    for key in settings:
        if key not in known:
            raise BadInput(f"sampling.scheduler.{key}: {kind.__name__} has no such setting; {nearest(key, known)}")
    config = dict(own.config)
    shift = next((config[name] for name in SHIFTS if name in config), None)
    for name in SHIFTS:  # one that is called otherwise would be lost, and the noise levels with it
        if name in known and name not in config and shift is not None:
            config[name] = shift
    if "use_flow_sigmas" in known and type(own).__name__.startswith("FlowMatch"):
        config |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return kind.from_config(config, **settings)


def is_flow(scheduler: Any) -> bool:
    """Whether the scheduler mixes signal and noise as (1 - sigma) x + sigma noise."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas", False))


def noise_levels(scheduler: Any) -> list[float]:
    """The share of noise, 0 to 1, where each step of a schedule that is set begins: the sigma of a flow, else the
    standard deviation of the noise where signal and noise together have 1."""
    count = len(scheduler.timesteps)
    if is_flow(scheduler):
        return [float(s) for s in scheduler.sigmas[:count]]
    if hasattr(scheduler, "sigmas"):
        sigmas = torch.as_tensor(scheduler.sigmas[:count]).double()
        return [float(s) for s in sigmas / (1 + sigmas**2).sqrt()]
    kept = scheduler.alphas_cumprod[scheduler.timesteps.long().cpu()]
    return [float(s) for s in (1 - kept.double()).sqrt()]


def skipped(scheduler: Any, steps: int, level: float, **by: Any) -> int:
    """How many of the steps are left out, so that the rest begins at the highest noise level up to `level`.

    by: what the schedule is set by, beside the number of steps.

    Raises BadInput where even the last step begins above it.
    """
    scheduler.set_timesteps(steps, **by)
    levels = noise_levels(scheduler)
    found = next((i for i, at in enumerate(levels) if at <= level + 1e-6), None)
    if found is None:
        raise BadInput(
            f"the noise level {level:g} lies below the last of {steps} steps, which begins at {levels[-1]:.3g}; raise"
            " the level or the steps"
        )
    return found


def tail(scheduler: Any, skip: int) -> Any:
    """The same scheduler, of whose schedule the first `skip` steps are left out."""
    kind = type(scheduler)

    class Tail(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.set_timesteps)
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            for name in ("timesteps", "sigmas"):
                if hasattr(self, name):
                    setattr(self, name, getattr(self, name)[skip:])

    Tail.__name__ = Tail.__qualname__ = kind.__name__
    return Tail.from_config(scheduler.config)


def renoise(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """`clean`, as the pipeline holds it, at the noise level where the scheduler's timesteps begin."""
    if is_flow(scheduler):  # schedules that run the other way round make the library's own scale_noise wrong
        sigma = float(scheduler.sigmas[0])
        return (1 - sigma) * clean + sigma * noise
    made: torch.Tensor = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
    return made
