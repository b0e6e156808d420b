"""Checkpoint folders in the diffusers layout: where they lie, what is in them, and what is refused. No torch here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.errors import BadInput
from stages.core.weights.headers import part_shapes, read_shapes
from stages.core.weights.promises import check_promise

CONFIG_NAMES = (
    "config.json",
    "scheduler_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
WEIGHTLESS = ("scheduler", "tokenizer", "feature_extractor", "image_processor", "processor")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = ("float32", "bfloat16", "float16")
OFFLOADS = ("none", "model", "sequential", "group")
DEVICES = ("auto", "cpu", "cuda")


def device_rule(device: str) -> tuple[bool, str, str, str]:
    """That a setting `device` is one of DEVICES, for `stages.core.errors.require`."""
    return device in DEVICES, "device", device, "auto, cpu or cuda"


HOW_TO_FETCH = "set model.download to true and the environment variable HF_HUB_OFFLINE to 0, or give a folder"

_WHERE = {"identity": False}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A set of weights and how to hold them.

    family              the family of the model: ltx, ltx2, svd, wan, skyreels, animatediff or whole; docs/families.md
    checkpoint          a folder in the diffusers layout, a hub id (`owner/name`) with `revision`, or
                        `promoted:NAME@STORE`
    revision            revision of a hub id, best the hash of a commit
    spatial_upsampler   the spatial latent upsampler: a folder, one .safetensors file, or a hub id
                        (`owner/name@revision`); empty uses the folder of that name inside a local checkpoint
    temporal_upsampler  the temporal latent upsampler, in the same ways
    parts               further checkpoints that a family takes, name to location: `{motion_adapter: FOLDER}`; each a
                        folder, or a hub id `owner/name@revision`
    pipeline            family `whole` only: a pipeline class of diffusers; empty takes the one that wrote the folder
    dtype               [float32, bfloat16, float16] what the models compute in
    threads             [from 1] CPU threads of a forward pass; another number may change the last digits
    device              [auto, cpu, cuda] where the models run; `auto` is a GPU where the worker sees one
    offload             [none, model, sequential, group] weights are kept in host memory and moved to the GPU: whole
                        models in turn (`model`), one layer at a time (`sequential`), or so that the next layer comes
                        while one computes (`group`). On a CPU nothing changes
    quantize            networks of the denoiser in fewer bits, by part: `{transformer: {backend: quanto, weights_dtype:
                        int8}}`; docs/families.md
    download            download a hub id that is not in the local cache, where the environment also has
                        HF_HUB_OFFLINE=0

    Where weights lie and how they are held is no part of identity (their content is, see `Step.weights`).
    """

    family: str = "ltx"
    checkpoint: str = field(default="", metadata=_WHERE)
    revision: str = field(default="", metadata=_WHERE)
    spatial_upsampler: str = field(default="", metadata=_WHERE)
    temporal_upsampler: str = field(default="", metadata=_WHERE)
    parts: dict[str, str] = field(default_factory=dict, metadata=_WHERE)
    pipeline: str = field(default="", metadata={"identity": "where set"})
    dtype: str = "float32"
    threads: int = 1
    device: str = field(default="auto", metadata=_WHERE)
    offload: str = field(default="none", metadata=_WHERE)
    quantize: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"identity": "where set"})
    download: bool = field(default=False, metadata=_WHERE)

    def __post_init__(self) -> None:
        for name, known in (("dtype", DTYPES), ("offload", OFFLOADS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise BadInput(f"model.{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if self.threads < 1:
            raise BadInput(f"model.threads is {self.threads}; it must be at least 1")
        for name in ("spatial_upsampler", "temporal_upsampler"):
            if not getattr(self, name) and self.checkpoint and not is_hub_id(self.checkpoint):
                object.__setattr__(self, name, str(Path(self.checkpoint) / name))

    def folder(self, parts: Sequence[str]) -> Path:
        """The checkpoint folder on this machine, with these parts complete. Raises BadInput."""
        found = locate(self.checkpoint, "model.checkpoint", parts, self.revision, self.download)
        check_parts(found, parts)
        return found

    def upsampler(self, name: str) -> Path:
        """The folder (or single file) of the `spatial_upsampler` or `temporal_upsampler`. Raises BadInput."""
        found = locate_pinned(getattr(self, name), f"model.{name}", self.download)
        if (found / "latent_upsampler").is_dir():  # the layout of a saved LTXLatentUpsamplePipeline
            found = found / "latent_upsampler"
        check_part(found, name)
        return found

    def part(self, name: str) -> Path:
        """The folder of a further checkpoint of `parts`, complete. Raises BadInput."""
        found = locate_pinned(self.parts.get(name, ""), f"model.parts.{name}", self.download)
        check_part(found, name)
        return found

    def read_index(self) -> dict[str, Any]:
        """What model_index.json says, for a family that has to know its checkpoint. Raises BadInput."""
        return _read_here(self.checkpoint, "model_index.json", "model.checkpoint", self.revision, self.download)

    def read_part(self, part: str, name: str = "config.json") -> dict[str, Any]:
        """A JSON of one component folder of the checkpoint. Raises BadInput."""
        return _read_here(self.checkpoint, f"{part}/{name}", "model.checkpoint", self.revision, self.download)

    def read_further(self, name: str) -> dict[str, Any]:
        """The JSON config of a further checkpoint of `parts`. Raises BadInput."""
        place, _, revision = self.parts[name].partition("@")
        location = self.parts[name] if Path(self.parts[name]).exists() else place
        return _read_here(location, "config.json", f"model.parts.{name}", revision, self.download)

    def read_config(self, part: str) -> dict[str, Any] | None:
        """The JSON config of a part where the checkpoint is a folder here, else None. For checks while planning."""
        path = Path(self.checkpoint).expanduser() / part / "config.json"
        return read_json(path) if self.checkpoint and path.is_file() else None


def _read_here(location: str, name: str, key: str, revision: str, download: bool) -> dict[str, Any]:
    """One JSON file of a checkpoint, from a folder or the hub's cache; fetched only where `download`."""
    if not location:
        raise BadInput(f"{key} is empty: give a checkpoint folder, or a hub id with a revision")
    folder = Path(location).expanduser()
    if not folder.exists() and is_hub_id(location):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        offline = not download or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
        try:
            found = hf_hub_download(location, name, revision=revision or None, local_files_only=offline)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
            hint = HOW_TO_FETCH if offline else "check the name and the connection"
            raise BadInput(f"{key}: {location} is not in the local hub cache; {hint}") from None
        return read_json(Path(found))
    if not folder.exists():
        raise BadInput(f"{key}: there is no checkpoint at {location}")
    if not (folder / name).is_file():
        raise BadInput(f"{key}: {folder} has no {name}: it is no checkpoint in the diffusers layout, or incomplete")
    return read_json(folder / name)


def is_hub_id(location: str) -> bool:
    """Whether a location that is no file here has the form of a hub id, `owner/name`."""
    form = location.count("/") == 1 and not location.startswith((".", "/", "~")) and not location.endswith("/")
    return form and not Path(location).exists()


def locate(location: str, key: str, parts: Sequence[str], revision: str = "", download: bool = False) -> Path:
    """The local path of a folder, file or hub id. Fetches only the given parts, and only where `download`."""
    if not location:
        raise BadInput(f"{key} is empty: give a checkpoint folder, or a hub id with a revision")
    path = Path(location).expanduser()
    if path.exists():
        return path
    if not is_hub_id(location):
        raise BadInput(f"{key}: there is no checkpoint at {location}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"{p}/*" for p in parts] + ["*.json"] if parts else None
    offline = not download or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    try:
        found = snapshot_download(
            location, revision=revision or None, allow_patterns=patterns, ignore_patterns=[f"*{s}" for s in PICKLED],
            local_files_only=offline,
        )  # fmt: skip
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        hint = HOW_TO_FETCH if offline else "check the name and the connection"
        raise BadInput(f"{key}: {location} is not in the local hub cache; {hint}") from None
    return Path(found)


def locate_pinned(location: str, key: str, download: bool = False) -> Path:
    """The local path of a folder, file or hub id that carries its revision, `owner/name@revision`. Raises BadInput."""
    place, _, revision = ("", "", "") if Path(location).exists() else location.partition("@")
    return locate(place or location, key, (), revision, download)


def check_parts(folder: Path, parts: Sequence[str]) -> None:
    """Raise one BadInput that names everything missing from a checkpoint folder, or the pickled weights in it."""
    missing = [p for p in parts if not (folder / p).is_dir()]
    if missing:
        raise BadInput(f"the checkpoint {folder} is incomplete: it has no {', '.join(f'{m}/' for m in missing)}")
    for part in parts:
        check_part(folder / part, part)


def check_part(path: Path, part: str) -> None:
    """Raise BadInput where a part has no config, no weights, a shard too few, only pickled weights, a file that was
    cut off, or weights that are not those of its config, as far as `stages.core.weights.promises` tells."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise BadInput(f"{part}: {path.name} is not a safetensors file; other weights are refused")
        read_shapes(path, f"{part}: {path.name}")
        return
    names = {p.name for p in path.iterdir()}
    if not any(name in names for name in CONFIG_NAMES):
        raise BadInput(
            f"the checkpoint {path.parent} is incomplete: {path.name}/ has none of {', '.join(CONFIG_NAMES)}"
        )
    if part.rstrip("_0123456789") not in WEIGHTLESS:  # a second tokenizer is `tokenizer_2`
        _check_weights(path, names)


def _check_weights(path: Path, names: set[str]) -> None:
    pickled = sorted(name for name in names if name.endswith(PICKLED))
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise BadInput(f"{path.name}/ holds pickled weights only ({pickled[0]}): refused; convert them to safetensors")
    shapes = part_shapes(path)
    config = read_json(path / "config.json") if "config.json" in names else {}
    check_promise(path, config, shapes)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises BadInput."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} must hold a JSON object")
    return value
