"""The parts loader: what the libraries would complete with random numbers, or leave out, is refused by name."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5EncoderModel, UMT5Config, UMT5EncoderModel

from stages.base import Base
from stages.core.config_files import ROOT
from stages.core.errors import PERMANENT, BadInput, kind_of
from stages.core.latents.form import DecodeRecipe
from stages.core.step import PermanentError, StepRef
from stages.core.weights.checkpoint import ModelConfig, check_part
from stages.core.weights.digests import fingerprint
from stages.decode import Decode
from stages.families.contract import load_family
from stages.families.loading import load_named, load_part
from stages.families.ltx.vae import VaeCard
from stages.text import Text
from stages.training.tasks.models import load_part as load_for_training
from tests.stages.broken import broken, cut_off, prefixed, times, weights_of, without

CLASSES = {
    "text_encoder": T5EncoderModel,
    "transformer": LTXVideoTransformer3DModel,
    "vae": AutoencoderKLLTXVideo,
}
ONE = "encoder.block.1.layer.0.SelfAttention.q.weight"
FAULTS = {
    "a prefix": ("text_encoder", prefixed("text_model."), None, "shared.weight"),
    "no shared embedding": ("text_encoder", without("shared.weight"), None, "shared.weight"),
    "one tensor less": ("text_encoder", without(ONE), None, f"lack 1 tensor .*{re.escape(ONE)}"),
    "a text layer more": ("text_encoder", None, {"num_layers": 3}, r"num_layers 3, .* hold 2 of encoder\.block"),
    "a text layer less": ("text_encoder", None, {"num_layers": 1}, r"num_layers 1, .* hold 2 of encoder\.block"),
    "another text width": ("text_encoder", None, {"d_ff": 128}, r"another shape .*wi_0\.weight is \[64, 32\], not"),
    "fewer blocks": ("transformer", None, {"num_layers": 1}, r"num_layers 1, .* hold 2 of transformer_blocks"),
    "more blocks": ("transformer", None, {"num_layers": 3}, r"num_layers 3, .* hold 2 of transformer_blocks"),
    "one weight less": ("transformer", without("blocks.0.attn1.to_q.bias"), None, r"lack 1 .*blocks\.0\.attn1\.to_q"),
    "one weight more": ("transformer", lambda t: {**t, "odd": torch.ones(2)}, None, "hold 1 tensor .*: odd"),
    "other channels": ("transformer", None, {"in_channels": 9}, r"in_channels 9; proj_in\.weight"),
    "other heads": ("transformer", None, {"num_attention_heads": 2}, "another shape .* is "),
    "no statistics": ("vae", without("latents_mean", "latents_std"), None, "no latents_mean"),
    "no spread": ("vae", without("latents_std"), None, "no latents_std"),
    "a decoder level less": ("vae", None, {"decoder_block_out_channels": [16]}, r"hold 2 of decoder\.up_blocks"),
    "NaN": ("transformer", times("proj_in.weight", float("nan")), None, r"not finite in float32: proj_in\.weight"),
    "infinity": ("vae", times("latents_std", float("inf")), None, "latents_std"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_weights_that_do_not_fit_are_refused_by_name(checkpoint, tmp_path, fault):
    part, tensors, config, reason = FAULTS[fault]
    folder = broken(checkpoint, tmp_path / "broken", part, tensors, config)
    with pytest.raises(BadInput, match=reason) as caught:
        load_part(CLASSES[part], folder / part, torch.float32)
    assert str(folder / part) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kind_of(caught.value) == PERMANENT


@pytest.mark.parametrize("part", sorted(CLASSES))
def test_sound_parts_load_as_the_library_loads_them_and_nothing_is_said(checkpoint, part, caplog, capfd):
    caplog.set_level(logging.WARNING)
    ours = load_part(CLASSES[part], checkpoint / part, torch.float32).state_dict()
    said = capfd.readouterr().err
    theirs = CLASSES[part].from_pretrained(checkpoint / part).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not caplog.records
    assert not said


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_one_of_two_tied_weights_is_enough(checkpoint, tmp_path, name):
    folder = broken(checkpoint, tmp_path / "tied", "text_encoder", lambda t: {
        name if "shared" in k else k: v for k, v in t.items()
    })  # fmt: skip
    assert name in load_file(weights_of(folder, "text_encoder"))
    network = load_part(T5EncoderModel, folder / "text_encoder", torch.float32)
    wanted = load_file(weights_of(checkpoint, "text_encoder"))["shared.weight"]
    assert torch.equal(network.shared.weight, wanted)
    assert network.encoder.embed_tokens.weight.data_ptr() == network.shared.weight.data_ptr()


def test_a_prefix_that_the_library_takes_off_is_fine(checkpoint, tmp_path):
    folder = broken(checkpoint, tmp_path / "prefixed", "text_encoder", prefixed("transformer."))
    network = load_part(T5EncoderModel, folder / "text_encoder", torch.float32)
    wanted = load_file(weights_of(checkpoint, "text_encoder"))
    assert torch.equal(network.state_dict()[ONE], wanted[ONE])


def test_values_that_a_narrow_type_cannot_hold_are_refused(checkpoint, tmp_path):
    folder = broken(checkpoint, tmp_path / "wide", "transformer", times("proj_in.weight", 1e9))
    load_part(LTXVideoTransformer3DModel, folder / "transformer", torch.bfloat16)
    with pytest.raises(BadInput, match=r"not finite in float16: proj_in\.weight; .*model\.dtype"):
        load_part(LTXVideoTransformer3DModel, folder / "transformer", torch.float16)


def test_what_a_library_warns_of_is_in_the_log_and_not_on_the_terminal(checkpoint, tmp_path, caplog, capfd):
    folder = broken(checkpoint, tmp_path / "odd", "transformer", None, {"nobody_knows": 1})
    with caplog.at_level(logging.WARNING, "rushes"):
        load_part(LTXVideoTransformer3DModel, folder / "transformer", torch.float32)
    assert [r.name for r in caplog.records if "nobody_knows" in r.getMessage()] == ["rushes"]
    assert not capfd.readouterr().err


def sharded(checkpoint: Path, to: Path) -> Path:
    """The checkpoint with its transformer in shards; the index."""
    folder = broken(checkpoint, to, "transformer")
    network = LTXVideoTransformer3DModel.from_pretrained(folder / "transformer")
    weights_of(folder, "transformer").unlink()
    network.save_pretrained(folder / "transformer", max_shard_size="100KB")
    return next((folder / "transformer").glob("*.index.json"))


def test_shards_are_read_together(checkpoint, tmp_path):
    index = sharded(checkpoint, tmp_path / "shards")
    assert len(list(index.parent.glob("*.safetensors"))) > 1
    network = load_part(LTXVideoTransformer3DModel, index.parent, torch.float32)
    wanted = load_file(weights_of(checkpoint, "transformer"))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())


def test_a_shard_without_what_the_index_promises_is_refused_while_planning(checkpoint, tmp_path):
    index = sharded(checkpoint, tmp_path / "shards")
    shard = index.parent / json.loads(index.read_text())["weight_map"]["proj_in.weight"]
    save_file(without("proj_in.weight")(load_file(shard)), shard, {"format": "pt"})
    with pytest.raises(BadInput, match=r"lists tensors that the shards do not have: proj_in\.weight"):
        check_part(index.parent, "transformer")


def test_an_index_names_no_file_outside_of_its_folder(checkpoint, tmp_path):
    index = sharded(checkpoint, tmp_path / "shards")
    index.write_text(json.dumps({"weight_map": {"proj_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}))
    with pytest.raises(BadInput, match="outside of its folder"):
        check_part(index.parent, "transformer")


STEPS = {"text_encoder": Text, "transformer": Base, "vae": Decode}
PLANNED = {
    name: fault
    for name, fault in FAULTS.items()
    if re.search(r"shared\.weight|num_layers|in_channels|no latents|up_blocks", fault[3]) and "lack" not in fault[3]
}


def identity(folder: Path, part: str) -> str:
    cls, model = STEPS[part], ModelConfig(checkpoint=str(folder), device="cpu")
    return fingerprint(StepRef("step", f"{cls.__module__}:{cls.__name__}", cls.Config(model=model), None))


@pytest.mark.parametrize("fault", sorted(PLANNED))
def test_what_headers_tell_is_told_while_planning(checkpoint, tmp_path, fault):
    """Before any row: the fingerprint of a step is asked for then, and loads nothing."""
    part, tensors, config, reason = FAULTS[fault]
    assert identity(checkpoint, part)
    with pytest.raises(BadInput, match=reason):
        identity(broken(checkpoint, tmp_path / "broken", part, tensors, config), part)


@pytest.mark.parametrize("part", sorted(CLASSES))
def test_a_file_that_was_cut_off_is_refused_while_planning_in_one_sentence(checkpoint, tmp_path, part):
    folder = broken(checkpoint, tmp_path / "cut", part)
    cut_off(weights_of(folder, part))
    with pytest.raises(BadInput, match="cut off") as caught:
        identity(folder, part)
    assert str(weights_of(folder, part)) in str(caught.value)
    with pytest.raises(BadInput, match="cut off"):
        load_for_training(folder, part)


def other_models() -> dict[str, torch.nn.Module]:
    """Small models of the other classes of which names are known without torch."""
    text = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2}
    clip = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    return {
        "num_layers": UMT5EncoderModel(UMT5Config(**text)),
        "num_hidden_layers": CLIPTextModel(CLIPTextConfig(**clip, num_attention_heads=2)),
        "num_layers ": WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8,
            ffn_dim=8, num_layers=2, rope_max_seq_len=32,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("key", sorted(other_models()))
def test_promises_are_those_of_the_real_classes(tmp_path, key):
    folder = tmp_path / "part"
    other_models()[key].save_pretrained(folder)
    check_part(folder, "part")
    load_named(folder, torch.float32)
    config = json.loads((folder / "config.json").read_text())
    for count in (1, 3):
        (folder / "config.json").write_text(json.dumps({**config, key.strip(): count}))
        with pytest.raises(BadInput, match=f"{key.strip()} {count}, but the weights hold 2"):
            check_part(folder, "part")


def test_upsamplers_of_more_blocks_than_their_weights_are_refused(checkpoint, tmp_path):
    folder = broken(checkpoint, tmp_path / "up", "spatial_upsampler", None, {"num_blocks_per_stage": 2})
    with pytest.raises(BadInput, match="num_blocks_per_stage 2, but the weights hold 0"):
        check_part(folder / "spatial_upsampler", "spatial_upsampler")


def test_the_card_of_a_vae_makes_no_statistics_up(checkpoint, tmp_path):
    for name, change, reason in (
        ("none", without("latents_mean"), "no latents_mean"),
        ("nan", times("latents_mean", float("nan")), "latents_mean has values that are not finite"),
        ("zero", times("latents_std", 0.0), "above 0"),
        ("few", lambda t: {**t, "latents_std": torch.ones(3)}, r"latents_std is|latents_std in the weights is \[3\]"),
    ):
        folder = broken(checkpoint, tmp_path / name, "vae", change)
        with pytest.raises(BadInput, match=reason):
            VaeCard(ModelConfig(checkpoint=str(folder), device="cpu"), torch.float32)


def test_a_tokenizer_of_another_model_is_refused(checkpoint, tmp_path):
    table = {"shared.weight", "encoder.embed_tokens.weight"}
    folder = broken(checkpoint, tmp_path / "other", "text_encoder", lambda t: {
        k: v[:40] if k in table else v for k, v in t.items()
    }, {"vocab_size": 40})  # fmt: skip
    with pytest.raises(BadInput, match="tokens, the text encoder only 40"):
        load_family("ltx").text(ModelConfig(checkpoint=str(folder), device="cpu"))


@pytest.mark.parametrize("factor", [3e38, float("nan")])
def test_frames_that_are_not_finite_are_an_error_and_not_black(checkpoint, tmp_path, factor):
    """Finite weights can overflow; the latent may also be at fault."""
    change = times("decoder.conv_out.conv.weight", 3e38) if factor > 0 else None
    folder = broken(checkpoint, tmp_path / "overflowing", "vae", change)
    codec = load_family("ltx").codec(ModelConfig(checkpoint=str(folder), device="cpu"))
    latent = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32)
    latent *= 100 if factor > 0 else np.float32(factor)
    with pytest.raises(PermanentError, match=r"of 9 frames with values that are not finite in float32"):
        codec.decode(latent, DecodeRecipe())


def test_a_latent_that_is_not_finite_is_an_error(checkpoint, tmp_path):
    folder = broken(checkpoint, tmp_path / "overflowing", "vae", lambda t: {
        k: v / v.abs().max() * 3e38 if k == "encoder.conv_out.conv.weight" else v for k, v in t.items()
    })  # fmt: skip
    codec = load_family("ltx").codec(ModelConfig(checkpoint=str(folder), device="cpu"))
    frames = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    with pytest.raises(PermanentError, match=r"of 3 latent frames with values that are not finite"):
        codec.encode(frames)


def test_nothing_is_loaded_past_the_loader():
    """Another call of the libraries' loaders would go on with what does not fit."""
    found = {p.name for p in (ROOT / "stages").rglob("*.py") if ".from_pretrained(" in p.read_text()}
    assert found == {"loading.py", "load_report.py"}
