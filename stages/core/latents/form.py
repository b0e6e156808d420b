"""Latents and text embeddings at rest: the one form in which stages hand them on, whatever the model family.

A video latent is a safetensors file with one tensor, `video` [C, F, H, W], float32, contiguous, in VAE space (what
`vae.decode` takes), without padding. Its spec travels in the file's header, so that the file says by itself what it is.
Text embeddings are `embeds` [L, D] and `mask` [L], and the same for the negative prompt.
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


def pack(video: npt.NDArray[Any], spec: LatentSpec) -> bytes:
    """The file of one latent: the same bytes for the same values. Raises BadLatent."""
    check(video, spec)
    return save_tensors({"video": np.ascontiguousarray(video)}, _header(_plain(spec)))


def unpack(data: bytes, vae_id: str = "") -> tuple[Floats, LatentSpec]:
    """A latent [C, F, H, W] and its spec. Raises BadLatent for a broken file and, if vae_id is given, another VAE."""
    tensors, header = _open(data)
    if "video" not in tensors:
        raise BadLatent(f"the file holds {sorted(tensors)} and no `video`: it is not a video latent")
    spec = _spec(header)
    if vae_id and spec.vae_id != vae_id:
        raise BadLatent(f"this latent belongs to the VAE {spec.vae_id}, not to {vae_id}: the hand-off is refused")
    check(tensors["video"], spec)
    return tensors["video"], spec


@dataclass(frozen=True, kw_only=True, eq=False)
class TextEmbeds:
    """One prompt and its negative, encoded: embeds [L, D] float32, mask [L] bool (True where there is a token)."""

    embeds: Floats
    mask: npt.NDArray[np.bool_]
    negative_embeds: Floats
    negative_mask: npt.NDArray[np.bool_]
    family: str = ""

    def __post_init__(self) -> None:
        for prefix in ("", "negative_"):
            embeds, mask = getattr(self, prefix + "embeds"), getattr(self, prefix + "mask")
            if embeds.ndim != 2 or embeds.dtype != np.float32 or not np.isfinite(embeds).all():
                raise BadLatent(
                    f"{prefix}embeds must be finite float32 [L, D], not {embeds.dtype} {list(embeds.shape)}"
                )
            if mask.shape != embeds.shape[:1] or mask.dtype != np.bool_ or not mask.any():
                raise BadLatent(f"{prefix}mask must be bool [{len(embeds)}] with a token in it, is {list(mask.shape)}")
        if self.embeds.shape != self.negative_embeds.shape:
            raise BadLatent("the prompt's and the negative prompt's embeddings differ in shape")


_TEXT = ("embeds", "mask", "negative_embeds", "negative_mask")


def pack_text(text: TextEmbeds) -> bytes:
    """The file of one prompt's embeddings: the same bytes for the same values."""
    return save_tensors({k: np.ascontiguousarray(getattr(text, k)) for k in _TEXT}, _header({"family": text.family}))


def unpack_text(data: bytes, family: str = "") -> TextEmbeds:
    """One prompt's embeddings. Raises BadLatent for a broken file and, where family is given, for another family's."""
    tensors, header = _open(data)
    missing = [k for k in _TEXT if k not in tensors]
    if missing:
        raise BadLatent(f"the file has no {missing[0]!r}: it holds no text embeddings")
    found = str(header.get("family", ""))
    if family and found != family:
        raise BadLatent(f"these embeddings are of the family {found!r}, not {family!r}")
    return TextEmbeds(**{k: tensors[k] for k in _TEXT}, family=found)


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
