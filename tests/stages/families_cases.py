"""Every variant of the engine's families on its tiny checkpoint: what it is given, and the library's one call."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from PIL import Image

from stages.core.conditions import Condition
from stages.core.latents.form import DecodeRecipe, Floats, LatentSpec
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Frames, Given, Latents, Sampling, Shot, load_family

PROMPT, OTHER, NEGATIVE = "a red cube turns", "snow on a roof", "blurry"
SEED, STEPS, TOKENS = 3, 4, 16


def picture(width: int, height: int, seed: int) -> Frames:
    """Noise [1, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), np.uint8)


def video(width: int, height: int, frames: int, seed: int) -> Frames:
    """Noise [F, H, W, 3]."""
    return np.concatenate([picture(width, height, seed * 100 + i) for i in range(frames)])


def mask(width: int, height: int, frames: int, seed: int) -> Frames:
    """White where it may change: one half, that of the seed's parity, in every other frame."""
    found = np.zeros((frames, height, width, 3), np.uint8)
    half = width // 2
    found[::2, :, half:] = 255
    return found if seed % 2 else found[:, :, ::-1].copy()


def images(frames: Frames) -> list[Image.Image]:
    return [Image.fromarray(f) for f in frames]


@dataclass(frozen=True)
class Case:
    """One variant. `one_call` says, with the names of the library, what the conditions are called there."""

    family: str
    maker: str
    pipeline: str
    guidance: float
    conditions: tuple[tuple[Condition, Callable[..., Frames]], ...] = ()
    one_call: Callable[[list[Frames]], dict[str, Any]] = lambda media: {}
    size: tuple[int, int, int] = (32, 32, 9)
    bound: float = 1e-5
    extra: dict[str, Any] = field(default_factory=dict)
    further: tuple[str, ...] = ()
    label: str = ""
    tokens: int = TOKENS

    @property
    def name(self) -> str:
        return f"{self.family}-{self.maker}{self.label}"

    def media(self, seed: int = 0) -> list[Frames]:
        """The media of the conditions; another seed gives others."""
        width, height, frames = self.size
        made = []
        for number, (condition, make) in enumerate(self.conditions):
            still = condition.kind in ("still", "reference")
            size = (width, height) if still else (width, height, frames)
            made.append(make(*size, seed=seed * 11 + number + 1))
        return made


GREY = np.full((9, 32, 32, 3), 128, np.uint8)


def condition(kind: str, role: str | None = None, **more: Any) -> Condition:
    return Condition(kind=kind, role=role, sha256=f"{kind}-{role}-{more.get('frame')}", **more)


