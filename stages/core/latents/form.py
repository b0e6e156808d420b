"""Latents and text embeddings at rest: the one form in which stages hand them on, whatever the model family.

A video latent is a safetensors file with one tensor, `video` [C, F, H, W], float32, contiguous, in VAE space (what
`vae.decode` takes), without padding. Its spec travels in the file's header, so that the file says by itself what it is.
A file may hold further tracks beside `video`, such as `audio`. Text embeddings, and what conditions are encoded to, are
named tensors: the names are those of the family that made them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

SCHEMA = 2
HEADER = "rushes"  # one key only: safetensors does not keep the order of several, and the bytes must not vary
SUFFIX = ".safetensors"
STD_BAND = (1e-3, 1e2)
"""Spread of a sound latent, in units of its VAE's own spread: outside lie blank and exploded ones."""

Floats = npt.NDArray[np.float32]

Tensors = Mapping[str, npt.NDArray[Any]]
"""Named arrays of one row, under a family's own names; floats are float32."""


class BadLatent(ValueError):
    """A latent or embedding that breaks the contract. The message names what is wrong; trying again is no use."""


@dataclass(frozen=True, kw_only=True)
class DecodeRecipe:
    """How to turn a latent into pixels: it changes them, so it belongs to the recipe.

    timestep and noise_scale, 0 to 1, are for VAEs that denoise while decoding; seed draws that noise. tiling is the
    edge of a tile in pixels, chunk the frames decoded at a time; 0 means all at once.
    """

    timestep: float = 0.0
    noise_scale: float = 0.0
    seed: int = 0
    tiling: int = 0
    chunk: int = 0


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """What a latent is. Sizes in pixels, fps in frames a second; seed is the seed of the stage that made it.

    fps is that of playback, fps_conditioning the one the model is told. vae_id names the VAE by its content; scale is
    that VAE's typical spread; parents are the SHA-256 of the files that this one was made from.
    """

    family: str
    vae_id: str
    spatial_ratio: int
    temporal_ratio: int
    width: int
    height: int
    n_frames: int
    fps: float
    fps_conditioning: float
    seed: int = 0
    scale: float = 1.0
    parents: tuple[str, ...] = ()
    decode: DecodeRecipe = field(default_factory=DecodeRecipe)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, height and width of the latent: pixels are ((F - 1) * t + 1, H * s, W * s)."""
        s, t = self.spatial_ratio, self.temporal_ratio
        return (self.n_frames - 1) // t + 1, self.height // s, self.width // s


def faster(spec: LatentSpec) -> LatentSpec:
    """The same clip at twice the frame rate."""
    longer = dataclasses.replace(spec, n_frames=2 * spec.n_frames - 1)
    return dataclasses.replace(longer, fps=spec.fps * 2, fps_conditioning=spec.fps_conditioning * 2)


def check(video: npt.NDArray[Any], spec: LatentSpec) -> None:
    """Raise BadLatent where a latent does not agree with its spec, is not finite, or is blank or exploded."""
    if video.ndim != 4:
        raise BadLatent(f"a latent is [C, F, H, W], this one has shape {list(video.shape)}: packed latents are refused")
    if video.dtype != np.float32:
        raise BadLatent(f"a latent is float32 at rest, this one is {video.dtype}")
    _check_ratios(spec)
    if tuple(video.shape[1:]) != spec.grid:
        raise BadLatent(
            f"{spec.n_frames} frames of {spec.width}x{spec.height} at ratios {spec.temporal_ratio}/{spec.spatial_ratio}"
            f" are a latent of {list(spec.grid)} (F, H, W), this one is {list(video.shape[1:])}"
        )
    _check_values(video, spec)


def _check_ratios(spec: LatentSpec) -> None:
    s, t = spec.spatial_ratio, spec.temporal_ratio
    if s < 1 or t < 1:
        raise BadLatent(f"compression ratios must be whole numbers of at least 1, not {s} and {t}")
    if spec.width < s or spec.height < s or spec.width % s or spec.height % s:
        raise BadLatent(f"{spec.width}x{spec.height} is not a multiple of the VAE's spatial ratio {s}")
    if spec.n_frames < 1 or (spec.n_frames - 1) % t:
        raise BadLatent(f"{spec.n_frames} frames is not k * {t} + 1, as the VAE's temporal ratio requires")
    if not (spec.fps > 0 and spec.fps_conditioning > 0):
        raise BadLatent(f"frame rates must be above 0, not {spec.fps} and {spec.fps_conditioning}")


def _check_values(video: Floats, spec: LatentSpec) -> None:
    bad = int(video.size - np.isfinite(video).sum())
    if bad:
        raise BadLatent(f"{bad} of the {video.size} values of the latent are not finite")
    spread, (low, high) = float(video.std(dtype=np.float64)), STD_BAND
    if video.size > 1 and not low * spec.scale <= spread <= high * spec.scale:
        raise BadLatent(
            f"the latent has standard deviation {spread:.3g}; "
            f"sane for this VAE is {low * spec.scale:.3g} to {high * spec.scale:.3g}"
        )


def pack(video: npt.NDArray[Any], spec: LatentSpec, tracks: Tensors | None = None) -> bytes:
    """The file of one latent, with its further tracks: the same bytes for the same values. Raises BadLatent."""
    check(video, spec)
    check_tensors(held := {**(tracks or {}), "video": np.ascontiguousarray(video)})
    return save_tensors(held, _header(_plain(spec)))


def unpack(data: bytes, vae_id: str = "") -> tuple[Floats, LatentSpec]:
    """A latent [C, F, H, W] and its spec. Raises BadLatent for a broken file and, if vae_id is given, another VAE."""
    tracks, spec = unpack_tracks(data, vae_id)
    return tracks["video"], spec


def unpack_tracks(data: bytes, vae_id: str = "") -> tuple[Tensors, LatentSpec]:
    """`unpack` with all tracks, of which `video` is one. Raises BadLatent as it does."""
    tensors, header = _open(data)
    if "video" not in tensors:
        raise BadLatent(f"the file holds {sorted(tensors)} and no `video`: it is not a video latent")
    spec = _spec(header)
    _check_vae(spec, vae_id)
    check(tensors["video"], spec)
    check_tensors(tensors)
    return tensors, spec


def _check_vae(spec: LatentSpec, vae_id: str) -> None:
    if vae_id and spec.vae_id != vae_id:
        raise BadLatent(f"this latent belongs to the VAE {spec.vae_id}, not to {vae_id}: the hand-off is refused")


def check_tensors(tensors: Tensors) -> None:
    """Raise BadLatent for named tensors that cannot be handed on: none, or floats that are not finite float32."""
    if not tensors:
        raise BadLatent("there are no tensors to hand on")
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and (tensor.dtype != np.float32 or not np.isfinite(tensor).all()):
            raise BadLatent(f"{name} must be finite float32, not {tensor.dtype} {list(tensor.shape)}")


def pack_text(text: Tensors, family: str) -> bytes:
    """The file of one prompt's embeddings: the same bytes for the same values. Raises BadLatent."""
    check_tensors(text)
    return save_tensors({k: np.ascontiguousarray(v) for k, v in text.items()}, _header({"family": family}))


