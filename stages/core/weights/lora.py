"""Low-rank adapters: where they lie, how strongly they act, how they are spelled, what is refused. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stages.core.errors import BadInput, require
from stages.core.weights.checkpoint import ModelConfig, check_part, is_hub_id, locate_pinned, read_json
from stages.core.weights.headers import Shapes, counted, first, part_shapes, read_shapes
from stages.core.weights.promises import PROMISES, promise_of

FILE = "pytorch_lora_weights.safetensors"
"""As diffusers' save_lora_weights names it."""

DENOISERS = ("transformer", "unet")
"""The parts that an adapter is put onto, by their folder."""

PREFIXES = ("transformer.", "unet.", "diffusion_model.", "model.diffusion_model.")
"""What diffusers, ComfyUI and the models' authors write before a layer's name."""

UNDERSCORED = ("lora_unet_", "lora_transformer_")
"""What kohya's trainers write before a name of which the dots are underscores."""

_ROLES = (
    (re.compile(r"\.(lora_A|lora_down|lora\.down)\.weight$"), "down"),
    (re.compile(r"\.(lora_B|lora_up|lora\.up)\.weight$"), "up"),
    (re.compile(r"\.alpha$"), "alpha"),
)

# Each is wrong in silence if it is taken for a plain adapter, so each is refused by its name.
_REFUSED = (
    (r"dora_scale|lora_magnitude_vector", "is a DoRA adapter, which is not supported"),
    (
        r"\.hada_|\.lokr_|\.oft_|\.glora_|\.on_input|\.boft_",
        "is a LyCORIS adapter, which is not supported",
    ),
    (r"\.lora_mid", "is a Tucker-decomposed adapter, which is not supported"),
    (
        r"\.lora_embedding_|\.lora_[AB]\.bias$|\.lora_(up|down)\.bias$",
        "adapts embeddings or biases: not supported",
    ),
    (r"\.diff(_b)?$|\.set_weight$", "holds differences of whole weights, which are not supported"),
    (r"^base_model\.model\.", "is written by PEFT alone, its alpha in another file: save it by diffusers"),
    (r"^text_encoder|^lora_te|^conditioner|^cond_stage", "has a part for the text encoder, which is not adapted here"),
)


@dataclass(frozen=True)
class Layer:
    """One adapted layer: the keys of its two matrices and of its alpha, "" where it has none."""

    down: str
    up: str
    alpha: str = ""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One adapter.

    path   folder made by a training with `model.lora`, a .safetensors file, or a hub id `owner/name@revision`; empty
           uses no adapter. Not part of identity: its content is
    scale  strength of the adapter: 1 as trained, 0 not at all
    part   the network that it is for, where a checkpoint denoises with several: `transformer` or `transformer_2`
    """

    path: str = field(default="", metadata={"identity": False})
    scale: float = 1.0
    part: str = field(default="", metadata={"identity": "where set"})

    def __post_init__(self) -> None:
        require((math.isfinite(self.scale), "lora.scale", self.scale, "a number"))

    def file(self, download: bool = False) -> Path | None:
        """The adapter's tensors on this machine, or None where there is no adapter. Raises BadInput."""
        return self.located(download) if self.path else None

    def located(self, download: bool = False) -> Path:
        """The tensors of an adapter that there is, on this machine. Raises BadInput."""
        found = locate_pinned(self.path, "lora.path", download)
        found = found / FILE if found.is_dir() else found
        if not found.is_file():
            raise BadInput(f"lora.path: there is no {FILE} in {found.parent}; is it a whole checkpoint?")
        check_part(found, "lora.path")
        return found


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Adapter):
    """Adapters that are put onto a stage's denoiser, as diffusers, ComfyUI or kohya's trainers save them.

    path   folder made by a training with `model.lora`, a .safetensors file, or a hub id `owner/name@revision`; empty
           uses no adapter. Not part of identity: its content is
    scale  strength of the adapter: 1 as trained, 0 not at all
    part   the network that it is for, where a checkpoint denoises with several: `transformer` or `transformer_2`
    more   further adapters beside this one, `[{path: FILE, scale: 0.5}]`; their order does not matter
    """

    more: list[Adapter] = field(default_factory=list, metadata={"identity": "where set"})

    @property
    def adapters(self) -> list[Adapter]:
        """All adapters that there are."""
        return [one for one in (self, *self.more) if one.path]


def check_adapter(lora: LoraConfig, model: ModelConfig) -> None:
    """Raise BadInput where an adapter on this machine is not one, or does not fit the checkpoint's denoiser.

    For checks while planning: only headers are read. Of a denoiser whose authors' names are not known here, and of one
    that is not on this machine, only the adapter itself is looked at; the rest is seen when it is loaded.
    """
    for one in lora.adapters:
        if not is_hub_id(one.path.partition("@")[0]):
            _check_one(one, model)


