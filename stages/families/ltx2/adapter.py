"""LTX-2 and LTX-2.3 through LTX2Pipeline, LTX2ImageToVideoPipeline and LTX2ConditionPipeline: pictures with sound.

A first picture alone goes through the pipeline for it, which keeps it as it is; pictures at other places are further
tokens, which LTX2ConditionPipeline adds. It counts places in latent frames. What stands at the end is shown from the
first of the pictures of the last latent frame on, as the library has it.

The library is steered around where it is wrong or leaves things unsaid: `use_cross_timestep` is by default that of
LTX-2.3, whatever the checkpoint is; a scale of 0 for the sound is taken for one that is not given; spatio-temporal
guidance by a denoiser that cannot be perturbed costs a pass and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from stages.core.conditions import Condition
from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import NO_LORA
from stages.families.engine.family import EngineFamily
from stages.families.engine.variant import Call, Variant, check_index
from stages.families.offers import Accepts, Knob, Offers, SizeRule, check_parts_known, place_of

if TYPE_CHECKING:
    from stages.families.ltx2.sound import LTX2Sound
    from stages.families.ltx2.stages import LTX2Codec, LTX2Denoiser, LTX2Form, LTX2Seer, LTX2Text

TEXT, IMAGE, PICTURES = "LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline"
ENCODERS = ("gemma3", "gemma3_text")
STEP = 32
"""The pipelines refuse sizes that are no multiples of it, whatever the VAE."""
MOST_STILLS = 32
NONE = 1e-30
"""A scale for the sound that is as good as 0, which the library would take for none given."""
STG_BLOCKS = MappingProxyType({"2.0": 29, "2.3": 28})
"""The transformer's block whose attention spatio-temporal guidance leaves out, as diffusers recommends."""
KNOBS = MappingProxyType(
    {
        "audio_guidance": Knob(default=7, low=0, high=100, help="`guidance` of the sound"),
        "modality": Knob(default=3, low=0, high=100, help="how closely pictures follow sound; up to 1 is off"),
        "audio_modality": Knob(default=3, low=0, high=100, help="how closely sound follows pictures; up to 1 is off"),
        "rescale": Knob(default=0.7, low=0, high=1, help="rescaling of the pictures against over-exposure"),
        "audio_rescale": Knob(default=0.7, low=0, high=1, help="rescaling of the sound in the same way"),
        "crf": Knob(
            default=33, low=0, high=51, whole=True, role="see",
            help="how strongly pictures are compressed with x264 first, as in the training; 0: not at all",
        ),
    }
)  # fmt: skip
STG = MappingProxyType(
    {
        "stg": Knob(default=1, low=0, high=100, help="spatio-temporal guidance of the pictures; 0 for both is off"),
        "audio_stg": Knob(default=1, low=0, high=100, help="spatio-temporal guidance of the sound"),
    }
)


class LTX2(EngineFamily):
    """The adapter."""

    name = "ltx2"
    kinds = MappingProxyType({"still": ""})
    makers = ("2.0", "2.3")
    text_pipeline, text_length = TEXT, 1024
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder", "connectors")

    def variant(self, model: ModelConfig) -> Variant:
        """By what the denoiser takes of the text: LTX-2.3 modulates it."""
        check_parts_known(self.name, model, ())
        check_index(self.name, model, (TEXT, IMAGE, PICTURES))
        net, vae, joined = model.read_part("transformer"), model.read_part("vae"), model.read_part("connectors")
        timing = model.read_part("scheduler", "scheduler_config.json")
        _check_known(model, vae)
        kind = "2.3" if net.get("cross_attn_mod") else "2.0"
        spatial, temporal = _ratios(vae)
        registers = joined.get("video_connector_num_learnable_registers", 128) or 1
        return Variant(
            pipeline=TEXT,
            looking=_class_for,
            denoise=("transformer", "scheduler"),
            encodes=("still",),
            bind=_Bind(kind, net, temporal),
            offers=Offers(
                variant=kind,
                size=SizeRule(
                    step=max(STEP, spatial * int(net.get("patch_size", 1))),
                    smallest=2
                    * spatial,  # the VAE mirrors the latent at its edges, and of one alone there is no mirror
                    frames=temporal,
                ),
                parts={
                    "text": {"checkpoint": self.text_parts},
                    "see": {"checkpoint": ("vae",)},
                    "denoise": {"checkpoint": ("transformer", "scheduler", "vae", "audio_vae")},
                    "decode": {"checkpoint": ("vae",)},
                    "sound": {"checkpoint": ("audio_vae", "vocoder")},
                },
                accepts={
                    "still": Accepts(
                        roles=("first", "last", "keyframe"), most=MOST_STILLS, apart=temporal, heeds=("scale",)
                    )
                },
                knobs={**KNOBS, **(STG if net.get("perturbed_attn") else {})},
                steps=2 if timing.get("shift_terminal") else 1,  # one alone ends in a division by 0
                schedulers=("FlowMatchEulerDiscreteScheduler",),
                attention="masked",
                quantizes=("transformer",),
                caches=("TaylorSeerCache",),
                tracks=("video", "audio"),
                defaults={"width": 768, "height": 512, "frames": 121, "fps": 24.0, "guidance": 3.0},
                sees=("frames",),
                decodes=("tiling", "chunk"),
                token_step=int(registers),
            ),
        )

    def form(self, model: ModelConfig) -> LTX2Form:
        """Latents as both the stages and the pipelines hold them."""
        from stages.families.ltx2.stages import LTX2Form

        return LTX2Form(model)

    def text(self, model: ModelConfig) -> LTX2Text:
        """Tokenizer, text encoder and connectors."""
        from stages.families.ltx2.stages import LTX2Text

        return LTX2Text(self, model)

    def seer(self, model: ModelConfig) -> LTX2Seer:
        """The VAE."""
        from stages.families.ltx2.stages import LTX2Seer

        return LTX2Seer(self, model)

    def denoiser(self, model: ModelConfig, lora: LoraConfig = NO_LORA) -> LTX2Denoiser:
        """The transformer and the scheduler; of both VAEs config and statistics."""
        from stages.families.ltx2.stages import LTX2Denoiser

        return LTX2Denoiser(self, model, lora)

    def codec(self, model: ModelConfig) -> LTX2Codec:
        """The VAE of the pictures."""
        from stages.families.ltx2.stages import LTX2Codec

        return LTX2Codec(self, model)

    def sound(self, model: ModelConfig) -> LTX2Sound:
        """The VAE of the sound, and the vocoder."""
        from stages.families.ltx2.sound import LTX2Sound

        return LTX2Sound(model)


