"""The causal VAE of Wan, a latent frame at a time: its convolutions remember the frames before, so nothing is lost.

`AutoencoderKLWan.decode` does the same and keeps every frame until the last one is there; `encode` holds them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

Span = tuple[slice, slice]
"""Rows and columns of one tile of a latent."""


def decode_causally(network: Any, latent: torch.Tensor) -> Iterator[torch.Tensor]:
    """What `network.decode` makes of [1, C, F, h, w], as [1, 3, n, H, W] of each latent frame, from -1 to 1.

    In tiles where the network is set to tile and the frame is larger than one; each of them has its own memory.
    """
    tiles = _tiles(network, latent.shape[3], latent.shape[4])
    memories = [[_memory(network.decoder) for _ in row] for row in tiles]
    for number in range(latent.shape[2]):
        rows = [
            [
                _decoded(network, latent[:, :, number : number + 1, span[0], span[1]], memory, number == 0)
                for span, memory in zip(row, kept, strict=True)
            ]
            for row, kept in zip(tiles, memories, strict=True)
        ]
        made = rows[0][0] if len(tiles) == len(tiles[0]) == 1 else _stitched(network, rows, latent)
        if network.config.patch_size is not None:
            made = unpatchify(made, patch_size=network.config.patch_size)
        yield made.clamp(-1.0, 1.0)


class CausalEncoder:
    """The encoder of one clip: called with its pixels piece by piece, one frame first and then four at a time, as
    `AutoencoderKLWan.encode` goes through a whole clip."""

    def __init__(self, network: Any) -> None:
        self.network, self._kept = network, _memory(network.encoder)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The posterior mean [1, C, 1, h, w] of the next pixels [1, 3, n, H, W], from -1 to 1."""
        if self.network.config.patch_size is not None:
            pixels = patchify(pixels, patch_size=self.network.config.patch_size)
        made = self.network.quant_conv(self.network.encoder(pixels, feat_cache=self._kept, feat_idx=[0]))
        return DiagonalGaussianDistribution(made).mode()


def _decoded(network: Any, latent: torch.Tensor, memory: list[Any], first: bool) -> torch.Tensor:
    found: torch.Tensor = network.decoder(
        network.post_quant_conv(latent), feat_cache=memory, feat_idx=[0], first_chunk=first
    )
    return found


def _memory(part: Any) -> list[Any]:
    """An empty memory: a place for each convolution of an encoder or decoder."""
    return [None] * sum(isinstance(m, WanCausalConv3d) for m in part.modules())


def _tiles(network: Any, height: int, width: int) -> list[list[Span]]:
    """The tiles of a latent, as `network.tiled_decode` cuts them; one where it would not be called."""
    ratio = network.spatial_compression_ratio
    high, wide = network.tile_sample_min_height // ratio, network.tile_sample_min_width // ratio
    if not network.use_tiling or (height <= high and width <= wide):
        return [[(slice(None), slice(None))]]
    down, along = network.tile_sample_stride_height // ratio, network.tile_sample_stride_width // ratio
    return [[(slice(y, y + high), slice(x, x + wide)) for x in range(0, width, along)] for y in range(0, height, down)]


def _stitched(network: Any, rows: list[list[torch.Tensor]], latent: torch.Tensor) -> torch.Tensor:
    """One picture of its tiles, which fade over where they overlap."""
    patch = network.config.patch_size or 1
    high, wide = network.tile_sample_stride_height // patch, network.tile_sample_stride_width // patch
    fade_y, fade_x = network.tile_sample_min_height // patch - high, network.tile_sample_min_width // patch - wide
    whole = []
    for y, row in enumerate(rows):
        kept = []
        for x, tile in enumerate(row):
            tile = network.blend_v(rows[y - 1][x], tile, fade_y) if y else tile
            tile = network.blend_h(row[x - 1], tile, fade_x) if x else tile
            kept.append(tile[..., :high, :wide])
        whole.append(torch.cat(kept, dim=4))
    height, width = (side * network.spatial_compression_ratio // patch for side in latent.shape[3:])
    return torch.cat(whole, dim=3)[..., :height, :width]
