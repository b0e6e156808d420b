"""How the workers of a run share one model: each has all of it (DDP), or each has a part of every weight (FSDP)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from stages.core.errors import BadInput
from stages.training.settings import TrainConfig
from stages.training.tasks.base import Task
from stages.training.tasks.registry import make_task


class Alone:
    """One worker. Also what the groups of several have in common. sharded: no worker has all of the weights, so that
    whatever runs the networks or reads their weights is done by all workers at once."""

    sharded = False

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task, self.device = task, device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.model: Any = task

    def backward(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around a forward and a backward pass; gradients meet in the step's last one."""
        del last
        return contextlib.nullcontext()

    def any_of(self, value: bool) -> bool:
        """Whether any worker says true, so that all leave after the same step."""
        if self.world == 1:
            return value
        flag = torch.tensor([float(value)], device=self.device)
        dist.all_reduce(flag)
        return bool(flag.item())

    def whole_task(self, params: Mapping[str, torch.Tensor]) -> Task | None:
        """A task whose networks hold these weights and can be written, at the first worker; None at the others."""
        del params
        return self.task if self.rank == 0 else None


class Replicas(Alone):
    """Every worker has the whole model; gradients are averaged."""

    def __init__(self, task: Task, device: torch.device) -> None:
        super().__init__(task, device)
        devices = [device] if device.type == "cuda" else None
        self.model = DistributedDataParallel(task, device_ids=devices, find_unused_parameters=task.partial)

    def backward(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self.model.no_sync()


class Shards(Alone):
    """Every worker keeps its part of weights, gradients, moments and averages, and gathers one block at a time.

    Source: PyTorch FSDP (arXiv 2304.11277), its second form, `fully_shard`.
    """

    sharded = True

    def __init__(self, task: Task, device: torch.device) -> None:
        super().__init__(task, device)
        if task.config.optim.name == "muon":
            raise BadInput("parallel=fsdp has no worker with a whole kernel, which muon needs; set optim.name=adamw")
        if task.partial:
            raise BadInput(
                "parallel=fsdp gathers weights at the same moment everywhere, but not every batch uses the "
                "upsamplers; leave them out of model.trainable"
            )
        if device.type == "cuda":
            torch.cuda.set_device(device)
        mesh = init_device_mesh(device.type, (self.world,))
        # A frozen encoder remembers its embeddings: workers would gather it at different times, and wait for ever.
        trained = [m for m in task.trained.values() if any(p.requires_grad for p in m.parameters())]
        self.parts = [called for part in trained for called in _called(part)]
        for part in self.parts:
            for parameter in part.parameters():
                parameter.data = parameter.data.contiguous()  # channels-last kernels cannot be cut
            for block in (*repeated_blocks(part), part):
                fully_shard(block, mesh=mesh)

    @contextlib.contextmanager
    def backward(self, last: bool) -> Iterator[None]:
        for part in self.parts:
            part.set_requires_gradient_sync(last)
        yield

    def whole_task(self, params: Mapping[str, torch.Tensor]) -> Task | None:
        """A second task with the gathered weights, on the CPU: modules in parts cannot be copied or written."""
        gathered = collect(params, self.rank == 0)
        if self.rank:
            return None
        task = make_task(self.task.config, Path(self.task.folder))
        with torch.no_grad():
            for name, parameter in task.parameters_by_name().items():
                parameter.copy_(gathered[name])
        return task


def make_group(config: TrainConfig, task: Task, device: torch.device) -> Alone:
    """The way that this run's workers share the model. Raises BadInput. Replaces parameters: before any optimizer."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Alone(task, device)
    return {"ddp": Replicas, "fsdp": Shards}[config.parallel](task, device)


def _called(part: nn.Module) -> list[nn.Module]:
    """The modules of a network whose forward is called: of a VAE, which has none of use, its encoder and decoder."""
    return list(part.children()) if hasattr(part, "encode") else [part]


def repeated_blocks(part: nn.Module) -> list[nn.Module]:
    """The members of the outermost lists of a network: what is gathered at a time."""
    found: list[nn.Module] = []
    for child in part.children():
        if isinstance(child, nn.ModuleList) and not any(isinstance(b, nn.ModuleList) for b in child):
            found += child
        else:
            found += repeated_blocks(child)
    return found


def collect(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """Whole tensors on the CPU. All workers call it, since parts are gathered; {} for those that do not keep any."""
    found = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor)
        if keep:
            found[name] = gathered.detach().cpu().contiguous()
    return found


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor gathered from all workers, where each has a part of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor as a parameter is: its device and type, and this worker's part of it."""
    placed = tensor.to(parameter.device, parameter.dtype)
    if not isinstance(parameter, DTensor):
        return placed
    return distribute_tensor(placed, parameter.device_mesh, parameter.placements, src_data_rank=None)
