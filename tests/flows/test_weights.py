"""Weights that do not fit, through the command line: one sentence, before any row where headers tell it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from flows.cli.main import main
from tests.stages.broken import broken, cut_off, prefixed, times, weights_of, without


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


def test_half_an_adapter_is_refused_before_any_row(small_checkpoint, tmp_path):
    weights = load_file(weights_of(small_checkpoint, "transformer"))
    out, into = weights["proj_out.weight"].shape
    path = tmp_path / "adapter.safetensors"
    save_file(
        {
            f"transformer.{layer}.lora_{half}.weight": torch.ones(shape)
            for layer in ("proj_out", "no_such_layer")
            for half, shape in (("A", (2, into)), ("B", (out, 2)))
        },
        path,
    )
    result = render(small_checkpoint, tmp_path, base={"sampling": {"steps": 2}, "lora": {"path": str(path)}})
    assert result.exit_code == 2, result.output
    assert "transformer.no_such_layer.lora_A.weight" in result.output.replace("\n", "")
