"""What a part's config promises of its weights, as far as names and shapes tell it without torch.

Known before any row: how many blocks there are, and a few tensors that everything else hangs on. The whole comparison
is the library's own report, read when the part is loaded (`stages.families.loading`); building every model while
planning would import torch into a process that needs none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.errors import BadInput
from stages.core.weights.headers import Shapes


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the config of one model class says of its tensors.

    blocks   name of a list of blocks -> the config's key for how many there are: a number, or a list as long
    tensors  name -> the config's keys for the first sides of its shape, None for one that it does not tell; a name may
             have alternatives, to which the library ties it: `a|b`
    prefix   what the library takes off the front of every name, where it is there
    renames  how the model's authors call modules, in adapters too -> how the library does
    """

    blocks: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    prefix: str = ""
    renames: Mapping[str, str] = field(default_factory=dict)


_T5 = Promise(
    blocks={"encoder.block": "num_layers"},
    tensors={
        "shared.weight|encoder.embed_tokens.weight": ("vocab_size", "d_model"),
        "encoder.final_layer_norm.weight": ("d_model",),
    },
    prefix="transformer.",
)
_STATISTICS = {"latents_mean": ("latent_channels",), "latents_std": ("latent_channels",)}
_LTX_NAMES = {"patchify_proj": "proj_in", "adaln_single": "time_embed", "q_norm": "norm_q", "k_norm": "norm_k"}

PROMISES: Mapping[str, Promise] = {
    "T5EncoderModel": _T5,
    "UMT5EncoderModel": _T5,
    "CLIPTextModel": Promise(blocks={"encoder.layers": "num_hidden_layers"}, prefix="text_model."),
    "LTXVideoTransformer3DModel": Promise(
        blocks={"transformer_blocks": "num_layers"},
        tensors={"proj_in.weight": (None, "in_channels"), "proj_out.weight": ("out_channels",)},
        renames=_LTX_NAMES,
    ),
    "AutoencoderKLLTXVideo": Promise(blocks={"decoder.up_blocks": "decoder_block_out_channels"}, tensors=_STATISTICS),
    "LTXLatentUpsamplerModel": Promise(
        blocks={"res_blocks": "num_blocks_per_stage", "post_upsample_res_blocks": "num_blocks_per_stage"},
        tensors={"initial_conv.weight": ("mid_channels", "in_channels")},
    ),
    "WanTransformer3DModel": Promise(
        blocks={"blocks": "num_layers"}, tensors={"patch_embedding.weight": (None, "in_channels")}
    ),
}
"""By the class that a part's config names. Of a class that is not here nothing is promised before it is loaded."""


def promise_of(config: Mapping[str, Any]) -> Promise:
    """The promise of the class that a config names."""
    architectures = config.get("architectures") or [""]
    return PROMISES.get(str(config.get("_class_name") or architectures[0]), Promise())


def check_promise(path: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise BadInput where a part's weights are not those that its config speaks of."""
    promise = promise_of(config)
    shapes = {name.removeprefix(promise.prefix): shape for name, shape in shapes.items()}
    for names, keys in promise.tensors.items():
        found = next((name for name in names.split("|") if name in shapes), None)
        if found is None:
            raise BadInput(f"{path}: its weights have no {names.replace('|', ' or ')}: they are incomplete")
        wanted = tuple(config.get(key) if key else None for key in keys)
        given = shapes[found]
        if len(given) < len(wanted) or any(w not in (None, g) for w, g in zip(wanted, given, strict=False)):
            told = ", ".join(f"{key} {config[key]}" for key in keys if key and config.get(key) is not None)
            raise BadInput(f"{path}: its config says {told}; {found} in the weights is {list(given)}")
    for name, key in promise.blocks.items():
        _check_blocks(path, name, key, config.get(key), shapes)


def _check_blocks(path: Path, name: str, key: str, promised: Any, shapes: Shapes) -> None:
    if promised is None:
        return
    count = len(promised) if isinstance(promised, list | tuple) else promised
    if not isinstance(count, int):
        raise BadInput(f"{path}: its config's {key} is {promised!r}, not a number")
    numbers = {int(n) for found in shapes for n in re.findall(rf"^{re.escape(name)}\.(\d+)\.", found)}
    if len(numbers) != count or (numbers and max(numbers) != count - 1):
        held = f" ({min(numbers)} to {max(numbers)})" if numbers else ""
        raise BadInput(
            f"{path}: its config says {key} {count}, but the weights hold {len(numbers)} of {name}{held}:"
            " the config is of another model, or the weights are incomplete"
        )
