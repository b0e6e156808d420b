"""The networks: from a checkpoint folder or of a new shape, frozen by patterns, with low-rank adapters where asked."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.families.loading import load_named, load_tokenizer
from stages.families.ltx.shape import Shape
from stages.families.untrained import build_untrained
from stages.training.settings import Lora, Model

DENOISERS = ("transformer", "unet")


def start_folder(model: Model, out: Path, seed: int) -> Path:
    """The checkpoint that a run starts from: the config's, or a new one of its shape, written once beside the run."""
    if model.checkpoint:
        return Path(model.checkpoint).expanduser()
    shape = _shape(model.shape)
    return build_untrained(out / f"start-{digest(repr(shape), seed)[:8]}", seed, shape)


def _shape(values: Mapping[str, Any]) -> Shape:
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    known = [f.name for f in fields(Shape)]
    for key in given:
        if key not in known:
            raise BadInput(f"model.shape: unknown key {key!r}; {nearest(key, known)}")
    return Shape(**given)


def load_part(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    """One part of a diffusers folder by the class that its config names, in evaluation mode. Raises BadInput."""
    path = folder / name
    if not path.is_dir():
        raise BadInput(f"the checkpoint {folder} has no {name}/")
    return load_tokenizer(path) if name == "tokenizer" else load_named(path, dtype)


def denoiser_name(folder: Path) -> str:
    """`transformer` or `unet`, whichever the checkpoint has. Raises BadInput."""
    for name in DENOISERS:
        if (folder / name).is_dir():
            return name
    raise BadInput(f"the checkpoint {folder} has neither of {', '.join(DENOISERS)}: nothing to denoise with")


def prepare(parts: Mapping[str, nn.Module], model: Model) -> list[str]:
    """Freeze and unfreeze the parameters of the parts to be trained; the names of those that will be.

    With a LoRA rank, adapters are put into the first part's matching layers, and they alone are trained. Raises
    BadInput where nothing is left to train.
    """
    for part in parts.values():
        part.requires_grad_(False)
    if model.lora.rank:
        add_lora(next(iter(parts.values())), model.lora)
    else:
        for name, parameter in _named(parts):
            parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in model.trainable))
    if model.checkpointing:
        for part in parts.values():
            _checkpoint(part)
    trained = [name for name, parameter in _named(parts) if parameter.requires_grad]
    if not trained:
        example = next(iter(_named(parts)))[0]
        raise BadInput(f"model.trainable {model.trainable} matches no parameter; one is called {example}")
    return trained


def _named(parts: Mapping[str, nn.Module]) -> list[tuple[str, nn.Parameter]]:
    return [(f"{part}.{name}", p) for part, module in parts.items() for name, p in module.named_parameters()]


def _checkpoint(part: nn.Module) -> None:
    names = ("enable_gradient_checkpointing", "activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next((getattr(part, n) for n in names if hasattr(part, n)), None)
    if enable is None or not getattr(part, "_supports_gradient_checkpointing", True):
        raise BadInput(f"model.checkpointing: {type(part).__name__} has no gradient checkpointing; set it to false")
    enable()


def add_lora(part: nn.Module, lora: Lora) -> None:
    """Put adapters into the layers that the targets name; the seed of the global generator draws them."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha or lora.rank, lora_dropout=lora.dropout, target_modules=list(lora.targets)
    )
    try:
        inject_adapter_in_model(config, part)
    except ValueError as error:
        raise BadInput(f"model.lora: {str(error).splitlines()[0]}") from None


def lora_tensors(part: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' tensors under peft's names, as diffusers' `load_lora_weights` reads them."""
    from peft import get_peft_model_state_dict

    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(part)
    return tensors
