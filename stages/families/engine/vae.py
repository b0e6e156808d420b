"""A VAE of any family, by its config: ratios, statistics, the order of axes; and one at work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import diffusers
import numpy as np
import torch

from stages.core.errors import BadInput
from stages.core.latents.form import DecodeRecipe, Floats
from stages.core.step import PermanentError
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.digests import weights_digest
from stages.families.contract import Frames, VaeFacts, joined
from stages.families.engine.card import whole_config
from stages.families.engine.causal import CausalEncoder, decode_causally
from stages.families.engine.chunks import chunks, regrouped
from stages.families.engine.remembering import encoder_of
from stages.families.engine.runtime import Stage
from stages.families.engine.variant import Adapter
from stages.families.loading import load_part

FRAMES_AXIS = {"BCFHW": 2, "BFCHW": 1}


class Form:
    """A checkpoint's latents: in VAE space [C, F, H, W] as they rest, and as the pipeline holds them."""

    def __init__(self, model: ModelConfig, layout: str) -> None:
        folder = model.folder(("vae",))
        self.kind, self.layout = vae_class(model), layout
        self.config = whole_config(self.kind, model.read_part("vae"))
        channels = int(self.config.get("z_dim") or self.config["latent_channels"])
        self.mean, self.std = _statistics(self.config, channels)
        spatial, temporal = ratios(self.config)
        self.facts = VaeFacts(
            vae_id=weights_digest(folder, ("vae",)),
            spatial_ratio=spatial,
            temporal_ratio=temporal,
            channels=channels,
            scale=float(self.std.mean()),
        )

    def to_pipeline(self, video: Floats) -> torch.Tensor:
        """[C, F, H, W] in VAE space -> [1, ...] as the pipeline holds it, spread near 1."""
        latent = (torch.from_numpy(np.ascontiguousarray(video))[None] - self.mean) / self.std
        return latent.transpose(1, 2) if self.layout == "BFCHW" else latent

    def to_rest(self, latents: torch.Tensor) -> Floats:
        """[1, ...] as the pipeline holds it -> [C, F, H, W] in VAE space, float32."""
        latents = latents.float().cpu()
        latents = latents.transpose(1, 2) if self.layout == "BFCHW" else latents
        return cast(Floats, (latents * self.std + self.mean)[0].contiguous().numpy())


def vae_class(model: ModelConfig) -> Any:
    """The class of a checkpoint's VAE, by its index. Raises BadInput."""
    entry = model.read_index().get("vae")
    name = str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else ""
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise BadInput(f"model.checkpoint: {model.checkpoint} names the VAE {name!r}, which is no class of diffusers")
    return kind


def ratios(config: dict[str, Any]) -> tuple[int, int]:
    """Spatial and temporal ratio of a VAE, by its config."""
    if "scale_factor_spatial" in config:
        return int(config["scale_factor_spatial"]), int(config["scale_factor_temporal"])
    return 2 ** (len(config["block_out_channels"]) - 1), 1


