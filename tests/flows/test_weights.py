"""Weights that do not fit, through the command line: one sentence, before any row where headers tell it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save, save_file

from flows.cli.main import main
from tests.stages.broken import Tensors, broken, cut_off, prefixed, times, weights_of, without


def render(checkpoint: Path, folder: Path, *more: str, **campaign: object) -> Result:
    """One prompt, one seed, through the tiny cascade."""
    asked = {
        "name": "broken",
        "prompts": ["a red circle moving left"],
        "seeds": 1,
        "model": {"checkpoint": str(checkpoint)},
        "width": 64,
        "height": 64,
        "frames": 9,
        "base": {"sampling": {"steps": 2}},
        "refine": {"sampling": {"steps": 4}},
        **campaign,
    }
    path = folder / "broken.yaml"
    path.write_text(yaml.safe_dump(asked))
    command = ["render", str(path), "--store", str(folder / "store"), "--executor", "local", *more]
    return CliRunner().invoke(main, command)


def rows(folder: Path) -> list[dict]:
    """Every row of the catalog's stages."""
    out = folder / "artifacts.parquet"
    result = CliRunner().invoke(main, ["table", "artifacts", "--store", str(folder / "store"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return pq.read_table(out).to_pylist()


BEFORE = {
    "text encoder, prefix": ("text_encoder", prefixed("text_model."), None, "shared.weight"),
    "text encoder, no embedding": ("text_encoder", without("shared.weight"), None, "shared.weight"),
    "text encoder, a layer more": ("text_encoder", None, {"num_layers": 2}, "num_layers 2"),
    "transformer, fewer blocks": ("transformer", None, {"num_layers": 0}, "num_layers 0"),
    "VAE, no statistics": ("vae", without("latents_mean", "latents_std"), None, "latents_mean"),
}


@pytest.mark.parametrize("fault", sorted(BEFORE))
def test_headers_are_held_against_the_config_before_any_row(small_checkpoint, tmp_path, fault):
    part, tensors, config, reason = BEFORE[fault]
    result = render(broken(small_checkpoint, tmp_path / "model", part, tensors, config), tmp_path)
    assert result.exit_code == 2, result.output
    assert reason in result.output
    assert str(tmp_path / "model" / part) in result.output.replace("\n", "")
    assert "Traceback" not in result.output
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_a_file_that_was_cut_off_is_said_before_any_row(small_checkpoint, tmp_path):
    model = broken(small_checkpoint, tmp_path / "model", "vae")
    cut_off(weights_of(model, "vae"))
    result = render(model, tmp_path)
    assert result.exit_code == 2, result.output
    assert "cut off" in result.output


@pytest.mark.parametrize(
    ("part", "tensors", "stage", "reason"),
    [
        ("text_encoder", without("layer.0.SelfAttention.q.weight"), "text", "SelfAttention.q.weight"),
        ("transformer", times("proj_in.weight", float("nan")), "base", "not finite in float32: proj_in.weight"),
        ("vae", times("decoder.conv_out.conv.weight", float("inf")), "decode", "decoder.conv_out.conv.weight"),
    ],
)
def test_what_shows_when_loading_fails_the_stage_by_a_sentence(
    small_checkpoint, tmp_path, part, tensors, stage, reason
):
    """The names of every tensor, and the values, are known only then; no row of that stage is made of them."""
    result = render(broken(small_checkpoint, tmp_path / "model", part, tensors), tmp_path)
    assert result.exit_code == 1, result.output
    failed = [row for row in rows(tmp_path) if row["stage"] == stage and row["status"] == "error"]
    assert failed
    assert all(reason in row["error"] and str(tmp_path / "model" / part) in row["error"] for row in failed)


def test_a_vae_that_overflows_gives_an_error_row_and_no_black_video(small_checkpoint, tmp_path):
    name = "decoder.conv_out.conv.weight"
    model = broken(small_checkpoint, tmp_path / "model", "vae", lambda t: {
        k: torch.full_like(v, 3e38, dtype=torch.float32) if k == name else v for k, v in t.items()
    })  # fmt: skip
    result = render(model, tmp_path, "--export", str(tmp_path / "out"))
    assert result.exit_code == 1, result.output
    decoded = [row for row in rows(tmp_path) if row["stage"] == "decode"]
    assert [row["status"] for row in decoded] == ["error"]
    assert "frames with values that are not finite" in decoded[0]["error"]
    assert not list(tmp_path.rglob("*.mp4"))


LAYERS = ("proj_in", "transformer_blocks.0.attn1.to_q", "proj_out")


def adapter(checkpoint: Path, prefix: str = "transformer.", halves: tuple[str, str] = ("lora_A", "lora_B")) -> Tensors:
    """The tensors of an adapter of rank 2 for three layers."""
    weights, generator = load_file(weights_of(checkpoint, "transformer")), torch.Generator().manual_seed(0)
    tensors = {}
    for layer in LAYERS:
        out, into = weights[f"{layer}.weight"].shape
        for half, shape in zip(halves, ((2, into), (out, 2)), strict=True):
            tensors[f"{prefix}{layer}.{half}.weight"] = torch.randn(shape, generator=generator)
    return tensors


def with_adapter(checkpoint: Path, folder: Path, tensors: Tensors | bytes, *more: str) -> Result:
    """Render with an adapter of these tensors, or of these bytes."""
    path = folder / "adapter.safetensors"
    if isinstance(tensors, bytes):
        path.write_bytes(tensors)
    else:
        save_file(tensors, path)
    return render(checkpoint, folder, *more, base={"sampling": {"steps": 2}, "lora": {"path": str(path)}})


FAULTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "half of it": (
        lambda t: {k.replace("proj_in", "no_such_layer"): v for k, v in t.items()},
        "transformer.no_such_layer.lora_A.weight",
    ),
    "A without B": (without("proj_out.lora_B.weight"), "layer transformer.proj_out has no lora_B"),
    "B without A": (without("proj_out.lora_A.weight"), "layer transformer.proj_out has no lora_A"),
    "a block too many": (
        lambda t: {**t, **{k.replace("blocks.0", "blocks.7"): v.clone() for k, v in t.items() if "blocks.0" in k}},
        "transformer.transformer_blocks.7",
    ),
    "DoRA of kohya": (lambda t: {**t, "transformer.proj_out.dora_scale": torch.ones(2)}, "is a DoRA adapter"),
    "DoRA of peft": (
        lambda t: {**t, "transformer.proj_out.lora_magnitude_vector": torch.ones(2)},
        "is a DoRA adapter",
    ),
    "a text encoder's part": (
        lambda t: {**t, "text_encoder.q.lora_A.weight": torch.ones(2, 2)},
        "for the text encoder",
    ),
    "a text encoder's part by kohya": (
        lambda t: {**t, "lora_te1_text_model_q.lora_down.weight": torch.ones(2, 2)},
        "for the text encoder",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_of_which_not_all_is_used_is_refused_before_any_row(small_checkpoint, tmp_path, fault):
    change, reason = FAULTS[fault]
    result = with_adapter(small_checkpoint, tmp_path, change(adapter(small_checkpoint)))
    assert result.exit_code == 2, result.output
    assert reason in result.output
    assert str(tmp_path / "adapter.safetensors") in result.output
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_an_adapter_that_was_cut_off_or_is_empty_is_refused_before_any_row(small_checkpoint, tmp_path):
    whole = save(adapter(small_checkpoint))
    for data, reason in ((whole[: len(whole) // 2], "was cut off"), (b"", "empty")):
        result = with_adapter(small_checkpoint, tmp_path, data)
        assert result.exit_code == 2, result.output
        assert reason in result.output
        assert "Traceback" not in result.output


def test_an_adapter_in_any_spelling_changes_the_latent_alike(small_checkpoint, tmp_path):
    spellings = {
        "none": {},
        "diffusers": adapter(small_checkpoint),
        "comfy": adapter(small_checkpoint, "diffusion_model."),
        "down and up": adapter(small_checkpoint, "diffusion_model.", ("lora_down", "lora_up")),
    }
    latents = {}
    for name, tensors in spellings.items():
        folder = tmp_path / name
        folder.mkdir()
        go = (small_checkpoint, folder)
        result = with_adapter(*go, tensors, "--until", "base") if tensors else render(*go, "--until", "base")
        assert result.exit_code == 0, result.output
        (latents[name],) = [row["sha256"] for row in rows(folder) if row["stage"] == "base"]
    assert latents["diffusers"] == latents["comfy"] == latents["down and up"] != latents["none"]
