"""Wan 2.1 and 2.2 through WanPipeline, WanImageToVideoPipeline and WanVACEPipeline.

An image to video checkpoint is given the whole clip, zeros but for the picture; VACE is given a video, a mask of what
is to change in it, and pictures of what is to be seen. Two experts share one call, so that solvers with a history keep
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Frames
from stages.families.engine.family import EngineFamily
from stages.families.engine.variant import Call, Variant, check_index, has, wan_sizes
from stages.families.offers import Accepts, Knob, Offers, check_parts_known, place_of

TEXT, IMAGE, VACE = "WanPipeline", "WanImageToVideoPipeline", "WanVACEPipeline"
SCHEDULERS = (
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
    "FlowMatchLCMScheduler",
)
SOURCE = Accepts(heeds=("level",), must=("level",))
FIRST = Accepts(roles=("first",))
GREY = 128
"""Pixels that VACE is to make; what it makes of them is not looked at."""


EXPERTS = MappingProxyType(
    {
        "guidance_2": Knob(
            default=None, low=0, high=100, help="guidance of the second expert; without it, that of both"
        ),
        "boundary": Knob(
            default=None, low=0, high=1,
            help="noise level below which the second expert goes on; without it, that of the checkpoint",
        ),
    }
)  # fmt: skip


class Wan(EngineFamily):
    """The adapter."""

    name = "wan"
    kinds = MappingProxyType(
        {"still": "I2V, FLF2V, TI2V, VACE", "source": "", "control": "VACE", "clip": "VACE", "reference": "VACE"}
    )
    makers = ("t2v", "i2v", "flf2v", "ti2v", "ti2v-pictures", "vace", "two-experts", "i2v-two-experts")
    text_pipeline, text_length = TEXT, 512

    def variant(self, model: ModelConfig) -> Variant:
        """By the pipeline's class, how many networks there are, and what the denoiser takes."""
        check_parts_known(self.name, model, ())
        kind, index = check_index(self.name, model, (TEXT, IMAGE, VACE))
        net, vae = model.read_part("transformer"), model.read_part("vae")
        expands, boundary = bool(index.get("expand_timesteps")), index.get("boundary_ratio")
        experts = ("transformer", "transformer_2") if has(index, "transformer_2") else ("transformer",)
        looks = has(index, "image_encoder") and net.get("image_dim") is not None
        see = ("image_encoder", "image_processor") if looks and kind == IMAGE else ()
        name, accepts = _accepts(kind, net, looks, expands)
        if len(experts) > 1:
            name = f"{name}, two experts"
        options: dict[str, Any] = {"boundary_ratio": boundary}
        if kind != VACE:
            options["expand_timesteps"] = expands
        return Variant(
            pipeline=kind,
            looking=(lambda shown: IMAGE) if kind == TEXT and expands else None,
            denoise=(*experts, "scheduler"),
            see=see,
            looks=("encode_image",) if see else (),
            keeps=("clip",),
            encodes=("still", "control", "clip", "source", "reference"),
            leads=("reference",),
            options=options,
            bind=_bind_either if kind == TEXT and expands else BINDS[kind],
            offers=Offers(
                variant=name,
                size=wan_sizes(net, vae),
                parts={
                    "text": {"checkpoint": self.text_parts},
                    "see": {"checkpoint": (*see, "vae")},
                    "denoise": {"checkpoint": (*experts, "scheduler", "vae")},
                    "decode": {"checkpoint": ("vae",)},
                },
                accepts=accepts,
                asks=("still", "control", "source", "reference") if kind == VACE else (),
                knobs=EXPERTS if len(experts) > 1 else {},
                schedulers=SCHEDULERS,
                attention="plain",
                quantizes=experts,
                caches=_caches(kind, len(experts), expands),
                defaults={
                    "width": 1280 if expands else 832,
                    "height": 704 if expands else 480,
                    "frames": 121 if expands else 81,
                    "fps": 24.0 if expands else 16.0,
                    "guidance": 5.0,
                },
                sees=("frames",),
                decodes=("tiling",),
                refines_after=kind != TEXT or expands,
                lora=experts,
            ),
        )

    def steer(self, pipeline: Any, call: Call) -> None:
        """The boundary between two experts: that of the checkpoint again, where the last clip had another one."""
        if "boundary" in call.knobs:
            own = pipeline.__dict__.setdefault("own_boundary", pipeline.config.boundary_ratio)
            asked = call.knobs["boundary"]
            pipeline.register_to_config(boundary_ratio=own if asked is None else asked)


