"""What makes a pass faster, under diffusers' own names: attention back ends and caches. No torch here."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stages.families.offers import Knob


@dataclass(frozen=True, kw_only=True)
class BackEnd:
    """One way to compute attention: the package that it needs, "" for torch alone; whether it takes masks, needs a GPU,
    and needs 16 bits."""

    package: str = ""
    masks: bool = False
    gpu: bool = True
    narrow: bool = True


BACK_ENDS: Mapping[str, BackEnd] = MappingProxyType(
    {
        "native": BackEnd(masks=True, gpu=False, narrow=False),
        "_native_math": BackEnd(masks=True, gpu=False, narrow=False),
        "_native_efficient": BackEnd(masks=True, narrow=False),
        "_native_cudnn": BackEnd(masks=True),
        "_native_flash": BackEnd(),
        "flex": BackEnd(masks=True, gpu=False, narrow=False),
        "xformers": BackEnd(package="xformers", masks=True, narrow=False),
        "flash": BackEnd(package="flash_attn"),
        "flash_varlen": BackEnd(package="flash_attn", masks=True),
        "_flash_3": BackEnd(package="flash_attn_interface"),
        "_flash_varlen_3": BackEnd(package="flash_attn_interface", masks=True),
        "sage": BackEnd(package="sageattention"),
        "sage_varlen": BackEnd(package="sageattention", masks=True),
    }
)
"""Those of diffusers that run on a CPU or a GPU of NVIDIA, and that say what they do with a mask."""

FETCHED = (
    "flash_hub", "flash_varlen_hub", "flash_4_hub", "_flash_3_hub", "_flash_3_varlen_hub", "aiter_fa2_hub", "sage_hub",
    "sage_blackwell_hub",
)  # fmt: skip
"""Those of which diffusers downloads the program itself."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """One cache of diffusers, by the fields of its config. must: settings without a default."""

    settings: Mapping[str, Knob]
    must: tuple[str, ...] = ()


def _number(default: float | None, low: float, high: float, help: str, whole: bool = False) -> Knob:
    return Knob(default=default, low=low, high=high, help=help, whole=whole)


CACHES: Mapping[str, Cache] = MappingProxyType(
    {
        "FirstBlockCache": Cache(
            settings={
                "threshold": _number(0.05, 0, 1000, "change of the first block up to which the others are left out"),
            }
        ),
        "TaylorSeerCache": Cache(
            settings={
                "cache_interval": _number(5, 1, 1000, "one of so many steps is computed", whole=True),
                "disable_cache_before_step": _number(3, 1, 1000, "all steps before this one are computed", whole=True),
                "disable_cache_after_step": _number(
                    None, 1, 1000, "all steps from this one on are computed", whole=True
                ),
                "max_order": _number(1, 0, 10, "order of the Taylor series", whole=True),
            }
        ),
        "MagCache": Cache(
            settings={
                "threshold": _number(0.06, 0, 1000, "error up to which steps are left out"),
                "max_skip_steps": _number(3, 1, 1000, "steps in a row that are left out at most", whole=True),
                "retention_ratio": _number(0.2, 0, 1, "share of the first steps that are all computed"),
                "mag_ratios": Knob(
                    default=None, low=0, high=1000, form="numbers",
                    help="give the checkpoint's ratios, a list of numbers, as MagCache's authors publish them",
                ),
            },
            must=("mag_ratios",),
        ),
        "SeaCache": Cache(
            settings={
                "threshold": _number(0.25, 0, 1000, "change up to which steps are left out"),
                "residual_order": _number(1, 0, 1, "0 repeats the last result, 1 goes on from two", whole=True),
                "retention_steps": _number(1, 0, 1000, "first steps that are all computed", whole=True),
                "cache_end_steps": _number(1, 0, 1000, "last steps that are all computed", whole=True),
                "max_consecutive_cached": _number(2, 0, 1000, "steps in a row that are left out; 0: any", whole=True),
                "power_exp": _number(3, 0.001, 100, "exponent of the spectrum"),
            }
        ),
        "PyramidAttentionBroadcast": Cache(
            settings={
                f"{kind}_attention_{name}": knob
                for kind in ("spatial", "cross")
                for name, knob in {
                    "block_skip_range": _number(
                        None, 2, 1000, "attention of one of so many steps is computed", whole=True
                    ),
                    "timestep_skip_range": Knob(
                        default=None, low=-1, high=1001, form="numbers", help="timesteps between which that is done"
                    ),
                }.items()
            },
            must=("spatial_attention_block_skip_range",),
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """One way to hold weights in fewer bits: its package, the fields of its config in diffusers, and whether it needs a
    GPU. must: fields without a default."""

    package: str
    fields: tuple[str, ...]
    must: tuple[str, ...] = ()
    gpu: bool = False


QUANTIZERS: Mapping[str, Quantizer] = MappingProxyType(
    {
        "bitsandbytes_4bit": Quantizer(
            package="bitsandbytes", gpu=True,
            fields=("bnb_4bit_quant_type", "bnb_4bit_use_double_quant"),
        ),
        "bitsandbytes_8bit": Quantizer(package="bitsandbytes", gpu=True, fields=("llm_int8_threshold",)),
        "torchao": Quantizer(package="torchao", fields=("quant_type",), must=("quant_type",)),
        "quanto": Quantizer(package="optimum.quanto", fields=("weights_dtype",), must=("weights_dtype",)),
    }
)  # fmt: skip


@functools.cache
def is_there(package: str) -> bool:
    """Whether a package is installed here; "" is."""
    try:
        return not package or importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package within one that is not there
        return False
