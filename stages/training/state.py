"""Checkpoints that a killed run goes on from, bit by bit: safetensors and JSON, whole or not there at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from stages.core.errors import BadInput
from stages.training.parallel import collect, like

SHARD_BYTES = 15 << 20  # files of a run stay below 16 MiB, so that they travel
PREFIX = "state-"
Tensors = dict[str, torch.Tensor]


def write_tensors(tensors: Mapping[str, torch.Tensor], folder: Path, stem: str) -> None:
    """Write tensors (on the CPU) to `stem-00.safetensors`, ... of at most SHARD_BYTES; larger ones lie alone."""
    shards: list[Tensors] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= size
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"{stem}-{i:02d}.safetensors")


def read_tensors(folder: Path, stem: str) -> Tensors:
    """All the tensors of `write_tensors`."""
    found: Tensors = {}
    for path in sorted(folder.glob(f"{stem}-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
    return found


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], names: Mapping[int, str], compact: bool) -> Tensors:
    """The moments of every parameter, by `number of optimizer/name of parameter/name of moment`."""
    found: Tensors = {}
    for number, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                half = compact and value.is_floating_point() and value.ndim > 0
                found[f"{number}/{names[id(parameter)]}/{key}"] = value.bfloat16() if half else value
    return found


def load_optimizers(
    optimizers: Sequence[torch.optim.Optimizer], tensors: Tensors, params: Mapping[str, nn.Parameter]
) -> None:
    """Put moments back where `optimizer_tensors` found them."""
    for key, value in tensors.items():
        number, name, moment = key.split("/")
        parameter = params[name]
        # AdamW keeps its count of steps on the CPU.
        placed = value.to(torch.float32) if value.ndim == 0 else like(value, parameter)
        optimizers[int(number)].state[parameter][moment] = placed


def save_state(
    folder: Path,
    step: int,
    params: Mapping[str, nn.Parameter],
    ema: EMAModel | None,
    optimizers: Sequence[torch.optim.Optimizer],
    about: Mapping[str, Any],
    keep: int,
    compact: bool,
    writes: bool = True,
) -> None:
    """Write `state-STEP` below a run's folder: to a hidden name first, flushed, then renamed. Older ones go after.

    All workers of a run call it, since what lies in parts is gathered; `writes` says which of them writes."""
    averages = dict(zip(params, ema.shadow_params, strict=True)) if ema is not None else {}
    moments = optimizer_tensors(optimizers, {id(p): n for n, p in params.items()}, compact)
    kinds = {"weights": params, "ema": averages, "optimizer": moments}
    found = {stem: collect(tensors, writes) for stem, tensors in kinds.items()}
    if not writes:
        return
    ema_step = ema.optimization_step if ema is not None else 0
    _write(folder, step, found, {"step": step, "ema_step": ema_step, **about})
    for old in list_states(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def _write(folder: Path, step: int, tensors: Mapping[str, Tensors], about: Mapping[str, Any]) -> None:
    target = folder / f"{PREFIX}{step:08d}"
    building = folder / f".{target.name}-{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for stem, found in tensors.items():
        if found:
            write_tensors(found, building, stem)
    (building / "state.json").write_text(json.dumps(about, indent=1))
    _flush(building)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(building, target)


def _flush(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def list_states(folder: Path) -> list[Path]:
    """The checkpoints of a run that are whole, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if (p / "state.json").is_file())


def load_state(
    folder: Path, params: Mapping[str, nn.Parameter], ema: EMAModel | None, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Fill weights, averages and moments from the newest checkpoint; {} where there is none.

    Raises BadInput where the checkpoint's parameters are not these: the run's folder belongs to another config.
    """
    states = list_states(folder)
    if not states:
        return {}
    about: dict[str, Any] = json.loads((states[-1] / "state.json").read_text())
    weights = read_tensors(states[-1], "weights")
    shapes = {n: tuple(p.shape) for n, p in params.items()}
    if {n: tuple(t.shape) for n, t in weights.items()} != shapes:
        raise BadInput(f"{states[-1]} holds other parameters than this config trains: take another `out`")
    with torch.no_grad():
        for name, parameter in params.items():
            parameter.copy_(like(weights[name], parameter))
    if ema is not None and (averages := read_tensors(states[-1], "ema")):
        ema.shadow_params = [like(averages[n], p) for n, p in params.items()]
        ema.optimization_step = int(about["ema_step"])
    load_optimizers(optimizers, read_tensors(states[-1], "optimizer"), params)
    return about