def _caches(kind: str, experts: int, expands: bool) -> tuple[str, ...]:
    """MagCache goes by how many steps a network runs, which the boundary decides where there are two of them; SeaCache
    by what only the pipeline for text tells it."""
    mag = () if experts > 1 else ("MagCache",)
    sea = ("SeaCache",) if kind == TEXT and not expands else ()
    return ("FirstBlockCache", "TaylorSeerCache", *mag, *sea)


def _accepts(kind: str, net: Mapping[str, Any], looks: bool, expands: bool) -> tuple[str, dict[str, Accepts]]:
    """The name of a variant and the conditions that it takes."""
    if kind == TEXT:
        # The weights of TI2V are published with the pipeline that reads text; pictures go through the other.
        return ("TI2V", {"still": FIRST, "source": SOURCE}) if expands else ("T2V", {"source": SOURCE})
    if kind == IMAGE:
        if expands:
            return "TI2V, pictures only", {"still": Accepts(roles=("first",), least=1), "source": SOURCE}
        # A denoiser that looks at pictures has places for two of them where it was made for a last frame too.
        both = bool(net.get("pos_embed_seq_len")) or not looks
        roles = ("first", "last") if both else ("first",)
        name = "FLF2V" if net.get("pos_embed_seq_len") else "I2V"
        least = 2 if name == "FLF2V" else 1
        return name, {"still": Accepts(roles=roles, least=least, most=len(roles)), "source": SOURCE}
    return "VACE", {
        "still": Accepts(roles=("first", "last", "keyframe"), most=64, alone=("control", "source")),
        "control": Accepts(heeds=("scale",), alone=("source",)),
        "source": Accepts(beside=("clip",)),
        "clip": Accepts(roles=("mask",), beside=("source",)),
        "reference": Accepts(most=8),
    }


def _guidance(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = {"guidance_scale": 5.0 if call.sampling.guidance is None else call.sampling.guidance}
    second = call.knobs.get("guidance_2")
    return found if second is None else {**found, "guidance_scale_2": float(second)}


def _bind_image(call: Call) -> dict[str, Any]:
    pictures = {c.role: call.pictures(c)[0] for c in call.of("still")}
    last = {"last_image": pictures["last"]} if "last" in pictures else {}
    return {**_guidance(call), "image": pictures["first"], **last}


def _bind_either(call: Call) -> dict[str, Any]:
    return _bind_image(call) if call.of("still") else _guidance(call)


def _bind_vace(call: Call) -> dict[str, Any]:
    from PIL import Image

    found = _guidance(call)
    shape = (call.shot.n_frames, call.shot.height, call.shot.width)
    video, changes = None, None
    if controls := call.of("control"):
        video = call.frames[controls[0]]
        found["conditioning_scale"] = 1.0 if controls[0].scale is None else controls[0].scale
    elif sources := call.of("source"):
        video, changes = call.frames[sources[0]], call.frames[call.of("clip")[0]].max(axis=3)
    elif stills := call.of("still"):
        video, changes = np.full((*shape, 3), GREY, np.uint8), np.full(shape, 255, np.uint8)
        for one in stills:
            place = place_of(one, call.shot.n_frames)
            video[place], changes[place] = call.frames[one][0], 0
    if video is not None:
        found["video"] = _images(video)
    if changes is not None:
        found["mask"] = [Image.fromarray(m, "L") for m in changes]
    if references := call.of("reference"):
        found["reference_images"] = [call.pictures(c)[0] for c in references]
    return found


def _images(frames: Frames) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in frames]


BINDS = MappingProxyType({TEXT: _guidance, IMAGE: _bind_image, VACE: _bind_vace})

FAMILY = Wan()
