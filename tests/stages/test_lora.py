"""Adapters on a stage: their arithmetic, their identity, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.base import Base
from stages.core.errors import BadInput
from stages.core.step import StepRef
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.digests import fingerprint
from stages.core.weights.lora import FILE, LoraConfig
from stages.families.contract import load_family
from stages.training.export import write_lora
from stages.training.settings import Lora
from stages.training.tasks.models import add_lora, load_part

LAYERS = ["to_q", "net.0.proj", "proj_out"]
ALPHA, RANK = 6.0, 3


class Trained:
    """A training's adapters, with numbers in them."""

    def __init__(self, checkpoint: Path) -> None:
        transformer = load_part(checkpoint, "transformer")
        add_lora(transformer, LORA)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in transformer.named_parameters():
            if "lora_" in name:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        self.trained = {"transformer": transformer}


LORA = Lora(rank=RANK, alpha=ALPHA, targets=LAYERS)


@pytest.fixture
def adapter(checkpoint, tmp_path) -> Path:
    """An adapter folder as a training writes it, its alpha twice its rank."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_lora(Trained(checkpoint), LORA, folder)
    return folder


def weights(model: ModelConfig, lora: LoraConfig) -> dict[str, torch.Tensor]:
    return load_family("ltx").denoiser(model, lora).pipeline.transformer.state_dict()


def ref(model: ModelConfig, **lora) -> StepRef:
    config = Base.Config(model=model, lora=LoraConfig(**lora))
    return StepRef("base", "stages.base:Base", config, Base.resources)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_weights_are_those_of_the_paper(model, adapter, scale):
    """W + scale * alpha / rank * B A (arXiv 2106.09685)."""
    plain, tensors = weights(model, LoraConfig()), load_file(adapter / FILE)
    merged = weights(model, LoraConfig(path=str(adapter), scale=scale))
    assert set(merged) == set(plain)
    changed = [n for n in plain if not torch.equal(plain[n], merged[n])]
    assert sorted(changed) == sorted(n for n in plain if any(f"{layer}.weight" in n for layer in LAYERS))
    for name in changed:
        down, up = (tensors[f"transformer.{name.removesuffix('weight')}lora_{x}.weight"] for x in "AB")
        torch.testing.assert_close(merged[name], plain[name] + scale * ALPHA / RANK * up @ down)


def test_content_and_scale_are_identity_and_the_place_is_not(model, adapter, tmp_path):
    here = fingerprint(ref(model, path=str(adapter)))
    moved = shutil.copytree(adapter, tmp_path / "moved")
    assert fingerprint(ref(model, path=str(moved))) == here
    tensors = load_file(moved / FILE)
    save_file({k: 2 * v for k, v in tensors.items()}, moved / FILE)
    others = {fingerprint(ref(model, path=str(moved))), fingerprint(ref(model, path=str(adapter), scale=0.5))}
    assert len({here, fingerprint(ref(model)), *others}) == 4


def test_what_is_no_adapter_of_this_model_is_refused(model, checkpoint, adapter, tmp_path):
    with pytest.raises(BadInput, match="is it a whole checkpoint"):
        weights(model, LoraConfig(path=str(checkpoint)))
    with pytest.raises(BadInput, match="there is no checkpoint at"):
        weights(model, LoraConfig(path=str(tmp_path / "nowhere")))
    (tmp_path / "adapter.bin").write_bytes(b"a pickle, for all we know")
    with pytest.raises(BadInput, match="not a safetensors file"):
        weights(model, LoraConfig(path=str(tmp_path / "adapter.bin")))
    wide = {k: torch.cat([v, v], 1) if "lora_A" in k else v for k, v in load_file(adapter / FILE).items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(BadInput, match="does not fit this transformer"):
        weights(model, LoraConfig(path=str(tmp_path / "wide.safetensors")))
    save_file({k.replace("transformer.", "unet."): v for k, v in wide.items()}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="does not fit this transformer"):
        weights(model, LoraConfig(path=str(tmp_path / "other.safetensors")))