def unpack_text(data: bytes, family: str = "") -> Tensors:
    """One prompt's embeddings. Raises BadLatent for a broken file and, where family is given, for another family's."""
    tensors, header = _open(data)
    if "vae_id" in header:
        raise BadLatent(f"the file holds {sorted(tensors)} of a VAE: no text embeddings")
    found = str(header.get("family", ""))
    if family and found != family:
        raise BadLatent(f"these embeddings are of the family {found!r}, not {family!r}")
    check_tensors(tensors)
    return tensors


def pack_seen(tensors: Tensors, spec: LatentSpec) -> bytes:
    """The file of what conditions were encoded to; spec: the clip for which. Raises BadLatent."""
    check_tensors(tensors)
    return save_tensors({k: np.ascontiguousarray(v) for k, v in tensors.items()}, _header(_plain(spec)))


def unpack_seen(data: bytes, vae_id: str = "") -> tuple[Tensors, LatentSpec]:
    """What conditions were encoded to. Raises BadLatent for a broken file and, if vae_id is given, another VAE."""
    tensors, header = _open(data)
    spec = _spec(header)
    _check_vae(spec, vae_id)
    check_tensors(tensors)
    return tensors, spec


def _plain(spec: LatentSpec) -> dict[str, Any]:
    return dataclasses.asdict(spec)


def _header(values: Mapping[str, Any]) -> dict[str, str]:
    return {HEADER: json.dumps({"schema": SCHEMA, **values}, sort_keys=True)}


def _open(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    try:
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        raw = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(HEADER)
        header = json.loads(raw) if raw else None
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadLatent(f"not a readable safetensors file: {error}") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise BadLatent(f"the file's header has no {HEADER!r} entry of schema {SCHEMA}: it was not written by a stage")
    return tensors, header


def _spec(header: Mapping[str, Any]) -> LatentSpec:
    values = {k: v for k, v in header.items() if k != "schema"}
    try:
        recipe = DecodeRecipe(**values.pop("decode"))
        return LatentSpec(**{**values, "parents": tuple(values["parents"])}, decode=recipe)
    except (KeyError, TypeError) as error:
        raise BadLatent(f"the latent's header is incomplete or has unknown fields: {error}") from None
