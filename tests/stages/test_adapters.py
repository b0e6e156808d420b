"""Adapters of every spelling: each gives W + scale * alpha / rank * B A, or is refused in one sentence."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LTXConditionPipeline
from safetensors.torch import load_file, save_file

from stages.base import Base
from stages.core.config_files import ROOT
from stages.core.errors import PERMANENT, BadInput, kind_of
from stages.core.step import StepRef
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.digests import fingerprint
from stages.core.weights.headers import read_shapes
from stages.core.weights.lora import LoraConfig, check_adapter, find_layers
from stages.core.weights.promises import PROMISES
from stages.families.loading import load_named
from stages.families.lora import adapt
from tests.stages.broken import Tensors, cut_off, weights_of

CASES = Path(os.environ.get("RUSHES_DATA", ROOT.parent / "shared" / "data")) / "cases" / "lora"
WORLD = ROOT / "stages" / "pretrained" / "world"
RANKS = {
    "proj_in": 2,
    "time_embed.emb.timestep_embedder.linear_1": 2,
    "transformer_blocks.0.attn1.to_q": 3,
    "transformer_blocks.1.attn2.to_out.0": 1,
    "transformer_blocks.1.ff.net.0.proj": 4,
    "proj_out": 3,
}
ALPHAS = {layer: 0.5 + number for number, layer in enumerate(RANKS)}
AUTHORS = {"proj_in": "patchify_proj", "time_embed": "adaln_single"}
NOTE = "lora_adapter_metadata"


def authors(layer: str) -> str:
    """A layer as the model's authors, and ComfyUI with them, call it."""
    first, _, rest = layer.partition(".")
    return ".".join(filter(None, (AUTHORS.get(first, first), rest)))


def flat(layer: str) -> str:
    return layer.replace(".", "_")


NAMES = {
    "diffusers": lambda layer: f"transformer.{layer}",
    "bare": lambda layer: layer,
    "comfy": lambda layer: f"diffusion_model.{layer}",
    "comfy, authors' names": lambda layer: f"diffusion_model.{authors(layer)}",
    "authors": lambda layer: f"model.diffusion_model.{authors(layer)}",
    "kohya": lambda layer: f"lora_unet_{flat(layer)}",
    "kohya, authors' names": lambda layer: f"lora_unet_{flat(authors(layer))}",
    "kohya, transformer": lambda layer: f"lora_transformer_{flat(layer)}",
}
HALVES = {"A, B": ("lora_A", "lora_B"), "down, up": ("lora_down", "lora_up"), "old": ("lora.down", "lora.up")}


@pytest.fixture
def matrices(checkpoint) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of each layer."""
    generator, weights = torch.Generator().manual_seed(0), load_file(weights_of(checkpoint, "transformer"))
    found = {}
    for layer, rank in RANKS.items():
        out, into = weights[f"{layer}.weight"].shape
        a, b = torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator)
        found[layer] = 0.3 * a, 0.3 * b
    return found


def spelled(matrices, name=NAMES["diffusers"], halves=HALVES["A, B"], alphas=None) -> Tensors:
    """The tensors of an adapter file."""
    tensors = {f"{name(layer)}.{half}.weight": m for layer, ab in matrices.items() for half, m in zip(halves, ab)}  # noqa: B905
    return {**tensors, **{f"{name(layer)}.alpha": torch.tensor(alpha) for layer, alpha in (alphas or {}).items()}}


def adapted(checkpoint: Path, path: Path, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensors:
    """The transformer's weights with the adapter in them."""
    transformer = load_named(checkpoint / "transformer", dtype)
    adapt(transformer, LoraConfig(path=str(path), scale=scale))
    return transformer.state_dict()


def by_hand(checkpoint: Path, matrices, alphas=None, scale: float = 1.0) -> dict[str, np.ndarray]:
    """What the paper says, in float64."""
    found = {k: v.double().numpy() for k, v in load_file(weights_of(checkpoint, "transformer")).items()}
    for layer, (a, b) in matrices.items():
        alpha = (alphas or RANKS).get(layer, RANKS[layer])
        found[f"{layer}.weight"] = found[f"{layer}.weight"] + scale * alpha / RANKS[layer] * (
            b.double().numpy() @ a.double().numpy()
        )
    return found