def _check_known(model: ModelConfig, vae: Mapping[str, Any]) -> None:
    reads = str(model.read_part("text_encoder").get("model_type"))
    if reads not in ENCODERS:
        raise BadInput(
            f"model.checkpoint: the text encoder of {model.checkpoint} is of the kind {reads}; ltx2 runs LTX-2 and"
            " LTX-2.3, which read with Gemma 3"
        )
    if vae.get("timestep_conditioning"):
        raise BadInput(
            f"model.checkpoint: the VAE of {model.checkpoint} denoises while it decodes, which ltx2 does not run"
        )


def _ratios(vae: Mapping[str, Any]) -> tuple[int, int]:
    """Spatial and temporal ratio by the VAE's config, as the library computes what it does not say."""
    scaling = vae.get("spatio_temporal_scaling", (True,) * 4)
    halved = 2 ** sum(scaling if isinstance(scaling, Sequence) else (bool(scaling),) * 4)
    spatial = vae.get("spatial_compression_ratio") or int(vae.get("patch_size", 4)) * halved
    temporal = vae.get("temporal_compression_ratio") or int(vae.get("patch_size_t", 1)) * halved
    return int(spatial), int(temporal)


def _class_for(shown: Sequence[Condition]) -> str:
    """A first picture as it is goes through the pipeline that keeps it so."""
    return IMAGE if [(c.role, c.scale) for c in shown] in ([("first", None)], [("first", 1.0)]) else PICTURES


class _Bind:
    """What the pipelines of one checkpoint are called with."""

    def __init__(self, kind: str, net: Mapping[str, Any], ratio: int) -> None:
        self.modulated, self.ratio = kind == "2.3", ratio
        self.block = min(STG_BLOCKS[kind], int(net.get("num_layers", 48)) - 1)
        self.perturbs = bool(net.get("perturbed_attn"))

    def __call__(self, call: Call) -> dict[str, Any]:
        """Guidance, rate and pictures."""
        rate = call.shot.playback or call.shot.fps
        return {
            **self._guidance(call),
            "frame_rate": rate,
            "motion_speed": rate / call.shot.fps,  # sound goes by the rate of playback, positions by the other
            "use_cross_timestep": self.modulated,
            **self._pictures(call),
        }

    def _guidance(self, call: Call) -> dict[str, Any]:
        knobs = call.knobs
        stg = float(knobs.get("stg", 0.0)), float(knobs.get("audio_stg", 0.0))
        guided = self.perturbs and max(stg) > 0
        return {
            "guidance_scale": 3.0 if call.sampling.guidance is None else call.sampling.guidance,
            "audio_guidance_scale": float(knobs["audio_guidance"]) or NONE,
            "modality_scale": float(knobs["modality"]),
            "audio_modality_scale": float(knobs["audio_modality"]) or NONE,
            "guidance_rescale": float(knobs["rescale"]),
            "audio_guidance_rescale": float(knobs["audio_rescale"]) or NONE,
            "stg_scale": stg[0] if guided else 0.0,
            "audio_stg_scale": (stg[1] or NONE) if guided else 0.0,
            "spatio_temporal_guidance_blocks": [self.block] if guided else None,
        }

    def _pictures(self, call: Call) -> dict[str, Any]:
        stills = call.of("still")
        if not stills:
            return {}
        from stages.families.ltx2.pictures import compressed

        crf = int(call.knobs["crf"])
        pictures = [compressed(call.frames[c][0], crf) for c in stills]
        if _class_for(stills) == IMAGE:
            return {"image": pictures[0], "image_crf": 0}
        from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

        return {
            "conditions": [
                LTX2VideoCondition(
                    frames=picture, index=self._index(c, call), strength=1.0 if c.scale is None else c.scale, crf=0
                )
                for c, picture in zip(stills, pictures, strict=True)
            ]
        }

    def _index(self, condition: Condition, call: Call) -> int:
        """The latent frame of a picture: the first of them stands for one frame, each other for as many as the ratio
        says."""
        place = place_of(condition, call.shot.n_frames)
        return -(-place // self.ratio)


FAMILY = LTX2()