def _statistics(config: dict[str, Any], channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of each channel, [1, C, 1, 1, 1]: given one by one, or as one factor for all."""
    shape = (1, channels, 1, 1, 1)
    if config.get("latents_mean") and config.get("latents_std"):
        mean, std = (torch.tensor(config[f"latents_{name}"], dtype=torch.float32) for name in ("mean", "std"))
        return mean.view(shape), std.view(shape)
    return torch.zeros(shape), torch.full(shape, 1.0 / float(config["scaling_factor"]))


class EngineCodec(Stage):
    """The VAE: pixels from latents and back."""

    def __init__(self, family: Adapter, model: ModelConfig) -> None:
        super().__init__(model)
        variant = family.variant(model)
        self.form, self.decodes = family.form(model), variant.offers.decodes
        self.vae = self.form.facts
        self.by_frame = self.vae.temporal_ratio == 1
        self.network = self.place(load_part(self.form.kind, model.folder(("vae",)) / "vae", self.dtype))
        self.mixes_frames = "num_frames" in inspect.signature(self.network.forward).parameters

    def decode(self, video: Floats, recipe: DecodeRecipe) -> Frames:
        """RGB frames [F, H, W, 3], 0 to 255. Raises PermanentError where a frame is not finite."""
        return joined(self.stream(video, recipe))

    def stream(self, video: Floats, recipe: DecodeRecipe) -> Iterator[Frames]:
        """`decode` in pieces: a latent frame at a time where the VAE is causal, a frame where it knows no time, else
        `recipe.chunk` frames."""
        latents = torch.from_numpy(np.ascontiguousarray(video)).to(self.device, self.dtype)
        pieces = self._pieces(latents, recipe.chunk)
        while True:
            with self.running(recipe.seed):  # nothing of this is left to the one who takes the frames
                self._tile(recipe)
                if (pixels := next(pieces, None)) is None:
                    return
                frames = self._shown(pixels)
            yield frames

    def _shown(self, pixels: torch.Tensor) -> Frames:
        """Frames of [3, F, H, W] from -1 to 1."""
        if bad := int((~torch.isfinite(pixels)).any(dim=(0, 2, 3)).sum()):
            raise PermanentError(
                f"the VAE made {bad} of {pixels.shape[1]} frames with values that are not finite in"
                f" {self.model.dtype}; try model.dtype=float32"
            )
        shown = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).cpu().numpy()
        return cast(Frames, (shown * 255).round().astype(np.uint8))

    def encode(self, frames: Frames) -> Floats:
        """The mean of the posterior [C, F, H, W] in VAE space."""
        return self._encoded(frames, lambda pixels: self.network.encode(pixels).latent_dist.mode())

    def encode_stream(self, pieces: Iterable[Frames]) -> Floats:
        """`encode` in pieces: a latent frame at a time, or a frame where the encoder knows no time."""
        encode, first, rest = self._encoder()
        return np.concatenate([self._encoded(f, encode) for f in regrouped(pieces, first, rest)], axis=1)

    def _encoder(self) -> tuple[Callable[[torch.Tensor], torch.Tensor], int, int]:
        """What encodes the pieces of one clip, and how many frames the first and each further one has."""
        if isinstance(self.network, diffusers.AutoencoderKLWan):
            return CausalEncoder(self.network), 1, self.vae.temporal_ratio
        if self.by_frame:
            return lambda pixels: self.network.encode(pixels).latent_dist.mode(), 1, 1
        return encoder_of(self.network, self.vae.temporal_ratio)

    def _encoded(self, frames: Frames, encode: Callable[[torch.Tensor], torch.Tensor]) -> Floats:
        with self.running(0):
            self._tile(DecodeRecipe())
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
            pixels = pixels.to(self.device, self.dtype)
            latent = encode(pixels if self.by_frame else pixels.transpose(0, 1)[None]).float().cpu()
            latent = latent.transpose(0, 1) if self.by_frame else latent[0]
            return cast(Floats, latent.contiguous().numpy())

    def _pieces(self, latents: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        """[3, n, H, W] of [C, F, h, w], in order."""
        if isinstance(self.network, diffusers.AutoencoderKLWan):
            yield from (made[0] for made in decode_causally(self.network, latents[None]))
        elif not self.by_frame:
            yield self.network.decode(latents[None], return_dict=False)[0][0]
        else:
            for chunk in chunks(latents.shape[1], size if self.mixes_frames else size or 1, 1, self.mixes_frames):
                part = latents[:, chunk.start : chunk.end].transpose(0, 1)
                more = {"num_frames": len(part)} if self.mixes_frames else {}
                made = self.network.decode(part, **more).sample
                yield made[chunk.first : chunk.last].transpose(0, 1)

    def _tile(self, recipe: DecodeRecipe) -> None:
        """Tiles overlap by a quarter and change pixels, so they come from the recipe, every time."""
        if "tiling" not in self.decodes:
            return
        self.network.use_tiling = recipe.tiling > 0
        if recipe.tiling:
            ratio = self.vae.spatial_ratio
            edge = max(2 * ratio, recipe.tiling // ratio * ratio)
            stride = max(ratio, edge * 3 // 4 // ratio * ratio)
            self.network.enable_tiling(
                tile_sample_min_height=edge, tile_sample_min_width=edge,
                tile_sample_stride_height=stride, tile_sample_stride_width=stride,
            )  # fmt: skip
