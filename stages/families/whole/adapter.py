"""Any other video pipeline of diffusers, by the name of its class and a checkpoint as `save_pretrained` writes it.

The pipeline runs as one step, from the prompt to frames. Its "latents" are pixels, [3, F, H, W] from 0 to 1, and its
codec only turns them round, so that whatever comes behind works as with other families. What a take may say is read
from the signature of the pipeline's call; what the class lacks is refused by name. This module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import NO_LORA
from stages.families.engine.variant import wan_ratios
from stages.families.offers import Accepts, Knob, Offers, SizeRule, check_parts_known
from stages.families.whole.call import CONTROLS, OF_TAKES, RATES, components, pipeline_of
from stages.families.whole.signature import Argument, arguments_of

if TYPE_CHECKING:
    from stages.families.whole.stages import PixelCodec, PixelSeer, WholePipeline

STEP = 8
"""Pixels that width and height are multiples of: no video pipeline of diffusers takes a finer step."""
OURS = frozenset(
    {
        *OF_TAKES.values(), *RATES, *CONTROLS, "num_inference_steps", "generator", "output_type", "return_dict",
        "image", "last_image", "video", "strength", "num_videos_per_prompt",
    }
)  # fmt: skip
"""Arguments that a take, the sampling or the step itself fills."""


class Whole:
    """The adapter."""

    name = "whole"
    strength = "share"
    kinds = MappingProxyType(
        {
            "still": "a pipeline with `image` or `last_image`",
            "source": "a pipeline with `video`",
            "control": "a pipeline with a control video",
        }
    )
    makers = ("hunyuan-video", "skyreels-v2")

    def offers(self, model: ModelConfig) -> Offers:
        """What the signature of the pipeline's call allows. Raises BadInput for an argument that nothing could fill."""
        check_parts_known(self.name, model, ())
        pipeline = pipeline_of(model)
        arguments = arguments_of(pipeline)
        for name, argument in arguments.items():
            if argument.required and name not in OURS and not argument.form:
                raise BadInput(
                    f"model.checkpoint: {pipeline} must be given `{name}`, and no key of a prompt names such a thing:"
                    " this pipeline cannot be used here"
                )
        defaults = {column: arguments[a].default for column, a in OF_TAKES.items() if a in arguments}
        rate = next((arguments[name].default for name in RATES if name in arguments), None)
        return Offers(
            variant=pipeline,
            size=_sizes(model),
            parts={"see": {}, "denoise": {"checkpoint": components(model)}, "decode": {}},
            accepts=_accepts(arguments),
            asks=tuple(k for k, a in (("still", "image"), ("source", "video")) if _must(arguments, a)),
            knobs=_knobs(arguments),
            defaults={k: float(v) for k, v in {**defaults, "fps": rate}.items() if isinstance(v, int | float)},
            reads=("prompt", "negative_prompt"),
            needs=("prompt",) if _must(arguments, "prompt") else (),
            lacks=tuple(column for column, a in OF_TAKES.items() if a not in arguments),
            sees=("frames",),
            decodes=(),
            tokens=False,
            lora=(),
        )

    def text(self, model: ModelConfig) -> NoReturn:
        """The pipeline encodes prompts itself."""
        raise BadInput(
            "model.family is whole: its pipeline encodes prompts itself; leave the step out (`text.enabled=false`)"
        )

    def seer(self, model: ModelConfig) -> PixelSeer:
        """Pictures and videos as they are: the pipeline encodes them itself."""
        from stages.families.whole.stages import PixelSeer

        return PixelSeer()

    def denoiser(self, model: ModelConfig, lora: LoraConfig = NO_LORA) -> WholePipeline:
        """The whole pipeline."""
        from stages.families.whole.stages import WholePipeline

        return WholePipeline(model)

    def codec(self, model: ModelConfig) -> PixelCodec:
        """Pixels as latents, and back."""
        from stages.families.whole.stages import PixelCodec

        return PixelCodec()

    def sound(self, model: ModelConfig) -> NoReturn:
        """The pipeline makes sound audible itself; it lies beside the frames."""
        raise BadInput("model.family is whole: its pipeline makes sound audible itself, and it lies beside the frames")

    def spatial(self, model: ModelConfig) -> NoReturn:
        """There are no latents to upsample."""
        raise BadInput(
            "model.family is whole: a pipeline that runs as one step has no latents to upsample; leave the step out"
        )

    def temporal(self, model: ModelConfig) -> NoReturn:
        """There are no latents to upsample."""
        raise BadInput(
            "model.family is whole: a pipeline that runs as one step has no latents to upsample; leave the step out"
        )


def _sizes(model: ModelConfig) -> SizeRule:
    """Multiples of a step and, for a transformer like Wan's, no more positions than it knows: the pipeline itself finds
    that out only after it has encoded the text."""
    rule = SizeRule(step=STEP)
    net = model.read_part("transformer") if "transformer" in components(model) else {}
    if not net.get("rope_max_seq_len") or "vae" not in components(model):
        return rule
    ratios = wan_ratios(model.read_part("vae"))
    return rule.within(int(net["rope_max_seq_len"]), net.get("patch_size") or (1, 2, 2), *ratios)


def _must(arguments: Mapping[str, Argument], name: str) -> bool:
    return name in arguments and arguments[name].required


def _accepts(arguments: Mapping[str, Argument]) -> dict[str, Accepts]:
    found = {}
    roles = tuple(role for role, a in (("first", "image"), ("last", "last_image")) if a in arguments)
    if roles:
        found["still"] = Accepts(roles=roles, least=int(_must(arguments, "image")), most=len(roles))
    if "video" in arguments:
        level = ("level",) if "strength" in arguments else ()
        found["source"] = Accepts(heeds=level, least=int(_must(arguments, "video")))
    if any(name in arguments for name in CONTROLS):
        found["control"] = Accepts(least=int(any(_must(arguments, name) for name in CONTROLS)))
    return found


def _knobs(arguments: Mapping[str, Argument]) -> dict[str, Knob]:
    """Every further argument that is a number, a switch or a text."""
    return {
        name: Knob(
            default=a.default if isinstance(a.default, int | float) else None, low=-1e12, high=1e12, form=a.form,
            whole=a.form == "whole", help=f"`{name}` of the pipeline's call",
        )
        for name, a in arguments.items()
        if name not in OURS and a.form
    }  # fmt: skip


FAMILY = Whole()
