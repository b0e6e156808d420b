"""Checkpoint folders: complete, in safetensors, or refused in one sentence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stages.core.errors import BadInput
from stages.core.identity import canonical
from stages.core.weights.checkpoint import ModelConfig, check_parts, is_hub_id
from stages.core.weights.digests import _without_paths

PARTS = ("transformer", "vae", "scheduler")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("transformer", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
        save_file({"w": np.ones(3, np.float32)}, tmp_path / part / "diffusion_pytorch_model.safetensors")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    return tmp_path


def test_a_complete_folder_passes(folder):
    check_parts(folder, PARTS)
    assert ModelConfig(checkpoint=str(folder)).folder(PARTS) == folder


def test_everything_missing_is_named_at_once(folder):
    with pytest.raises(BadInput, match=r"no tokenizer/, text_encoder/"):
        check_parts(folder, ("tokenizer", "text_encoder", *PARTS))


def test_a_folder_without_config_or_weights_is_incomplete(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    with pytest.raises(BadInput, match=r"vae/ has no \.safetensors"):
        check_parts(folder, PARTS)
    weights.write_bytes(data)
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(BadInput, match=r"vae/ has none of config\.json"):
        check_parts(folder, PARTS)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickled_weights_are_refused_and_never_opened(folder, name):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "vae" / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadInput, match=rf"pickled weights only \({name}\): refused"):
        check_parts(folder, PARTS)


def test_a_lost_shard_is_named(folder):
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "part-1.safetensors")
    with pytest.raises(BadInput, match=r"lacks part-2\.safetensors"):
        check_parts(folder, PARTS)


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"])
def test_a_pointer_is_no_weights(folder, data):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(data)
    with pytest.raises(BadInput, match="pointer or empty"):
        check_parts(folder, PARTS)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"checkpoint": ""}, "is empty"),
        ({"checkpoint": "/no/such/folder"}, "there is no checkpoint at"),
        ({"checkpoint": "some-owner/no-such-model", "revision": "main"}, "not in the local hub cache"),
    ],
)
def test_a_checkpoint_that_is_not_here_is_said(config, reason, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match=reason):
        ModelConfig(**config).folder(PARTS)


@pytest.mark.parametrize("field", [{"dtype": "int8"}, {"offload": "disk"}, {"device": "tpu"}, {"threads": 0}])
def test_unknown_settings_are_refused(field):
    with pytest.raises(BadInput, match=f"model.{next(iter(field))}"):
        ModelConfig(**field)


def test_where_weights_lie_is_no_identity(folder):
    here = ModelConfig(checkpoint=str(folder), device="cpu", offload="group", download=True, revision="x")
    there = ModelConfig(checkpoint="owner/name", spatial_upsampler="a/b@c")
    assert _without_paths(here, {}) == _without_paths(there, {}) == {"family": "ltx", "dtype": "float32", "threads": 1}
    assert _without_paths(here, {}) != _without_paths(ModelConfig(dtype="bfloat16"), {})
    canonical(here)


def test_upsamplers_default_to_the_checkpoint_and_take_other_forms(folder):
    inside = ModelConfig(checkpoint=str(folder))
    assert inside.spatial_upsampler == str(folder / "spatial_upsampler")
    with pytest.raises(BadInput, match="no checkpoint at"):
        inside.upsampler("spatial_upsampler")
    saved = folder / "pipeline" / "latent_upsampler"  # as a saved upsample pipeline lays it out
    saved.mkdir(parents=True)
    (saved / "config.json").write_text("{}")
    save_file({"w": np.ones(3, np.float32)}, saved / "diffusion_pytorch_model.safetensors")
    assert (
        ModelConfig(checkpoint="o/n", spatial_upsampler=str(folder / "pipeline")).upsampler("spatial_upsampler")
        == saved
    )
    (folder / "up.pt").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"up\.pt is not a safetensors"):
        ModelConfig(spatial_upsampler=str(folder / "up.pt")).upsampler("spatial_upsampler")


def test_what_looks_like_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "here").mkdir(parents=True)
    assert is_hub_id("owner/name")
    assert not any(map(is_hub_id, ["owner/here", "name", "./owner/name", "/a/b", "a/b/c", "owner/", "~/name"]))
