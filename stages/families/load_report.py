"""What a library says of loading a model, read: a report of keys, warnings, and the errors that it raises.

The libraries warn of weights that do not fit and go on, with random numbers or without a layer. Here that is a refusal
in one sentence, which names the folder and the first keys.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from stages.core.errors import BadInput, is_out_of_memory
from stages.core.weights.headers import counted, first

_LIBRARIES = ("diffusers", "transformers", "peft")
_SHAPES = re.compile(r"because (\S+) expected shape torch\.Size\((.+?)\), but got torch\.Size\((.+?)\)\.")
_REPORTED = ("were not used when initializing", "newly initialized", "LOAD REPORT", "size mismatch")


def load_transformers(cls: Any, path: Path, whole: bool = True, **options: Any) -> Any:
    """A model of a class of transformers, or of one of its `Auto` classes, from a folder, in evaluation mode.

    whole: whether weights that this class has no place for are refused; else the log names them, because a checkpoint
    may carry a head that is not asked for. Raises BadInput as `check_report` and `check_finite` do.
    """
    with refusing(path), heard(path):
        # It lists what has another shape only where told to go on.
        network, report = cls.from_pretrained(
            path, use_safetensors=True, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True,
            **options,
        )  # fmt: skip
    if (surplus := report["unexpected_keys"]) and not whole:
        _log(path, f"its weights have {counted(surplus)} that nothing uses: {first(surplus)}")
    check_report(path, report if whole else {**report, "unexpected_keys": ()})
    check_finite(path, network, network.dtype)
    return network.eval()


def check_report(path: Path, report: Mapping[str, Any]) -> None:
    """Raise BadInput for what a library's loading report tells of: keys missing, left over, or of another shape."""
    if missing := list(report.get("missing_keys", ())):
        raise BadInput(
            f"{path}: its weights lack {counted(missing)} that its config requires: {first(missing)};"
            " they are incomplete, or of another model"
        )
    if unexpected := list(report.get("unexpected_keys", ())):
        raise BadInput(
            f"{path}: its weights hold {counted(unexpected)} that its config does not use: {first(unexpected)};"
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
    if bad := [name for name, tensor in tensors if not is_finite(tensor)]:
        raise BadInput(
            f"{path}: {counted(bad)} with values that are not finite in {str(dtype).removeprefix('torch.')}:"
            f" {first(bad)}; the file is damaged, or model.dtype is too narrow for it"
        )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; the extremes tell it, in no more memory than there is."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) and hasattr(tensor.data, "dequantize"):
        tensor = tensor.data.dequantize()  # of a class for fewer bits, which does not know its extremes
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
            _log(path, text)


def _log(path: Path, text: str) -> None:
    logging.getLogger("rushes").warning("%s: %s", path, " ".join(text.split()))


def hush() -> None:
    """No progress bars, and no warnings of the libraries on the terminal: `heard` keeps those of loading."""
    for name in ("diffusers.utils.logging", "transformers.utils.logging"):
        if (library := sys.modules.get(name)) is not None:  # importing one that is not used takes seconds
            library.set_verbosity_error()
            library.disable_progress_bar()
