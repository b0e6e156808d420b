"""AnimateDiff: a motion module on a Stable Diffusion 1.5 denoiser, with ControlNet or SparseCtrl beside it.

The checkpoint is one that AnimateDiff's pipelines saved, its denoiser and motion module one network, or one of Stable
Diffusion, and the motion module in `parts.motion_adapter`. `parts.controlnet` holds a ControlNet or a SparseCtrl net.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.families.engine.family import EngineFamily
from stages.families.engine.variant import Call, Variant, check_index
from stages.families.offers import Accepts, Knob, Offers, SizeRule, check_parts_known, place_of

PLAIN, CONTROL, SPARSE = (
    "AnimateDiffPipeline",
    "AnimateDiffControlNetPipeline",
    "AnimateDiffSparseControlNetPipeline",
)
SAVED = (
    PLAIN,
    CONTROL,
    SPARSE,
    "AnimateDiffVideoToVideoPipeline",
    "AnimateDiffVideoToVideoControlNetPipeline",
    "StableDiffusionPipeline",
)
MOTION, FLAT = "UNetMotionModel", "UNet2DConditionModel"
NETS = {"ControlNetModel": (CONTROL, "ControlNet"), "SparseControlNetModel": (SPARSE, "SparseCtrl")}
SCHEDULERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LCMScheduler",
)
LONGEST = 32
"""Frames that a motion module has positions for, where its config does not say."""
WINDOWED = (PLAIN, CONTROL)
"""Those with FreeNoise (arXiv 2310.15169), which goes over a long clip in windows."""
SOURCE = Accepts(heeds=("level",), must=("level",))
ACCEPTS: Mapping[str, Mapping[str, Accepts]] = MappingProxyType(
    {
        PLAIN: {"source": SOURCE},
        CONTROL: {"source": SOURCE, "control": Accepts(least=1, heeds=("scale", "start", "end"))},
        SPARSE: {
            "source": SOURCE,
            "still": Accepts(roles=("first", "last", "keyframe"), least=1, most=LONGEST, heeds=("scale",)),
        },
    }
)


def _windows(longest: int) -> dict[str, Knob]:
    return {
        "window": Knob(
            default=None, low=2, high=longest, whole=True,
            help="frames that the motion module sees at a time (FreeNoise); the clip may then be longer than that",
        ),
        "stride": Knob(default=4, low=1, high=longest, whole=True, help="frames from one window to the next"),
    }  # fmt: skip


class AnimateDiff(EngineFamily):
    """The adapter."""

    name = "animatediff"
    kinds = MappingProxyType({"source": "", "control": "ControlNet", "still": "SparseCtrl"})
    makers = ("text-to-video", "controlnet", "sparsectrl")
    text_pipeline = PLAIN

    def variant(self, model: ModelConfig) -> Variant:
        """By the denoiser's class, and that of the net beside it."""
        check_parts_known(self.name, model, ("motion_adapter", "controlnet"))
        check_index(self.name, model, SAVED)
        pipeline, name, limits = PLAIN, "", [_longest(model)]
        parts: dict[str, tuple[str, ...]] = {"checkpoint": ("unet", "scheduler", "vae")}
        if "motion_adapter" in model.parts:
            parts["parts.motion_adapter"] = ()
        encodes: tuple[str, ...] = ()
        if "controlnet" in model.parts:
            net = model.read_further("controlnet")
            if (kind := str(net.get("_class_name"))) not in NETS:
                raise BadInput(f"model.parts.controlnet is of the class {kind}; animatediff takes {' or '.join(NETS)}")
            (pipeline, name), parts["parts.controlnet"] = NETS[kind], ()
            if pipeline == SPARSE:
                limits.append(int(net.get("motion_max_seq_length", LONGEST)))
                encodes = ("still",) if net.get("use_simplified_condition_embedding", True) else ()
        nets = ("unet", "controlnet", "scheduler") if name else ("unet", "scheduler")
        vae = model.read_part("vae")
        return Variant(
            pipeline=pipeline,
            denoise=nets,
            scales=True,
            keeps=("control",) if pipeline == CONTROL else () if encodes else ("still",),
            encodes=encodes,
            bind=BINDS[pipeline],
            offers=Offers(
                variant=name,
                size=SizeRule(step=2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1), most=min(limits)),
                parts={
                    "text": {"checkpoint": self.text_parts},
                    "see": {"checkpoint": ("vae",)},
                    "denoise": parts,
                    "decode": {"checkpoint": ("vae",)},
                },
                accepts=ACCEPTS[pipeline],
                schedulers=SCHEDULERS,
                defaults={"width": 512, "height": 512, "frames": 16, "fps": 8.0, "guidance": 7.5},
                draws=("see", "denoise") if encodes else ("denoise",),
                sees=("frames",),
                knobs=_windows(min(limits)) if pipeline in WINDOWED else {},
                windows="window" if pipeline in WINDOWED else "",
                decodes=("chunk",),
                tokens=False,
                refines_after=bool(name),
                lora=("unet",),
            ),
        )

    def load(self, model: ModelConfig, part: str, dtype: Any) -> Any:
        """A flat denoiser and a motion module as one network."""
        if part != "unet" or "motion_adapter" not in model.parts:
            return None
        import diffusers

        from stages.families.load_report import refusing
        from stages.families.loading import load_part

        flat = load_part(diffusers.UNet2DConditionModel, model.folder(("unet",)) / "unet", dtype)
        place = model.part("motion_adapter")
        motion = load_part(diffusers.MotionAdapter, place, dtype)
        with refusing(place):
            return diffusers.UNetMotionModel.from_unet2d(flat, motion).to(dtype)

    def amend(self, pipeline: Any) -> None:
        """FreeNoise encodes prompts itself, and looks for its limit in a motion module of its own: it is given both."""
        if type(pipeline).__name__ in WINDOWED:
            pipeline.__dict__["motion_adapter"] = SimpleNamespace(config=pipeline.unet.config)
            pipeline._encode_prompt_free_noise = _for_each_frame

    def steer(self, pipeline: Any, call: Call) -> None:
        """Windows, or none: FreeNoise stays in the network's blocks until it is taken out."""
        if window := call.knobs.get("window"):
            stride = int(call.knobs["stride"])
            if stride > window:
                raise BadInput(f"sampling.knobs.stride is {stride}; it must be at most window, {int(window)}")
            pipeline.enable_free_noise(context_length=int(window), context_stride=stride)
            pipeline.unet.eval().requires_grad_(False)  # its blocks are new ones
        elif getattr(pipeline, "free_noise_enabled", False):
            pipeline._free_noise_context_length = None
            net = pipeline.unet  # the library's own method looks for motion in every middle block
            for block in (*net.down_blocks, *net.up_blocks, net.mid_block):
                if hasattr(block, "motion_modules"):
                    pipeline._disable_free_noise_in_block(block)
            net.eval().requires_grad_(False)

    def encode_text(self, pipeline: Any, prompt: str, negative_prompt: str, length: int, device: Any) -> Any:
        """By the pipeline's own method; CLIP has one length."""
        return pipeline.encode_prompt(prompt, device, 1, True, negative_prompt)


