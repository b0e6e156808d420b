"""Attention back ends and caches of diffusers, for the length of one call.

A cache is put onto the networks before a clip and taken off after it, so that nothing of a clip is left for the next
one. The library keeps the attention back end that was chosen last for the whole process; here it is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import diffusers
import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks.mag_cache import nearest_interp
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from stages.core.errors import BadInput
from stages.families.accelerations import BACK_ENDS
from stages.families.contract import Sampling


@contextlib.contextmanager
def accelerating(pipeline: Any, networks: list[Any], sampling: Sampling, skip: int = 0) -> Iterator[None]:
    """Within it, the networks of a pipeline compute attention, and leave passes out, as `sampling` says.

    skip: how many of its steps are not run, at the beginning. Raises BadInput for what this machine or these networks
    cannot do.
    """
    with _attending(networks, sampling.attention), _caching(pipeline, networks, sampling, skip):
        yield


@contextlib.contextmanager
def _attending(networks: list[Any], name: str) -> Iterator[None]:
    if not name:
        yield
        return
    _check_machine(name, networks)
    before = _AttentionBackendRegistry._active_backend
    try:
        for network in networks:
            _choose(network, name)
        yield
    finally:
        for network in networks:
            network.reset_attention_backend()
        _AttentionBackendRegistry.set_active_backend(before)


def _check_machine(name: str, networks: list[Any]) -> None:
    back_end, network = BACK_ENDS[name], networks[0]
    if back_end.gpu and not torch.cuda.is_available():
        raise BadInput(f"sampling.attention: {name} needs a GPU, and there is none that this process may use")
    if back_end.narrow and network.dtype not in (torch.float16, torch.bfloat16):
        raise BadInput(f"sampling.attention: {name} computes in 16 bits; set model.dtype to bfloat16 or float16")


def _choose(network: Any, name: str) -> None:
    try:
        network.set_attention_backend(name)
    except (RuntimeError, ValueError, ImportError) as error:
        raise BadInput(f"sampling.attention: {name} cannot be used here: {str(error).splitlines()[0]}") from None
    given = [getattr(getattr(m, "processor", None), "_attention_backend", None) for m in network.modules()]
    if not any(given):
        raise BadInput(f"sampling.attention: no layer of {type(network).__name__} would use it; leave it out")


@contextlib.contextmanager
def _caching(pipeline: Any, networks: list[Any], sampling: Sampling, skip: int) -> Iterator[None]:
    if not sampling.cache:
        yield
        return
    try:
        for network in networks:
            _enable(network, _config(pipeline, sampling, skip))
        yield
    finally:
        for network in networks:
            if network.is_cache_enabled:
                network.disable_cache()


def _enable(network: Any, config: Any) -> None:
    """Raises BadInput where a cache finds no layer: the library would go on without it. TaylorSeer then first tries its
    lite mode, which leaves out whole blocks; with two tracks it would lose one of them."""
    network.enable_cache(config)
    if not _hooks(network) and hasattr(config, "use_lite_mode"):
        network.disable_cache()
        network.enable_cache(replace(config, use_lite_mode=True))
    if not _hooks(network):
        name = type(config).__name__.removesuffix("Config")
        raise BadInput(f"sampling.cache.name: {name} finds no layer in {type(network).__name__}; leave it out")


def _config(pipeline: Any, sampling: Sampling, skip: int) -> Any:
    name = str(sampling.cache["name"])
    asked: dict[str, Any] = {k: v for k, v in sampling.cache.items() if k != "name"}
    if name == "MagCache":  # its ratios are those of a whole schedule, of which a refine pass runs the end
        steps = len(sampling.timesteps) or sampling.steps
        whole = nearest_interp(torch.tensor([float(r) for r in asked["mag_ratios"]]), steps)
        asked |= {"mag_ratios": whole[skip:], "num_inference_steps": steps - skip}
    if name == "PyramidAttentionBroadcast":
        asked = {k: tuple(v) if isinstance(v, list) else v for k, v in asked.items()}
        asked["current_timestep_callback"] = lambda: pipeline.current_timestep
    return getattr(diffusers, f"{name}Config")(**asked)


def _hooks(network: Any) -> int:
    """How many layers of a network a cache holds on to."""
    found: Mapping[str, Any]
    count = 0
    for module in network.modules():
        if isinstance(registry := getattr(module, "_diffusers_hook", None), HookRegistry):
            found = registry.hooks
            count += sum("group_offloading" not in key and "layerwise" not in key for key in found)
    return count
