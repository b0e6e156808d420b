"""Whether workers fit on nodes: plain arithmetic, in Ray's units (logical CPUs and GPUs, bytes of memory)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stages.core.step import Resources

GB = 1 << 30
_SLACK = 1e-6


@dataclass(frozen=True)
class Need:
    """What one worker asks for. A fraction of a GPU is a share of one card."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory: float = 0.0

    @classmethod
    def of(cls, resources: Resources) -> Need:
        """What one worker of a step asks for."""
        return cls(resources.cpus, resources.gpus, resources.memory_gb * GB)

    def __str__(self) -> str:
        return _text(self.cpus, self.gpus, self.memory)


@dataclass(frozen=True)
class Node:
    """What one machine has, or has left: each GPU by itself, because a share cannot lie on two cards."""

    cpus: float
    gpus: tuple[float, ...]
    memory: float

    @classmethod
    def of(cls, resources: Mapping[str, Any]) -> Node:
        """From Ray's `Resources` of a node."""
        gpus = (1.0,) * int(resources.get("GPU", 0))
        return cls(float(resources.get("CPU", 0)), gpus, float(resources.get("memory", 0)))

    def without(self, need: Need) -> Node | None:
        """What is left once a worker is placed here; None where it does not fit."""
        gpus = _take_gpus(self.gpus, need.gpus)
        if need.cpus > self.cpus + _SLACK or need.memory > self.memory or gpus is None:
            return None
        return replace(self, cpus=self.cpus - need.cpus, gpus=gpus, memory=self.memory - need.memory)

    def __str__(self) -> str:
        return _text(self.cpus, len(self.gpus), self.memory)


def _text(cpus: float, gpus: float, memory: float) -> str:
    return f"{cpus:g} CPU, {gpus:g} GPU, {memory / GB:.3g} GB of memory"


def _take_gpus(free: tuple[float, ...], share: float) -> tuple[float, ...] | None:
    """The cards after `wanted` is taken: whole empty cards, or a share of the fullest one that has room."""
    if share <= 0:
        return free
    if share >= 1:
        whole = [g for g in free if g >= 1 - _SLACK]
        used = [g for g in free if g < 1 - _SLACK]
        kept = len(whole) - round(share)
        return None if kept < 0 else (*used, *whole[:kept], *(0.0,) * round(share))
    room = sorted(g for g in free if g >= share - _SLACK)
    if not room:
        return None
    rest = list(free)
    rest[rest.index(room[0])] -= share
    return tuple(rest)


def fits_somewhere(need: Need, nodes: Iterable[Node]) -> bool:
    """Whether at least one empty node can host one such worker."""
    return any(node.without(need) for node in nodes)


def fit_together(needs: Iterable[Need], nodes: Sequence[Node]) -> bool:
    """Whether all these workers can be placed at the same time: largest first, each on the first node with room."""
    left = list(nodes)
    for need in sorted(needs, key=lambda n: (n.gpus, n.memory, n.cpus), reverse=True):
        for i, node in enumerate(left):
            if rest := node.without(need):
                left[i] = rest
                break
        else:
            return False
    return True
