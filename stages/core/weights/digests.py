"""The identity of model weights: a digest of their content, remembered by path, size and time of change."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.core.config import load_class
from stages.core.errors import BadInput
from stages.core.identity import canonical, digest
from stages.core.step import StepRef
from stages.core.weights.checkpoint import check_part, check_parts
from stages.core.weights.lora import LoraConfig, check_adapter

CHUNK = 1 << 22


def cache_folder() -> Path:
    """Where this user's caches lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rushes"


def _files(root: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for part in parts or ("",):
        base = root / part
        if not base.exists():
            raise BadInput(f"the checkpoint {root} has no {part!r}: it is incomplete")
        found = sorted(base.rglob("*")) if base.is_dir() else [base]
        yield from (p for p in found if p.is_file() and not _hidden(p.relative_to(root)))


def _hidden(path: Path) -> bool:
    """Download tools keep their own notes, with times in them, in hidden folders of a checkpoint."""
    return any(part.startswith(".") for part in path.parts)


def _load_memory(path: Path) -> dict[str, str]:
    try:
        memory = json.loads(path.read_text())
        return memory if isinstance(memory, dict) else {}
    except (OSError, ValueError):
        return {}


def _save_memory(path: Path, memory: dict[str, str]) -> None:
    """A cache that cannot be written is only slow, so a read-only home is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(memory, file)
        os.replace(file.name, path)
    except OSError:
        return


def file_digest(path: Path) -> str:
    """SHA-256 of one file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(root: str | Path, parts: tuple[str, ...] = ()) -> str:
    """The digest of every file below `parts` of a checkpoint folder (or of one file).

    Files whose path, size and mtime were seen before are not read again. Raises BadInput where a part is missing.
    """
    folder = Path(root).expanduser()
    if not folder.exists():
        raise BadInput(f"there is no checkpoint at {folder}")
    memory_file = cache_folder() / "weights.json"
    memory = _load_memory(memory_file)
    known, entries = len(memory), []
    for path in _files(folder, parts):
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in memory:
            memory[key] = file_digest(path)
        entries.append((str(path.relative_to(folder)) if folder.is_dir() else path.name, memory[key]))
    if len(memory) != known:
        _save_memory(memory_file, memory)
    return digest(entries)


def _identity_of(location: str, revision: str, parts: tuple[str, ...], label: str) -> str:
    if not location:
        return ""
    path = Path(location).expanduser()
    if path.exists():
        check_parts(path, parts)
        for whole in (path, path / "latent_upsampler") if not parts else ():
            if whole.suffix == ".safetensors" or (whole / "config.json").is_file():
                check_part(whole, label)
        return weights_digest(location, parts)
    name, _, pinned = location.partition("@")
    if "/" in name and not name.startswith((".", "/", "~")) and (pinned or revision):
        return f"hub:{name}@{pinned or revision}"
    raise BadInput(
        f"{label}: {location!r} is not a folder on this machine; give a folder, or a hub id together "
        "with the `revision` (a commit)"
    )


def _without_paths(config: Any, weights: Mapping[str, tuple[str, ...]], prefix: str = "") -> dict[str, Any]:
    """The config as it enters identity: no weight paths, no field marked `identity=False`, and none that came
    later (`identity="where set"`) and is empty, so that ids stay what they were."""
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        marked = field.metadata.get("identity", True)
        if name in weights or marked is False or (marked == "where set" and not value):
            continue
        nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
        kept[field.name] = _without_paths(value, weights, name + ".") if nested else canonical(value)
    return kept


def _lookup(config: Any, dotted: str) -> tuple[str, str]:
    """The weight location at a dotted field and the `revision` beside it."""
    *path, last = dotted.split(".")
    for name in path:
        config = getattr(config, name)
    if isinstance(config, Mapping):
        return str(config.get(last) or ""), ""
    return str(getattr(config, last) or ""), str(getattr(config, "revision", "") or "")


def weights_identity(ref: StepRef) -> dict[str, str]:
    """The digest (or pinned hub revision) of what each weight field of a step's config names; "" where it is empty.

    Raises BadInput where weights on this machine are broken, or are not those that their config speaks of, as far as
    headers tell: this is asked while planning, before any row.
    """
    cls = load_class(ref.use, ref.name)
    if isinstance(lora := getattr(ref.config, "lora", None), LoraConfig):
        check_adapter(lora, ref.config.model)
    found = {
        name: _identity_of(*_lookup(ref.config, name), parts, f"{ref.name}.{name}")
        for name, parts in cls.weights_of(ref.config).items()
    }
    if isinstance(lora, LoraConfig) and lora.more and "lora.path" in found:
        found["lora.path"] = _identity_of_all(lora, f"{ref.name}.lora")
    return found


def _identity_of_all(lora: LoraConfig, label: str) -> str:
    """The identity of several adapters with their scales, in whatever order they are written: that in which they are
    added is another one."""
    ones = [(f"{label}.path", lora), *((f"{label}.more[{i}].path", one) for i, one in enumerate(lora.more))]
    return digest(sorted([_identity_of(a.path, "", (), key), canonical(a.scale), a.part] for key, a in ones if a.path))


def _without_several(config: Any) -> Any:
    """The config without its adapters where these are several: `_identity_of_all` says all of them."""
    lora = getattr(config, "lora", None)
    several = isinstance(lora, LoraConfig) and lora.more
    return dataclasses.replace(config, lora=LoraConfig()) if several else config


def fingerprint(ref: StepRef, drawing: bool = False) -> str:
    """The identity of a step: import path, version, config and weights, and the node's name where it draws random
    numbers, which that name seeds. Resources never enter."""
    cls = load_class(ref.use, ref.name)
    name = [ref.name] if drawing else []
    return digest(
        ref.use,
        cls.version,
        _without_paths(_without_several(ref.config), cls.weights_of(ref.config)),
        weights_identity(ref),
        *name,
    )
