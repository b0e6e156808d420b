"""A pipeline of diffusers that runs as one step, and pixels in the form of latents."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stages.core.errors import BadInput
from stages.core.latents.form import BadLatent, DecodeRecipe, Floats, LatentSpec, Tensors
from stages.core.latents.frames import PIXELS as AS_PIXELS
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Frames, Given, Latents, Sampling, Shot, VaeFacts, joined
from stages.families.engine.runtime import Stage, quiet
from stages.families.load_report import heard, refusing
from stages.families.loading import load_component
from stages.families.whole.call import CONTROLS, OF_TAKES, RATES, components, pipeline_of
from stages.families.whole.signature import arguments_of, module_of

PIXELS = VaeFacts(vae_id=AS_PIXELS, spatial_ratio=1, temporal_ratio=1, channels=3, scale=0.01)

log = logging.getLogger("rushes.families")


class PixelCodec:
    """Turns [3, F, H, W] from 0 to 1 into frames and back."""

    vae = PIXELS

    def decode(self, video: Floats, recipe: DecodeRecipe) -> Frames:
        """The frames, rounded as diffusers rounds pictures."""
        return np.asarray((np.moveaxis(video, 0, -1) * 255).round(), np.uint8)

    def stream(self, video: Floats, recipe: DecodeRecipe) -> Iterator[Frames]:
        """The frames one by one."""
        return (self.decode(video[:, i : i + 1], recipe) for i in range(video.shape[1]))

    def encode(self, frames: Frames) -> Floats:
        """Frames as floats."""
        return np.ascontiguousarray(np.moveaxis(frames, -1, 0), np.float32) / np.float32(255)

    def encode_stream(self, pieces: Iterable[Frames]) -> Floats:
        """Frames as floats, which are held all."""
        return self.encode(joined(pieces))


class PixelSeer:
    """Hands the frames of conditions on, in the take's size."""

    vae = PIXELS

    def see(self, shot: Shot, media: Sequence[Frames], knobs: Mapping[str, Any]) -> Tensors:
        """`KIND.N`: the frames [F, H, W, 3] of the Nth condition that has a medium."""
        shown = [c for c in shot.conditions if c.sha256]
        return {f"{c.kind}.{i}": frames for i, (c, frames) in enumerate(zip(shown, media, strict=True))}


class WholePipeline(Stage):
    """All components of a checkpoint, and the pipeline's own call."""

    vae = PIXELS

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        self.name = pipeline_of(model)
        self.arguments = arguments_of(self.name)
        kind = getattr(importlib.import_module(module_of(self.name)), self.name)
        folder, index = model.folder(components(model)), model.read_index()
        parts = {n: self.place(load_component(model, n, self.dtype), turns=True) for n in components(model)}
        options = {k: v for k, v in index.items() if not isinstance(v, list) and not k.startswith("_")}
        wanted, optional = kind._get_signature_keys(kind)
        for name in parts:
            if name not in {*wanted, *optional}:
                raise BadInput(f"model.checkpoint: {self.name} has no component {name!r}, which {folder} holds")
        if missing := sorted(n for n in wanted if n not in parts and n not in index):
            raise BadInput(f"model.checkpoint: {folder} has no {', '.join(missing)}, which {self.name} needs")
        blank = {n: None for n in wanted if n in index and n not in parts}
        with refusing(folder), heard(folder):
            self.pipeline = quiet(kind(**blank, **parts, **{k: v for k, v in options.items() if k in optional}))

    def denoise(
        self, given: Given, spec: LatentSpec, sampling: Sampling, start: Latents | None = None, level: float = 1.0
    ) -> Latents:
        """The pipeline's frames as `video`, [3, F, H, W] from 0 to 1, and its sound as `sound` and `sound_rate`.
        `level` is the pipeline's own `strength`."""
        if start is not None:
            raise BadInput(f"{self.name} runs as one step: it takes no latents to begin with")
        values = {
            "prompt": given.columns["prompt"], "negative_prompt": given.columns["negative_prompt"] or None,
            "width": spec.width, "height": spec.height, "frames": spec.n_frames, "guidance": sampling.guidance,
        }  # fmt: skip
        asked = {OF_TAKES[k]: v for k, v in values.items() if v is not None and OF_TAKES[k] in self.arguments}
        asked |= {
            name: _as_asked(spec.fps_conditioning, self.arguments[name].form)
            for name in RATES
            if name in self.arguments
        }
        asked |= self._media(given)
        with self.running(spec.seed) as generator:
            made = self.pipeline(
                **asked, **sampling.knobs, num_inference_steps=sampling.steps, generator=generator, output_type="np"
            )
        frames = np.asarray(made.frames[0], np.float32)
        wanted = (spec.n_frames, spec.height, spec.width, 3)
        if frames.shape != wanted:
            had, asked_for = _size(frames.shape), _size(wanted)
            raise BadLatent(f"{self.name} made {had}, and {asked_for} were asked; ask for what it makes")
        return {"video": np.moveaxis(frames, -1, 0), **self._heard(made)}  # a view: a copy is as large as the clip

    def _heard(self, made: Any) -> dict[str, Any]:
        """`sound` [channels, N] and `sound_rate` [1], {} where the pipeline made none."""
        waves = getattr(made, "audio", None)
        if waves is None:
            return {}
        vocoder = getattr(self.pipeline, "vocoder", None)
        rate = getattr(vocoder.config, "output_sampling_rate", None) if vocoder is not None else None
        rate = rate or getattr(self.pipeline, "audio_sample_rate", None)
        if rate is None:
            log.warning("%s made sound as well, and does not say at which rate: it is not kept", self.name)
            return {}
        first = waves[0]
        first = first.float().cpu().numpy() if hasattr(first, "cpu") else first
        samples = np.atleast_2d(np.asarray(first, np.float32))
        return {"sound": np.ascontiguousarray(samples), "sound_rate": np.array([rate])}

    def _media(self, given: Given) -> dict[str, Any]:
        from PIL import Image

        found: dict[str, Any] = {}
        for number, one in enumerate(c for c in given.conditions if c.sha256):
            frames = [Image.fromarray(f) for f in given.seen[f"{one.kind}.{number}"]]
            if one.kind == "still":
                found["last_image" if one.role == "last" else "image"] = frames[0]
            elif one.kind == "source":
                found |= {"video": frames, **({} if one.level is None else {"strength": one.level})}
            else:
                found[next(name for name in CONTROLS if name in self.arguments)] = frames
        return found


def _as_asked(fps: float, form: str) -> float | int:
    return round(fps) if form == "whole" and fps == round(fps) else fps


def _size(shape: Sequence[int]) -> str:
    frames, height, width = shape[:3]
    return f"{frames} frames of {width}x{height}"


__all__ = ["PixelCodec", "PixelSeer", "WholePipeline"]
