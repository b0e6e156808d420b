"""What safetensors files say of themselves: names, shapes, and whether they are whole. No weights are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stages.core.errors import BadInput

Shapes = dict[str, tuple[int, ...]]
"""The shape of each tensor by its name."""

SUFFIX, INDEX = ".safetensors", ".safetensors.index.json"
TRANSFORMERS, DIFFUSERS = "model", "diffusion_pytorch_model"
SHOWN = 3


def read_shapes(path: Path, label: str) -> Shapes:
    """The tensors of one file. Raises BadInput for a file that is broken or was cut off."""
    with _opened(path, label) as file:
        names = list(file.keys())
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def read_notes(path: Path, label: str) -> dict[str, str]:
    """The metadata that a file carries beside its tensors. Raises BadInput as `read_shapes` does."""
    with _opened(path, label) as file:
        return dict(file.metadata() or {})


def _opened(path: Path, label: str) -> Any:
    if is_pointer(path):
        raise BadInput(f"{label} is a Git LFS pointer or empty, not weights: fetch the real file")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise BadInput(f"{label} is broken or was cut off ({reason}): fetch the file again") from None


def is_pointer(path: Path) -> bool:
    """Whether a file is too short for weights, or begins with text, as a Git LFS pointer does."""
    with path.open("rb") as file:
        head = file.read(8)
    return len(head) < 8 or head == b"version "


def weight_files(folder: Path) -> list[Path]:
    """The files that the libraries load of a part. Raises BadInput where there are none, or a shard is absent."""
    return _layout(folder)[0]


def part_shapes(folder: Path) -> Shapes:
    """The tensors of one part of a checkpoint, over all its shards.

    Raises BadInput for a broken file, and for a tensor that the index promises and its shard does not hold.
    """
    files, index = _layout(folder)
    by_file = {path.name: read_shapes(path, str(path)) for path in files}
    if lost := [name for name, shard in index.items() if name not in by_file[shard]]:
        raise BadInput(f"{folder}: the index of shards lists tensors that the shards do not have: {first(lost)}")
    return {name: shape for shapes in by_file.values() for name, shape in shapes.items()}


def _layout(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files to load, and tensor -> shard where there is an index.

    transformers takes one file before shards, diffusers shards before one file.
    """
    single, other = folder / f"{TRANSFORMERS}{SUFFIX}", folder / f"{DIFFUSERS}{SUFFIX}"
    if single.is_file():
        return [single], {}
    for name in (TRANSFORMERS, DIFFUSERS):
        if (path := folder / f"{name}{INDEX}").is_file():
            index = _weight_map(path)
            return _shards(folder, sorted(set(index.values()))), index
    if other.is_file():
        return [other], {}
    raise BadInput(
        f"the checkpoint {folder.parent} is incomplete: {folder.name}/ has no .safetensors weights"
        f" called {single.name} or {other.name}, and no index of shards"
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text())["weight_map"]
        return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{index} is not an index of shards: {type(error).__name__}: {error}") from None


def _shards(folder: Path, names: list[str]) -> list[Path]:
    # An index is data of others: it names files of its own folder and no others.
    if outside := [name for name in names if Path(name).name != name]:
        raise BadInput(f"the index of shards in {folder} names a file outside of its folder: {outside[0]!r}")
    if lost := [name for name in names if not (folder / name).is_file()]:
        raise BadInput(f"the checkpoint {folder.parent} is incomplete: {folder.name}/ lacks {', '.join(lost)}")
    return [folder / name for name in names]


def first(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    found = sorted(names)
    more = len(found) - SHOWN
    return ", ".join(found[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def counted(names: Sized, noun: str = "tensor") -> str:
    """How many there are, in words."""
    return f"{len(names)} {noun}" + ("" if len(names) == 1 else "s")
