"""The LTX VAE at work: pixels from latents and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo
from diffusers.video_processor import VideoProcessor

from stages.core.latents.form import DecodeRecipe, Floats
from stages.core.step import PermanentError
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Frames, joined
from stages.families.engine.chunks import chunks, regrouped
from stages.families.engine.remembering import encoder_of
from stages.families.engine.runtime import Stage
from stages.families.loading import load_part
from stages.families.ltx.vae import VaeCard


class LTXCodec(Stage):
    """The VAE: pixels from latents and back."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        folder = model.folder(("vae",))
        self.card = VaeCard(model, self.dtype)
        self.vae = self.card.facts
        self.network = self.place(load_part(AutoencoderKLLTXVideo, folder / "vae", self.dtype))
        self.processor = VideoProcessor(vae_scale_factor=self.vae.spatial_ratio)

    def decode(self, video: Floats, recipe: DecodeRecipe) -> Frames:
        """RGB frames [F, H, W, 3], 0 to 255. The recipe's seed draws whatever noise this VAE decodes with.

        Raises PermanentError where a frame is not finite.
        """
        return joined(self.stream(video, recipe))

    def stream(self, video: Floats, recipe: DecodeRecipe) -> Iterator[Frames]:
        """`decode` in pieces: chunks of `recipe.chunk` frames.

        The library's own decoding in chunks (diffusers 0.42.1) shows every frame behind the first chunk one frame late:
        it takes the last frame off a chunk where the first one is too much.
        """
        latents, timestep = torch.from_numpy(np.ascontiguousarray(video))[None], None
        if self.card.config.timestep_conditioning:
            noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(recipe.seed))
            latents = (1 - recipe.noise_scale) * latents + recipe.noise_scale * noise
            timestep = torch.tensor([recipe.timestep], device=self.device, dtype=self.dtype)
        for chunk in chunks(latents.shape[2], recipe.chunk, self.vae.temporal_ratio):
            with self.running(recipe.seed):  # each chunk draws the same noise inside the VAE: it knows no time
                self._tile(recipe)
                part = latents[:, :, chunk.start : chunk.end].to(self.device, self.dtype)
                pixels = self.network.decode(part, timestep, return_dict=False)[0][:, :, chunk.first : chunk.last]
                self._check(pixels, what="frames")
                clip = self.processor.postprocess_video(pixels, output_type="np")[0]
                frames = cast(Frames, (clip * 255).round().astype(np.uint8))
            yield frames

    def encode(self, frames: Frames) -> Floats:
        """The mean of the posterior [C, F, H, W] in VAE space. Frames must number k * temporal ratio + 1."""
        return self._encoded(frames, lambda pixels: self.network.encode(pixels).latent_dist.mode())

    def encode_stream(self, pieces: Iterable[Frames]) -> Floats:
        """`encode` in pieces of some latent frames."""
        encode, first, rest = encoder_of(self.network, self.vae.temporal_ratio)
        return np.concatenate([self._encoded(f, encode) for f in regrouped(pieces, first, rest)], axis=1)

    def _encoded(self, frames: Frames, encode: Callable[[torch.Tensor], torch.Tensor]) -> Floats:
        with self.running(0):
            self._tile(DecodeRecipe())
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            mean = encode(pixels.to(self.device, self.dtype))
            self._check(mean, what="latent frames")
            return cast(Floats, mean[0].float().cpu().contiguous().numpy())

    def _check(self, made: torch.Tensor, what: str) -> None:
        """Raise PermanentError where what the VAE has made is not finite; as 8-bit pixels that would just be black."""
        if bad := int((~torch.isfinite(made)).any(dim=(0, 1, 3, 4)).sum()):
            raise PermanentError(
                f"the VAE made {bad} of {made.shape[2]} {what} with values that are not finite in {self.model.dtype};"
                " try model.dtype=float32"
            )

    def _tile(self, recipe: DecodeRecipe) -> None:
        """Tiles overlap by a quarter and change pixels, so they come from the recipe, every time."""
        vae, ratio = self.network, self.vae.spatial_ratio
        vae.use_slicing, vae.use_tiling, vae.use_framewise_decoding = False, recipe.tiling > 0, False
        if recipe.tiling:
            edge = max(2 * ratio, recipe.tiling // ratio * ratio)
            stride = max(ratio, edge * 3 // 4 // ratio * ratio)
            vae.enable_tiling(edge, edge, None, stride, stride, None)
