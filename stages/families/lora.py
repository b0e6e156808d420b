"""Low-rank adapters on a model: each key of a file is used, or the file is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig as PeftConfig
from peft import get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.weights.digests import weights_digest
from stages.core.weights.headers import first, read_notes, read_shapes
from stages.core.weights.lora import PREFIXES, Adapter, Layer, LoraConfig, check_form, find_layers
from stages.core.weights.promises import PROMISES, Promise
from stages.families.load_report import check_finite, heard, refusing

NAME = "default"


def adapt_all(networks: Mapping[str, Any], lora: LoraConfig, download: bool = False) -> None:
    """Add every adapter to its network, named by the part of the checkpoint; without a name, to the first.

    They are added in the order of their content, whatever the order in the config: so the sum is the same to the last
    digit. Raises BadInput as `adapt` does, and for a part that there is not.
    """
    for one in sorted(lora.adapters, key=lambda one: (weights_digest(one.located(download)), one.scale, one.part)):
        name = one.part or next(iter(networks))
        if name not in networks:
            raise BadInput(f"lora.part: there is no part {name!r} here; {nearest(name, networks)}")
        adapt(networks[name], one, download)


def adapt(network: Any, lora: Adapter, download: bool = False) -> None:
    """Add one adapter to the weights themselves, so that a pass costs what it cost before.

    Each layer gets W + scale * alpha / rank * B A (arXiv 2106.09685): alpha from the file, its rank where the file has
    none. peft adds it, in the model's own dtype. Raises BadInput where a key of the file is of no layer, half of a pair
    is absent, a shape does not fit, a value is not finite, or the adapter is of another kind.
    """
    if (path := lora.file(download)) is None:
        return
    if not hasattr(network, "load_lora_adapter"):
        raise BadInput(f"lora.path: {type(network).__name__} takes no adapter")
    shapes = read_shapes(path, f"lora.path: {path}")
    check_form(path, shapes)
    model = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    layers = find_layers(path, shapes, model, PROMISES.get(type(network).__name__, Promise()).renames)
    tensors = load_file(path)
    if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise BadInput(f"lora.path: {path} has values that are not finite: {first(bad)}")
    state = {
        f"{layer}.lora_{half}.weight": tensors[key].contiguous()
        for layer, its in layers.items()
        for half, key in (("A", its.down), ("B", its.up))
    }
    ranks = {layer: len(tensors[its.down]) for layer, its in layers.items()}
    alphas = _alphas(path, layers, tensors, ranks)
    with refusing(path), heard(path):
        network.load_lora_adapter(state, prefix=None, adapter_name=NAME, metadata=_config(ranks, alphas))
    _check_used(path, network, state)
    with refusing(path):
        network.fuse_lora(lora_scale=lora.scale)
    network.unload_lora()
    check_finite(path, network, network.dtype)


def _config(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """What peft is told: each layer by its whole name, because a pattern otherwise also matches the end of another."""
    return {
        "r": next(iter(ranks.values())),
        "lora_alpha": next(iter(alphas.values())),
        "rank_pattern": {f"^{re.escape(layer)}": rank for layer, rank in ranks.items()},
        "alpha_pattern": {f"^{re.escape(layer)}": alpha for layer, alpha in alphas.items()},
        "target_modules": list(ranks),
    }


def _alphas(
    path: Path, layers: Mapping[str, Layer], tensors: Mapping[str, torch.Tensor], ranks: Mapping[str, int]
) -> dict[str, float]:
    """Each layer's alpha: a tensor of the file, or its note of how diffusers trained it, or its rank."""
    given = {layer: float(tensors[its.alpha].flatten()[0]) for layer, its in layers.items() if its.alpha}
    if not (note := read_notes(path, f"lora.path: {path}").get(LORA_ADAPTER_METADATA_KEY)):
        return {layer: given.get(layer, float(rank)) for layer, rank in ranks.items()}
    if given:
        raise BadInput(
            f"lora.path: {path} gives its alphas twice, as tensors and in its header; remove one of them, or save the "
            "adapter again"
        )
    config = _noted(path, note)
    found = {}
    for layer, rank in ranks.items():
        said = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), layer), config.r)
        if said != rank:
            raise BadInput(
                f"lora.path: {path} says rank {said} in its header, but {layer} has rank {rank}; save the "
                "adapter again with the tool that trained it"
            )
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), layer), config.lora_alpha)
        found[layer] = float(alpha) * (rank**0.5 if config.use_rslora else 1.0)  # rsLoRA divides by the root of it
    return found


def _noted(path: Path, note: str) -> PeftConfig:
    """The config that diffusers writes into a file's header, its keys with the part's name before them."""
    with refusing(path):
        told = json.loads(note)
        if not isinstance(told, dict):
            raise BadInput(
                f"lora.path: {path} should have its config in its header, and has none; save the adapter again with"
                " save_lora_weights of diffusers"
            )
        bare = {next((k.removeprefix(p) for p in PREFIXES if k.startswith(p)), k): v for k, v in told.items()}
        config = PeftConfig(**bare)
    if config.use_dora or config.lora_bias:
        raise BadInput(
            f"lora.path: {path} says in its header that it is a DoRA adapter, or has biases, and only plain "
            "LoRA is supported: give another adapter"
        )
    return config


def _check_used(path: Path, network: Any, state: Mapping[str, torch.Tensor]) -> None:
    """What peft holds, read back, is what the file gave: no key was left out and none is made up."""
    held = get_peft_model_state_dict(network, adapter_name=NAME)
    odd = held.keys() ^ state.keys()
    odd |= {k for k in held.keys() & state.keys() if not torch.equal(held[k].float(), state[k].to(held[k]).float())}
    if odd:
        raise BadInput(
            f"lora.path: {path} does not fit this transformer ({first(odd)} would be lost or changed); give an "
            "adapter that was trained for this checkpoint"
        )