OLDER = {
    "frame_rate": 8.0, "use_cross_timestep": False, "stg_scale": 0.0, "audio_stg_scale": 0.0,
    "spatio_temporal_guidance_blocks": None,
}  # fmt: skip
EXACT = 1e-6
NEWER = {"frame_rate": 8.0, "spatio_temporal_guidance_blocks": [1]}
FIRST, LAST = condition("still", "first", frame=0), condition("still", "last")
CASES = [
    Case(
        "svd",
        "image-to-video",
        "StableVideoDiffusionPipeline",
        3.0,
        ((FIRST, picture),),
        size=(64, 64, 4),
        one_call=lambda m: {"image": images(m[0])[0], "fps": 8},
    ),
    Case("wan", "t2v", "WanPipeline", 5.0),
    Case("wan", "two-experts", "WanPipeline", 5.0),
    Case(
        "wan", "i2v", "WanImageToVideoPipeline", 5.0, ((FIRST, picture),), one_call=lambda m: {"image": images(m[0])[0]}
    ),
    Case(
        "wan",
        "ti2v",
        "WanImageToVideoPipeline",
        5.0,
        ((FIRST, picture),),
        one_call=lambda m: {"image": images(m[0])[0]},
        label="-picture",
    ),
    Case(
        "wan",
        "ti2v-pictures",
        "WanImageToVideoPipeline",
        5.0,
        ((FIRST, picture),),
        one_call=lambda m: {"image": images(m[0])[0]},
    ),
    Case("wan", "ti2v", "WanPipeline", 5.0, label="-text"),
    Case(
        "wan",
        "i2v-two-experts",
        "WanImageToVideoPipeline",
        5.0,
        ((FIRST, picture), (LAST, picture)),
        one_call=lambda m: {"image": images(m[0])[0], "last_image": images(m[1])[0]},
    ),
    Case(
        "wan",
        "flf2v",
        "WanImageToVideoPipeline",
        5.0,
        ((FIRST, picture), (LAST, picture)),
        one_call=lambda m: {"image": images(m[0])[0], "last_image": images(m[1])[0]},
    ),
    Case(
        "wan",
        "vace",
        "WanVACEPipeline",
        5.0,
        ((condition("control", "depth", scale=0.7), video), (condition("reference"), picture)),
        one_call=lambda m: {"video": images(m[0]), "reference_images": images(m[1])[:1], "conditioning_scale": 0.7},
        label="-control",
    ),
    Case(
        "wan",
        "vace",
        "WanVACEPipeline",
        5.0,
        ((condition("source"), video), (condition("clip", "mask"), mask)),
        one_call=lambda m: {"video": images(m[0]), "mask": [Image.fromarray(f[..., 0], "L") for f in m[1]]},
        label="-inpainting",
    ),
    Case(
        "wan",
        "vace",
        "WanVACEPipeline",
        5.0,
        ((FIRST, picture), (condition("still", "keyframe", frame=4), picture), (LAST, picture)),
        one_call=lambda m: {
            "video": images(np.concatenate([m[0], GREY[:3], m[1], GREY[:3], m[2]])),
            "mask": [Image.new("L", (32, 32), 0 if i in (0, 4, 8) else 255) for i in range(9)],
        },
        label="-stills",
    ),
    Case(
        "skyreels",
        "diffusion-forcing",
        "SkyReelsV2DiffusionForcingPipeline",
        6.0,
        one_call=lambda m: {"fps": 24},
        label="-text",
    ),
    Case(
        "skyreels",
        "diffusion-forcing",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        6.0,
        ((FIRST, picture),),
        one_call=lambda m: {"image": images(m[0])[0], "fps": 24},
        label="-picture",
    ),
    Case("animatediff", "text-to-video", "AnimateDiffPipeline", 7.5, size=(64, 64, 4)),
    Case(
        "animatediff",
        "controlnet",
        "AnimateDiffControlNetPipeline",
        7.5,
        ((condition("control", "edges", scale=0.8, end=0.9), video),),
        size=(64, 64, 4),
        further=("controlnet",),
        one_call=lambda m: {
            "conditioning_frames": images(m[0]),
            "controlnet_conditioning_scale": 0.8,
            "control_guidance_end": 0.9,
        },
    ),
    Case(
        "animatediff",
        "sparsectrl",
        "AnimateDiffSparseControlNetPipeline",
        7.5,
        ((FIRST, picture), (condition("still", "keyframe", frame=2, scale=0.9), picture), (LAST, picture)),
        size=(64, 64, 4),
        bound=2e-4,  # of latents up to 70, whose last bits differ with the processor
        further=("controlnet",),
        one_call=lambda m: {
            "conditioning_frames": images(np.concatenate(m)),
            "controlnet_frame_indices": [0, 2, 3],
            "controlnet_conditioning_scale": 0.9,
        },
    ),
    Case("ltx2", "2.0", "LTX2Pipeline", 3.0, size=(64, 64, 9), tokens=128, extra=OLDER, bound=EXACT),
    Case("ltx2", "2.3", "LTX2Pipeline", 3.0, size=(64, 64, 9), tokens=128, extra=NEWER, bound=EXACT, label="-text"),
    Case(
        "ltx2",
        "2.3",
        "LTX2ImageToVideoPipeline",
        3.0,
        ((FIRST, picture),),
        size=(64, 64, 9),
        tokens=128,
        extra=NEWER,
        bound=EXACT,
        label="-picture",
        one_call=lambda m: {"image": images(m[0])[0]},
    ),
    Case(
        "ltx2",
        "2.0",
        "LTX2ConditionPipeline",
        3.0,
        ((FIRST, picture), (condition("still", "keyframe", frame=1, scale=0.8), picture), (LAST, picture)),
        size=(64, 64, 17),
        tokens=128,
        extra=OLDER,
        bound=EXACT,
        label="-stills",
        one_call=lambda m: {
            "conditions": [
                LTX2VideoCondition(frames=images(frames)[0], index=index, strength=strength)
                for frames, index, strength in zip(m, (0, 1, -1), (1.0, 0.8, 1.0), strict=True)
            ]
        },
    ),
    Case(
        "ltx2",
        "2.3",
        "LTX2ConditionPipeline",
        3.0,
        ((FIRST, picture), (condition("still", "keyframe", frame=1, scale=0.8), picture), (LAST, picture)),
        size=(64, 64, 17),
        tokens=128,
        extra=NEWER,
        bound=EXACT,
        label="-stills",
        one_call=lambda m: {
            "conditions": [
                LTX2VideoCondition(frames=images(frames)[0], index=index, strength=strength)
                for frames, index, strength in zip(m, (0, 1, -1), (1.0, 0.8, 1.0), strict=True)
            ]
        },
    ),
]


def case_of(name: str) -> Case:
    return next(c for c in CASES if c.name == name)


