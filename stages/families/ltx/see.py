"""What LTX is given of conditions: latents of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.latents.form import Tensors
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Frames, Shot
from stages.families.ltx.codec import LTXCodec
from stages.families.ltx.models import track


class LTXSeer:
    """The VAE: the latent of each condition."""

    def __init__(self, model: ModelConfig) -> None:
        self.codec = LTXCodec(model)
        self.vae = self.codec.vae

    def see(self, shot: Shot, media: Sequence[Frames], knobs: Mapping[str, Any]) -> Tensors:
        """The posterior mean [C, 1, H, W] of each picture: `video`, `video.1`, ..."""
        return {track(i): self.codec.encode(frames) for i, frames in enumerate(media)}