def check(found: Tensors, wanted: dict[str, np.ndarray], tolerance: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor.double().numpy(), wanted[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("halves", sorted(HALVES))
@pytest.mark.parametrize("alphas", [None, ALPHAS, {"proj_out": 6.0}], ids=["no alpha", "alphas", "one alpha"])
def test_every_spelling_gives_the_same_weights(checkpoint, matrices, tmp_path, name, halves, alphas):
    path = tmp_path / "adapter.safetensors"
    save_file(spelled(matrices, NAMES[name], HALVES[halves], alphas), path)
    check_adapter(LoraConfig(path=str(path)), ModelConfig(checkpoint=str(checkpoint)))
    scale = 0.7 if alphas else 1.0
    check(adapted(checkpoint, path, scale), by_hand(checkpoint, matrices, alphas, scale))


@pytest.mark.parametrize(("root", "divide"), [(False, lambda rank: rank), (True, lambda rank: rank**0.5)])
def test_what_diffusers_writes_with_its_header(checkpoint, matrices, tmp_path, root, divide):
    """Ranks and alphas by pattern, and rsLoRA, which divides by the root of the rank."""
    about = {
        "r": 3, "lora_alpha": 4.0, "target_modules": sorted(RANKS), "use_rslora": root,
        "rank_pattern": {k: v for k, v in RANKS.items() if v != 3}, "alpha_pattern": {"proj_out": 6.0},
    }  # fmt: skip
    layers = {k.removeprefix("transformer."): v for k, v in spelled(matrices).items()}
    LTXConditionPipeline.save_lora_weights(tmp_path, layers, transformer_lora_adapter_metadata=about)
    alphas = {
        layer: (6.0 if layer == "proj_out" else 4.0) * rank / divide(rank) for layer, rank in RANKS.items()
    }  # by_hand divides by the rank
    check(adapted(checkpoint, tmp_path), by_hand(checkpoint, matrices, alphas))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_round_and_no_more(checkpoint, matrices, tmp_path, dtype):
    path = tmp_path / "adapter.safetensors"
    save_file({k: v.to(dtype) for k, v in spelled(matrices, alphas=ALPHAS).items()}, path)
    found = adapted(checkpoint, path, dtype=dtype)
    assert {t.dtype for t in found.values()} == {dtype}
    check(found, by_hand(checkpoint, matrices, ALPHAS), 0.06 if dtype == torch.bfloat16 else 0.008)


def test_a_scale_of_nothing_changes_nothing(checkpoint, matrices, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_file(spelled(matrices, alphas=ALPHAS), path)
    check(adapted(checkpoint, path, 0.0), by_hand(checkpoint, {}), 0.0)


def test_each_layer_is_found_under_each_spelling():
    """Of the embedded checkpoint, by names alone."""
    model = read_shapes(weights_of(WORLD, "transformer"), "transformer")
    layers = [name.removesuffix(".weight") for name, s in model.items() if name.endswith(".weight") and len(s) == 2]
    assert len(layers) > 60
    for spell in NAMES.values():
        shapes = {}
        for layer in layers:
            out, into = model[f"{layer}.weight"]
            shapes |= {f"{spell(layer)}.lora_down.weight": (2, into), f"{spell(layer)}.lora_up.weight": (out, 2)}
        renames = PROMISES["LTXVideoTransformer3DModel"].renames
        assert sorted(find_layers(Path("adapter"), shapes, model, renames)) == sorted(layers)


def less(*endings: str):
    return lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(endings)}


def more(**tensors: torch.Tensor):
    return lambda given: {**given, **{k.replace("__", "."): v for k, v in tensors.items()}}


ONES = torch.ones(2, 2)
REFUSED = {
    "half of it": (
        lambda t: {k.replace("transformer.proj", "transformer.no.proj"): v for k, v in t.items()},
        r"no layer for 4 of the 12 keys: transformer\.no\.proj_in\.lora_A\.weight, ",
    ),
    "a block too many": (
        lambda t: {**t, **{k.replace("blocks.0", "blocks.7"): v.clone() for k, v in t.items() if "blocks.0" in k}},
        r"no layer for 2 of the 14 keys: transformer\.transformer_blocks\.7",
    ),
    "no A": (less("proj_out.lora_A.weight"), r"layer transformer\.proj_out has no lora_A"),
    "no B": (less("proj_out.lora_B.weight"), r"layer transformer\.proj_out has no lora_B"),
    "alpha alone": (more(transformer__no__alpha=torch.tensor(1.0)), "transformer.no has no lora_A .* no lora_B"),
    "DoRA of kohya": (more(transformer__proj_out__dora_scale=torch.ones(2)), "is a DoRA adapter"),
    "DoRA of peft": (more(transformer__proj_out__lora_magnitude_vector=torch.ones(2)), "is a DoRA adapter"),
    "text encoder": (more(text_encoder__q__lora_A__weight=ONES), r"the text encoder, .*\(text_encoder\.q\.lora_A"),
    "text encoder of kohya": (more(lora_te1_text_model_q__lora_down__weight=ONES), "for the text encoder"),
    "LoKr": (more(transformer__proj_out__lokr_w1=ONES), "LyCORIS"),
    "LoHa": (more(transformer__proj_out__hada_w1_a=ONES), "LyCORIS"),
    "a bias": (more(transformer__proj_out__lora_B__bias=torch.ones(2)), "adapts embeddings or biases"),
    "differences": (more(transformer__proj_out__diff_b=torch.ones(2)), "differences of whole weights"),
    "peft alone": (lambda t: {f"base_model.model.{k}": v for k, v in t.items()}, "by PEFT alone"),
    "a whole weight": (more(transformer__proj_out__weight=ONES), "not belong to a low-rank adapter"),
    "twice": (
        lambda t: {**t, **{k.replace("transformer.", "diffusion_model.", 1): v.clone() for k, v in t.items()}},
        "no layer for 12 of the 24 keys",
    ),
    "too wide": (
        lambda t: {k: torch.cat([v, v], 1) if k.endswith("proj_out.lora_A.weight") else v for k, v in t.items()},
        r"at proj_out, of shape \[8, 48\], its matrices are \[8, 3\] and \[3, 96\]",
    ),
    "two ranks": (
        lambda t: {k: v[:2].clone() if k.endswith("proj_out.lora_A.weight") else v for k, v in t.items()},
        r"its matrices are \[8, 3\] and \[2, 48\]",
    ),
    "nothing": (lambda t: {}, "holds no tensors"),
}  # fmt: skip


def plan(checkpoint: Path, path: Path) -> str:
    """What is asked of a step before any row; nothing is loaded."""
    model = ModelConfig(checkpoint=str(checkpoint), device="cpu")
    config = Base.Config(model=model, lora=LoraConfig(path=str(path)))
    return fingerprint(StepRef("base", "stages.base:Base", config, None))


@pytest.mark.parametrize("fault", sorted(REFUSED))
def test_what_is_not_used_whole_is_refused_while_planning_and_when_loaded(checkpoint, matrices, tmp_path, fault):
    change, reason = REFUSED[fault]
    path = tmp_path / "adapter.safetensors"
    save_file({k: v.contiguous() for k, v in change(spelled(matrices)).items()}, path)
    for ask in (plan, adapted):
        with pytest.raises(BadInput, match=reason) as caught:
            ask(checkpoint, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert kind_of(caught.value) == PERMANENT


def test_values_that_are_not_finite_are_refused(checkpoint, matrices, tmp_path):
    path = tmp_path / "adapter.safetensors"
    for factor, where in ((float("nan"), "proj_out.lora_B"), (float("inf"), "proj_in.lora_A")):
        save_file({k: v * factor if where in k else v for k, v in spelled(matrices).items()}, path)
        with pytest.raises(BadInput, match=re.escape(where)):
            adapted(checkpoint, path)


def test_a_sum_that_overflows_is_refused(checkpoint, matrices, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_file({k: v * 1e3 if "proj_out" in k else v for k, v in spelled(matrices).items()}, path)
    with pytest.raises(BadInput, match=r"not finite in float16: proj_out\.weight"):
        adapted(checkpoint, path, dtype=torch.float16)


@pytest.mark.parametrize(
    ("about", "alphas", "reason"),
    [
        ({"r": 7, "lora_alpha": 7}, None, "says rank 7 in its header, but .* has rank"),
        ({"r": 3, "lora_alpha": 3}, {"proj_out": 1.0}, "alphas twice"),
        ({"r": 3, "lora_alpha": 3, "use_dora": True}, None, "DoRA"),
        ({"no_such_setting": 3}, None, "no_such_setting"),
        ([], None, "should have its config in its header, and has none"),
    ],
)
def test_a_header_that_contradicts_its_tensors_is_refused(checkpoint, matrices, tmp_path, about, alphas, reason):
    path = tmp_path / "adapter.safetensors"
    note = {f"transformer.{k}": v for k, v in about.items()} if about else about
    save_file(spelled(matrices, alphas=alphas), path, {NOTE: json.dumps(note)})
    with pytest.raises(BadInput, match=reason):
        adapted(checkpoint, path)


def test_a_file_that_was_cut_off_or_is_empty_is_refused(checkpoint, matrices, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_file(spelled(matrices), path)
    cut_off(path)
    for ask in (plan, adapted):
        with pytest.raises(BadInput, match=r"adapter\.safetensors is broken or was cut off"):
            ask(checkpoint, path)
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="pointer or empty"):
        plan(checkpoint, path)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not there; set RUSHES_DATA")
@pytest.mark.parametrize("case", ["dorascale", "empty", "half", "lackA", "te", "toomany", "trunc"])
def test_the_cases_of_public_reports_are_refused(case):
    with pytest.raises(BadInput, match=f"lora-{case}"):
        check_adapter(LoraConfig(path=str(CASES / f"lora-{case}.safetensors")), ModelConfig(checkpoint=str(WORLD)))


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not there; set RUSHES_DATA")
def test_the_case_of_comfyui_is_applied():
    path = CASES / "lora-comfydownup.safetensors"
    given, plain = load_file(path), load_file(weights_of(WORLD, "transformer"))
    found = adapted(WORLD, path)
    changed = {name for name in found if not torch.equal(found[name], plain[name].float())}
    layers = {k.removeprefix("diffusion_model.").rsplit(".lora_", 1)[0] for k in given}
    assert changed == {f"{layer}.weight" for layer in layers}
    for layer in layers:
        down, up = (given[f"diffusion_model.{layer}.lora_{half}.weight"] for half in ("down", "up"))
        torch.testing.assert_close(found[f"{layer}.weight"], plain[f"{layer}.weight"].float() + up @ down)
