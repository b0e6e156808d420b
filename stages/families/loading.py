"""The one loader of models: every part of every family comes through it, and the library's own report is read.

Loading knows three things that headers do not: how the library renames and ties keys, every name and shape of the
model, and the values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from safetensors import safe_open
from safetensors.torch import load_file

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig, check_part, read_json
from stages.core.weights.headers import weight_files
from stages.families.load_report import check_finite, check_report, heard, is_finite, load_transformers, refusing

_UNEXPORTED = {"LTXLatentUpsamplerModel": LTXLatentUpsamplerModel}


def load_part(cls: Any, path: Path, dtype: torch.dtype, quantize: Mapping[str, Any] | None = None) -> Any:
    """A model of a class of diffusers or transformers from its folder, in evaluation mode, on the CPU.

    Raises BadInput, naming the folder and the first keys, where weights are missing, left over, of another shape, cut
    off, or not finite in this dtype. Tied weights are missing only where neither of the two is there.

    quantize: how a network of diffusers is held in fewer bits, as `ModelConfig.quantize` says it of a part.
    """
    check_part(path, path.name)
    more = {"quantization_config": quantizing(path, quantize, dtype)} if quantize else {}
    if not issubclass(cls, diffusers.ModelMixin):
        return load_transformers(cls, path, dtype=dtype)
    with refusing(path), heard(path):
        network, report = cls.from_pretrained(
            path, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **more
        )
    check_report(path, report)
    check_finite(path, network, dtype)
    return network.eval()


def quantizing(path: Path, asked: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The config of diffusers for a network in fewer bits. Raises BadInput for settings that there are not."""
    chosen, settings = str(asked["backend"]), {k: v for k, v in asked.items() if k != "backend"}
    if chosen.startswith("bitsandbytes"):
        bits = chosen.removeprefix("bitsandbytes_")
        compute = {"bnb_4bit_compute_dtype": dtype} if bits == "4bit" else {}
        with refusing(path):
            return diffusers.BitsAndBytesConfig(**{f"load_in_{bits}": True, **compute, **settings})
    if chosen == "quanto":
        with refusing(path):
            return diffusers.QuantoConfig(**settings)
    from torchao import quantization

    name = str(settings["quant_type"])
    kind = getattr(quantization, name, None)
    if not (isinstance(kind, type) and name.endswith("Config")):
        known = [n for n in dir(quantization) if n.endswith("WeightOnlyConfig")]
        raise BadInput(f"model.quantize: torchao has no {name!r}; {nearest(name, known)}")
    with refusing(path):
        return diffusers.TorchAoConfig(kind())


def load_named(path: Path, dtype: torch.dtype) -> Any:
    """`load_part` by the class that the folder's own config names. Raises BadInput."""
    config = read_json(path / "config.json")
    label = str(config.get("_class_name") or (config.get("architectures") or [""])[0])
    cls: Any = _UNEXPORTED.get(label) or getattr(diffusers, label, None) or getattr(transformers, label, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.ModelMixin | transformers.PreTrainedModel)):
        raise BadInput(
            f"{path}/config.json names the class {label!r}, which is not a model of diffusers or transformers"
        )
    return load_part(cls, path, dtype)


def load_single(cls: Any, path: Path, dtype: torch.dtype) -> Any:
    """A model from one safetensors file with its config in the header, as some are published. Raises BadInput."""
    with refusing(path):
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
        known = {k: v for k, v in config.items() if not k.startswith("_")}
        if not known:
            raise BadInput(f"{path.name} has no config of a model in its header")
        network = cls(**known)
        tensors, wanted = load_file(path), network.state_dict()
        other = [(k, tuple(t.shape), tuple(wanted[k].shape)) for k, t in tensors.items() if k in wanted]
        report = {
            "missing_keys": wanted.keys() - tensors.keys(),
            "unexpected_keys": tensors.keys() - wanted.keys(),
            "mismatched_keys": [(key, given, its) for key, given, its in other if given != its],
        }
        check_report(path, report)
        network.load_state_dict(tensors, strict=True)
    network = network.to(dtype)
    check_finite(path, network, dtype)
    return network.eval()


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a folder. Raises BadInput."""
    return load_weightless(transformers.AutoTokenizer, path)


def load_weightless(cls: Any, path: Path) -> Any:
    """A scheduler, a tokenizer or a processor from its folder. Raises BadInput."""
    with refusing(path), heard(path):
        return cls.from_pretrained(path, local_files_only=True)


def load_component(model: ModelConfig, name: str, dtype: torch.dtype, quantize: Mapping[str, Any] | None = None) -> Any:
    """A component of a checkpoint by the class that its index names: a network through `load_part`. Raises BadInput."""
    entry = model.read_index().get(name)
    library, label = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    # A class of one family only stands beside its pipelines, and the index names their module.
    known = {"diffusers": diffusers, "transformers": transformers}
    module = known.get(str(library)) or getattr(diffusers.pipelines, str(library), None)
    cls = getattr(module, str(label), None) if isinstance(module, ModuleType) else None
    if cls is None:
        raise BadInput(
            f"model.checkpoint: the index of {model.checkpoint} gives {name} the class {library}.{label}, which is not"
            " one of diffusers or transformers"
        )
    path = model.folder((name,)) / name
    if issubclass(cls, diffusers.ModelMixin | transformers.PreTrainedModel):
        return load_part(cls, path, dtype, quantize)
    return load_weightless(cls, path)


def load_tensors(path: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """These tensors of a part's folder and no others, in float32. Raises BadInput where one is absent or not finite."""
    found: dict[str, torch.Tensor] = {}
    wanted = list(names)
    with refusing(path):
        for file_name in weight_files(path):
            with safe_open(file_name, framework="pt") as file:
                found |= {name: file.get_tensor(name).float() for name in set(wanted) & set(file.keys())}
    for name in wanted:
        if name not in found:
            raise BadInput(f"{path}: its weights have no {name}: they are incomplete")
        if not is_finite(found[name]):
            raise BadInput(f"{path}: {name} has values that are not finite")
    return found