def _for_each_frame(
    prompt: Any, num_frames: int, *args: Any, prompt_embeds: Any, negative_prompt_embeds: Any, **more: Any
) -> tuple[Any, Any]:
    """The embeddings of one prompt for every frame, the negative ones in front of them under guidance."""
    guided = more["do_classifier_free_guidance"]
    both = (negative_prompt_embeds, prompt_embeds) if guided else (prompt_embeds,)
    import torch

    return torch.cat([one.repeat(num_frames, 1, 1) for one in both]), negative_prompt_embeds


def _longest(model: ModelConfig) -> int:
    """The most frames of a checkpoint. Raises BadInput where it has no motion module, or two."""
    unet = model.read_part("unet")
    kind, given = unet.get("_class_name"), "motion_adapter" in model.parts
    if kind == MOTION and given:
        raise BadInput(
            "model.parts.motion_adapter: the checkpoint's denoiser has a motion module already; leave it out"
        )
    if kind == FLAT and not given:
        raise BadInput(
            f"model.parts: the denoiser of {model.checkpoint} makes single pictures; give a motion module as"
            " parts.motion_adapter"
        )
    if kind not in (MOTION, FLAT):
        raise BadInput(
            f"model.checkpoint: the denoiser of {model.checkpoint} is of the class {kind}, not {MOTION} or {FLAT}"
        )
    motion = model.read_further("motion_adapter") if given else unet
    if given and motion.get("_class_name") != "MotionAdapter":
        raise BadInput(f"model.parts.motion_adapter is of the class {motion.get('_class_name')}, not MotionAdapter")
    return int(motion.get("motion_max_seq_length", LONGEST))


def _guidance(call: Call) -> dict[str, Any]:
    return {"guidance_scale": 7.5 if call.sampling.guidance is None else call.sampling.guidance}


def _bind_control(call: Call) -> dict[str, Any]:
    (one,) = call.of("control")
    return {
        **_guidance(call),
        "conditioning_frames": call.pictures(one),
        "controlnet_conditioning_scale": 1.0 if one.scale is None else float(one.scale),
        "control_guidance_start": 0.0 if one.start is None else float(one.start),
        "control_guidance_end": 1.0 if one.end is None else float(one.end),
    }


def _bind_sparse(call: Call) -> dict[str, Any]:
    stills = call.of("still")
    scales = [c.scale for c in stills if c.scale is not None]
    return {
        **_guidance(call),
        "conditioning_frames": [call.pictures(c)[0] for c in stills],
        "controlnet_frame_indices": [place_of(c, call.shot.n_frames) for c in stills],
        "controlnet_conditioning_scale": float(scales[0]) if scales else 1.0,
    }


BINDS = MappingProxyType({PLAIN: _guidance, CONTROL: _bind_control, SPARSE: _bind_sparse})

FAMILY = AnimateDiff()