def _check_one(one: Adapter, model: ModelConfig) -> None:
    path = one.file()
    assert path is not None
    shapes = read_shapes(path, f"lora.path: {path}")
    check_form(path, shapes)
    folder = Path(model.checkpoint).expanduser()
    names = (one.part,) if one.part else DENOISERS
    part = next((folder / name for name in names if (folder / name / "config.json").is_file()), None)
    if model.checkpoint and part is not None:
        config = read_json(part / "config.json")
        if config.get("_class_name") in PROMISES:
            find_layers(path, shapes, part_shapes(part), promise_of(config).renames)


def check_form(path: Path, names: Iterable[str]) -> None:
    """Raise BadInput for an adapter that is none, or one of a kind that is not taken."""
    found = list(names)
    if not found:
        raise BadInput(f"lora.path: {path} holds no tensors")
    for pattern, what in _REFUSED:
        if hits := [name for name in found if re.search(pattern, name)]:
            raise BadInput(f"lora.path: {path} {what} ({first(hits)})")
    if odd := [name for name in found if not any(role.search(name) for role, _ in _ROLES)]:
        raise BadInput(f"lora.path: {path} has keys that do not belong to a low-rank adapter: {first(odd)}")
    halves: dict[str, set[str]] = {}
    for name in found:
        layer, role = _split(name)
        halves.setdefault(layer, set()).add(role)
    for layer, roles in sorted(halves.items()):
        if lost := [key for role, key in (("down", "lora_A (down)"), ("up", "lora_B (up)")) if role not in roles]:
            raise BadInput(f"lora.path: {path} is incomplete: its layer {layer} has no {' and no '.join(lost)}")


def find_layers(path: Path, shapes: Shapes, model: Shapes, renames: Mapping[str, str]) -> dict[str, Layer]:
    """The model's layers that an adapter changes, by the model's own names; every key of it is one of theirs.

    shapes: the adapter's. model: those of the denoiser's tensors. Raises BadInput naming the first keys that fit no
    layer, or the first layer whose matrices have another shape.
    """
    layers = {name.removesuffix(".weight"): s for name, s in model.items() if name.endswith(".weight") and len(s) > 1}
    plain = _underscored(layers)
    keys: dict[str, dict[str, str]] = {}
    lost = []
    for name in shapes:
        written, role = _split(name)
        layer = _resolve(written, layers, plain, renames)
        if not layer or role in keys.setdefault(layer, {}):
            lost.append(name)
        else:
            keys[layer][role] = name
    if lost:
        raise BadInput(
            f"lora.path: {path} does not fit this transformer: it has no layer for {len(lost)} of the"
            f" {counted(shapes, 'key')}: {first(lost)}"
        )
    found = {layer: Layer(**roles) for layer, roles in sorted(keys.items())}
    for layer, its in found.items():
        down, up = shapes[its.down], shapes[its.up]
        rank, weight = down[0] if down else 0, layers[layer]
        fits = len(down) == len(up) == len(weight) and rank and down[1:] == weight[1:] and up[:2] == (weight[0], rank)
        if not fits or up[2:] != (1,) * len(up[2:]):
            raise BadInput(
                f"lora.path: {path} does not fit this transformer: at {layer}, of shape {list(weight)}, its matrices"
                f" are {list(up)} and {list(down)}"
            )
    return found


def _split(name: str) -> tuple[str, str]:
    """A key's layer as it is written, and what the key is of it."""
    for pattern, role in _ROLES:
        if hit := pattern.search(name):
            return name[: hit.start()], role
    raise AssertionError(name)  # check_form has refused it


def _underscored(layers: Iterable[str]) -> dict[str, str]:
    """Layers by their name with underscores for dots; two that would be called the same are left out."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        found.setdefault(layer.replace(".", "_"), []).append(layer)
    return {name: same[0] for name, same in found.items() if len(same) == 1}


def _resolve(written: str, layers: Shapes, plain: Mapping[str, str], renames: Mapping[str, str]) -> str:
    """The model's name of a layer, or "" where it has none."""
    for prefix in UNDERSCORED:
        if written.startswith(prefix):
            name = written.removeprefix(prefix)
            return plain.get(name) or plain.get(_renamed(name, renames, "_"), "")
    bare = next((written.removeprefix(prefix) for prefix in PREFIXES if written.startswith(prefix)), written)
    return next((name for name in (bare, _renamed(bare, renames, ".")) if name in layers), "")


def _renamed(name: str, renames: Mapping[str, str], dot: str) -> str:
    """With the library's names for modules in the place of the authors', where they are whole words of the name."""
    for old, new in renames.items():
        edge = re.escape(dot)
        name = re.sub(rf"(^|{edge}){re.escape(old)}(?={edge}|$)", rf"\g<1>{new}", name)
    return name
