"""The one loader of models: every part of every family comes through it, and the library's own report is read.

The libraries warn of weights that do not fit and go on, with random numbers or without a layer. Here that is a refusal
in one sentence, which names the part and the first keys. Loading knows three things that headers do not: how the
library renames and ties keys, every name and shape of the model, and the values.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from stages.core.errors import BadInput, is_out_of_memory
from stages.core.weights.checkpoint import check_part, read_json
from stages.core.weights.headers import counted, first, weight_files

_UNEXPORTED = {"LTXLatentUpsamplerModel": LTXLatentUpsamplerModel}
_LIBRARIES = ("diffusers", "transformers", "peft")
_SHAPES = re.compile(r"because (\S+) expected shape torch\.Size\((.+?)\), but got torch\.Size\((.+?)\)\.")
_REPORTED = ("were not used when initializing", "newly initialized", "LOAD REPORT", "size mismatch")


def load_part(cls: Any, path: Path, dtype: torch.dtype) -> Any:
    """A model of a class of diffusers or transformers from its folder, in evaluation mode, on the CPU.

    Raises BadInput, naming the folder and the first keys, where weights are missing, left over, of another shape, cut
    off, or not finite in this dtype. Tied weights are missing only where neither of the two is there.
    """
    check_part(path, path.name)
    ours = issubclass(cls, diffusers.ModelMixin)
    # transformers lists what has another shape only where told to go on; diffusers stops at the first by itself.
    more = {"torch_dtype": dtype} if ours else {"dtype": dtype, "ignore_mismatched_sizes": True}
    with refusing(path), heard(path):
        network, report = cls.from_pretrained(
            path, use_safetensors=True, local_files_only=True, output_loading_info=True, **more
        )
    check_report(path, report)
    check_finite(path, network, dtype)
    return network.eval()


def load_named(path: Path, dtype: torch.dtype) -> Any:
    """`load_part` by the class that the folder's own config names. Raises BadInput."""
    config = read_json(path / "config.json")
    label = str(config.get("_class_name") or (config.get("architectures") or [""])[0])
    cls: Any = _UNEXPORTED.get(label) or getattr(diffusers, label, None) or getattr(transformers, label, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.ModelMixin | transformers.PreTrainedModel)):
        raise BadInput(f"{path}/config.json names the class {label!r}: no model of diffusers or transformers")
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
    with refusing(path), heard(path):
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)


def load_scheduler(cls: Any, path: Path) -> Any:
    """A scheduler of diffusers from its folder. Raises BadInput."""
    with refusing(path), heard(path):
        return cls.from_pretrained(path, local_files_only=True)


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
        if not _finite(found[name]):
            raise BadInput(f"{path}: {name} has values that are not finite")
    return found


def check_report(path: Path, report: Mapping[str, Any]) -> None:
    """Raise BadInput for what a library's loading report tells of: keys missing, left over, or of another shape."""
    if missing := list(report.get("missing_keys", ())):
        raise BadInput(
            f"{path}: its weights lack {counted(missing)} that its config asks for: {first(missing)};"
            " they are incomplete, or of another model"
        )
    if unexpected := list(report.get("unexpected_keys", ())):
        raise BadInput(
            f"{path}: its weights hold {counted(unexpected)} that its config has no place for: {first(unexpected)};"
            " the config is of another model"
        )
    if other := [f"{key} is {list(given)}, not {list(its)}" for key, given, its in report.get("mismatched_keys", ())]:
        raise BadInput(f"{path}: its weights are of another shape than its config says: {first(other)}")
    if errors := list(report.get("error_msgs", ())):
        raise BadInput(f"{path}: {_one_line(errors[0])}")


def check_finite(path: Path, network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Raise BadInput where a tensor has values that are not finite, or none at all (on the meta device)."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    if empty := [name for name, tensor in tensors if tensor.is_meta]:
        raise BadInput(f"{path}: {counted(empty)} not loaded: {first(empty)}")
    if bad := [name for name, tensor in tensors if not _finite(tensor)]:
        raise BadInput(
            f"{path}: {counted(bad)} with values that are not finite in {str(dtype).removeprefix('torch.')}:"
            f" {first(bad)}; the file is damaged, or model.dtype is too narrow for it"
        )


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; the extremes tell it, in no more memory than there is."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(torch.isfinite(value)) for value in torch.aminmax(tensor.detach()))


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Within it, what a library raises for files that do not suit it becomes one sentence.

    Memory that ran out, and files that cannot be read just now, stay what they are: trying again may help.
    """
    try:
        yield
    except BadInput:
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        if shapes := _SHAPES.search(str(error)):
            name, wanted, given = shapes.groups()
            raise BadInput(
                f"{path}: its weights are of another shape than its config says: {name} is {given}, not {wanted}"
            ) from None
        raise BadInput(f"{path} cannot be loaded: {_one_line(str(error)) or type(error).__name__}") from None


def _one_line(text: str) -> str:
    """The first sentence of what a library says, which often goes on with advice for programmers."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return re.split(r"(?<=[.!?]) (?=[A-Z])", line)[0].rstrip(". ")


class _Warnings(logging.Handler):
    """Keeps the warnings of the libraries."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextlib.contextmanager
def heard(path: Path) -> Iterator[None]:
    """Within it, what the libraries warn of goes to the log of the run, but for what their reports tell anyway."""
    hush()
    listener, loggers = _Warnings(), [logging.getLogger(name) for name in _LIBRARIES]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [listener], False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
    for text in dict.fromkeys(listener.texts):
        if not any(words in text for words in _REPORTED):
            logging.getLogger("rushes").warning("%s: %s", path, " ".join(text.split()))


def hush() -> None:
    """No progress bars, and no warnings of the libraries on the terminal: `heard` keeps those of loading."""
    for library in (diffusers_logging, transformers.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
