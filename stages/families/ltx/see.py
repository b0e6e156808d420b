"""What LTX is given of conditions: latents of pictures and of the video to begin from."""

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
        """Posterior means: of each picture [C, 1, H, W], `video`, `video.1`, ...; `source` [C, F, H, W], of the video
        that the clip is made anew from."""
        shown = [c for c in shot.conditions if c.sha256]
        seen, pictures = dict[str, Any](), 0
        for condition, frames in zip(shown, media, strict=True):
            name = "source" if condition.kind == "source" else track(pictures)
            pictures += condition.kind != "source"
            seen[name] = self.codec.encode_stream([frames])
        return seen