@dataclass
class Stages:
    """The stages of one checkpoint, loaded once."""

    case: Case
    folder: Path

    def __post_init__(self) -> None:
        parts = {name: str(self.folder / name) for name in self.case.further}
        self.model = ModelConfig(family=self.case.family, checkpoint=str(self.folder), device="cpu", parts=parts)
        self.family = load_family(self.case.family)
        self.offers = self.family.offers(self.model)
        self.reader = self.family.text(self.model) if "text" in self.offers.parts else None
        self.seer, self.denoiser = self.family.seer(self.model), self.family.denoiser(self.model)
        self.codec = self.family.codec(self.model)
        self.texts: dict[str, Any] = {}

    def text(self, prompt: str) -> Any:
        """The embeddings of a prompt, made once."""
        if self.reader and prompt not in self.texts:
            tokens = self.case.tokens if self.offers.tokens else 0
            self.texts[prompt] = self.reader.encode(prompt, NEGATIVE, tokens)[0]
        return self.texts.get(prompt)

    def spec(self, seed: int) -> LatentSpec:
        vae, (width, height, frames) = self.denoiser.vae, self.case.size
        return LatentSpec(
            family=self.case.family, vae_id=vae.vae_id, scale=vae.scale, seed=seed,
            spatial_ratio=vae.spatial_ratio, temporal_ratio=vae.temporal_ratio,
            width=width, height=height, n_frames=frames, fps=8.0, fps_conditioning=8.0,
        )  # fmt: skip

    def given(
        self, prompt: str = PROMPT, seed: int = SEED, media: list[Frames] | None = None, drop: int = -1, **knobs: Any
    ) -> Given:
        """What the denoiser is given, by text encoder and seer; `drop` leaves out one condition."""
        width, height, frames = self.case.size
        media = self.case.media() if media is None else media
        kept = [i for i in range(len(self.case.conditions)) if i != drop]
        conditions = tuple(self.case.conditions[i][0] for i in kept)
        shot = Shot(width=width, height=height, n_frames=frames, fps=8.0, seed=seed, conditions=conditions)
        seen = self.seer.see(shot, [media[i] for i in kept], knobs) if conditions else {}
        return Given(text=self.text(prompt), seen=seen, conditions=conditions)

    def latent(self, *args: Any, start: Floats | None = None, **more: Any) -> Floats:
        """Its pictures alone."""
        return self.tracks(*args, start=None if start is None else {"video": start}, **more)["video"]

    def tracks(
        self,
        given: Given,
        seed: int = SEED,
        guidance: float | None = None,
        start: Latents | None = None,
        level: float = 1.0,
        **more: Any,
    ) -> Latents:
        sampling = Sampling(steps=STEPS, guidance=self.case.guidance if guidance is None else guidance, **more)
        return self.denoiser.denoise(given, self.spec(seed), sampling, start, level)

    def frames(self, latent: Floats) -> Frames:
        return self.codec.decode(latent, DecodeRecipe())


def library(case: Case, folder: Path, name: str = "") -> Any:
    """The library's pipeline with all its parts in memory."""
    kind = getattr(diffusers, name or case.pipeline)
    further = {}
    for part in case.further:
        net = {"controlnet": diffusers.ControlNetModel, "sparsectrl": diffusers.SparseControlNetModel}[case.maker]
        further[part] = net.from_pretrained(folder / part)
    pipeline = kind.from_pretrained(folder, **further)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call(case: Case, pipeline: Any, output: str, prompt: str = PROMPT, seed: int = SEED) -> Any:
    """`call_whole`, of whose answer the pictures."""
    return call_whole(case, pipeline, output, prompt, seed).frames


def call_whole(
    case: Case, pipeline: Any, output: str, prompt: str = PROMPT, seed: int = SEED, steps: int = STEPS
) -> Any:
    """One call of the library from prompt and pictures to latents (`latent`) or pixels and sound (`np`)."""
    width, height, frames = case.size
    text = {} if case.family == "svd" else {"prompt": prompt, "negative_prompt": NEGATIVE}
    if case.family in ("wan", "skyreels", "ltx2"):
        text["max_sequence_length"] = case.tokens
    guidance = {"max_guidance_scale" if case.family == "svd" else "guidance_scale": case.guidance}
    torch.manual_seed(seed)
    return pipeline(
        **text, **guidance, **case.extra, **case.one_call(case.media()), width=width, height=height, num_frames=frames,
        num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), output_type=output,
    )  # fmt: skip


def made(case: Case, root: Path) -> Path:
    """The tiny checkpoint of a case, made once."""
    folder = root / f"{case.family}-{case.maker}"
    if not folder.exists():
        importlib.import_module(f"stages.families.{case.family}.tiny").make(folder, case.maker)
    return folder
