"""SkyReels V2 with diffusion forcing (arXiv 2504.13074) through SkyReelsV2DiffusionForcingPipeline and its twin for
pictures.

Every latent frame has a noise level of its own, so that a picture is a frame without noise, and a clip that is longer
than what the model learned goes on in windows that begin with the end of the one before.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.families.engine.family import EngineFamily
from stages.families.engine.variant import Call, Variant, check_index, wan_sizes
from stages.families.offers import Accepts, Knob, Offers, check_parts_known

TEXT, IMAGE = "SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2DiffusionForcingImageToVideoPipeline"
SCHEDULERS = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler")
"""Those whose timesteps are whole numbers: the pipelines cut off what stands behind the point."""
KNOBS = MappingProxyType(
    {
        "window": Knob(
            default=None, low=5, high=10000, whole=True,
            help="frames denoised at a time, 97 or 121 depending on the weights; without it, all at once",
        ),
        "overlap": Knob(
            default=17, low=1, high=10000, whole=True, help="frames of the window before that a window begins with"
        ),
        "overlap_noise": Knob(
            default=0, low=0, high=60, help="noise on these frames; 20 makes the join smoother"
        ),
        "ar_step": Knob(
            default=0, low=0, high=100, whole=True,
            help="steps by which each latent frame lags behind the one before; 0 denoises all frames together",
        ),
    }
)  # fmt: skip


class SkyReels(EngineFamily):
    """The adapter."""

    name = "skyreels"
    kinds = MappingProxyType({"still": "", "source": ""})
    makers = ("diffusion-forcing",)
    text_pipeline, text_length = TEXT, 512

    def variant(self, model: ModelConfig) -> Variant:
        """There is one. Raises BadInput for weights that are made for blocks of frames: what is left over at the end of
        a clip, the pipeline returns as noise."""
        check_parts_known(self.name, model, ())
        check_index(self.name, model, (TEXT, IMAGE))
        net, vae = model.read_part("transformer"), model.read_part("vae")
        if (block := int(net.get("num_frame_per_block") or 1)) > 1:
            raise BadInput(
                f"model.checkpoint: {model.checkpoint} is made for blocks of {block} latent frames;"
                f" {self.name} runs one frame at a time"
            )
        return Variant(
            pipeline=TEXT,
            looking=lambda shown: IMAGE,
            denoise=("transformer", "scheduler"),
            encodes=("still",),
            bind=bind,
            offers=Offers(
                size=wan_sizes(net, vae),
                parts={
                    "text": {"checkpoint": self.text_parts},
                    "see": {"checkpoint": ("vae",)},
                    "denoise": {"checkpoint": ("transformer", "scheduler", "vae")},
                    "decode": {"checkpoint": ("vae",)},
                },
                accepts={
                    "still": Accepts(roles=("first",)),
                    "source": Accepts(heeds=("level",), must=("level",)),
                },
                knobs=KNOBS,
                schedulers=SCHEDULERS,
                attention="plain",
                quantizes=("transformer",),
                caches=("TaylorSeerCache",),
                uncached=("window", "ar_step"),
                defaults={"width": 960, "height": 544, "frames": 97, "fps": 24.0, "guidance": 6.0},
                sees=("frames",),
                decodes=("tiling",),
                refines_after=True,
            ),
        )

    def amend(self, pipeline: Any) -> None:
        """Of latents that it is given, the pipeline for text returns one value where its caller takes four; that for
        pictures takes a last window that is short for a whole one."""
        if type(pipeline).__name__ == TEXT:
            prepare = pipeline.prepare_latents

            def prepare_latents(*args: Any, **kwargs: Any) -> Any:
                made = prepare(*args, **kwargs)
                return made if isinstance(made, tuple) else (made, made.shape[2], None, 0)

            pipeline.prepare_latents = prepare_latents
        else:
            matrix = pipeline.generate_timestep_matrix

            def generate_timestep_matrix(frames: int, template: Any, most: int, *args: Any) -> Any:
                return matrix(frames, template, min(frames, most), *args)

            pipeline.generate_timestep_matrix = generate_timestep_matrix


def bind(call: Call) -> dict[str, Any]:
    """What both pipelines are called with. Raises BadInput for windows that never get on."""
    window, overlap = call.knobs["window"], int(call.knobs["overlap"])
    if window and overlap > window - 4:
        raise BadInput(f"sampling.knobs.overlap is {overlap}; it must be at most {int(window) - 4}, 4 less than window")
    guidance = call.sampling.guidance
    found: dict[str, Any] = {
        "prompt": None,  # the one for text asks for it beside embeddings too
        "guidance_scale": 6.0 if guidance is None else guidance,
        "fps": 16 if round(call.shot.fps) == 16 else 24,  # the model knows two rates: 16 frames a second, and others
        "base_num_frames": int(window or call.shot.n_frames),
        "overlap_history": overlap if window else None,
        "addnoise_condition": call.knobs["overlap_noise"],
        "ar_step": int(call.knobs["ar_step"]),
    }
    if stills := call.of("still"):
        found["image"] = call.pictures(stills[0])[0]
    return found


FAMILY = SkyReels()
