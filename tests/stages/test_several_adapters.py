"""Several adapters at once: the sum is the library's, in any order, and each is meant for one network."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LTXConditionPipeline
from safetensors.torch import save_file

from stages.base import Base
from stages.core.errors import BadInput
from stages.core.step import StepRef
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.digests import fingerprint
from stages.core.weights.lora import Adapter, LoraConfig
from stages.extend import Extend
from stages.families.contract import Sampling, load_family
from stages.families.engine.stages import EngineDenoiser
from stages.families.loading import load_named
from stages.families.lora import adapt_all
from stages.refine import Refine
from tests.stages.families_cases import SEED, STEPS, call, case_of, library

SCALES = (0.7, -0.4, 1.5)
TAKE = {"width": 32, "height": 32, "frames": 9, "fps": 8.0, "guidance": 2.0, "conditions": None}


def write(path: Path, network: torch.nn.Module, seed: int, prefix: str = "transformer", step: int = 2) -> Path:
    """An adapter on every second or third attention layer, so that two of them share some."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    layers = [n for n, m in network.named_modules() if n.endswith(("to_q", "to_v")) and isinstance(m, torch.nn.Linear)]
    for layer in layers[::step]:
        out, into = network.get_submodule(layer).weight.shape
        tensors[f"{prefix}.{layer}.lora_A.weight"] = 0.3 * torch.randn(1 + seed, into, generator=generator)
        tensors[f"{prefix}.{layer}.lora_B.weight"] = 0.3 * torch.randn(out, 1 + seed, generator=generator)
    save_file(tensors, path)
    return path


def lora(paths: list[Path], scales=SCALES, parts=("", "", "")) -> LoraConfig:
    ones = [Adapter(path=str(p), scale=s, part=part) for p, s, part in zip(paths, scales, parts, strict=False)]
    first, *more = ones
    return LoraConfig(path=first.path, scale=first.scale, part=first.part, more=more)


@pytest.fixture
def three(checkpoint, tmp_path) -> list[Path]:
    """Three adapters of the transformer of LTX, that share layers."""
    transformer = load_named(checkpoint / "transformer", torch.float32)
    return [write(tmp_path / f"{i}.safetensors", transformer, i, step=1 + i % 2) for i in range(3)]


def test_the_sum_is_that_of_set_adapters_and_the_same_to_the_last_bit_in_any_order(checkpoint, three):
    pipeline = LTXConditionPipeline.from_pretrained(checkpoint)
    for i, path in enumerate(three):
        pipeline.load_lora_weights(path, adapter_name=f"a{i}")
    names = [f"a{i}" for i in range(3)]
    pipeline.set_adapters(names, list(SCALES))
    pipeline.fuse_lora(adapter_names=names)
    pipeline.unload_lora_weights()
    wanted, found = pipeline.transformer.state_dict(), []
    for order in permutations(range(3)):
        transformer = load_named(checkpoint / "transformer", torch.float32)
        adapt_all({"transformer": transformer}, lora([three[i] for i in order], [SCALES[i] for i in order]))
        found.append(transformer.state_dict())
    plain = load_named(checkpoint / "transformer", torch.float32).state_dict()
    moved = [n for n in plain if not torch.equal(plain[n], found[0][n])]
    assert moved
    assert all(n.endswith(("to_q.weight", "to_v.weight")) for n in moved)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[0][name], tensor, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(other[name], found[0][name]) for other in found[1:])


def ref(config: LoraConfig, model: ModelConfig) -> StepRef:
    return StepRef("base", "stages.base:Base", Base.Config(model=model, lora=config), Base.resources)


def test_identity_is_of_what_is_added_and_not_of_its_order(model, three):
    one, two, last = three
    marks = {
        fingerprint(ref(lora(list(o), s), model)) for o, s in (((one, two), (0.7, -0.4)), ((two, one), (-0.4, 0.7)))
    }
    assert len(marks) == 1
    others = [
        LoraConfig(), lora([one]), lora([two]), lora([one, two], (-0.4, 0.7)), lora([one, last]), lora(three),
        lora([one, one]),
    ]  # fmt: skip
    assert len(marks | {fingerprint(ref(other, model)) for other in others}) == 1 + len(others)


CASES = ["wan-t2v", "skyreels-diffusion-forcing-text", "ltx2-2.0", "animatediff-text-to-video"]


@pytest.mark.parametrize("name", CASES)
def test_two_adapters_make_the_clip_that_the_library_makes_with_them(tiny, tmp_path, name):
    """On AnimateDiff, one of the two lies on the motion module, as motion LoRAs do, and the other on the pictures."""
    case = case_of(name)
    stages = tiny(case)
    (part,) = stages.offers.lora
    network = stages.denoiser.parts[part]
    paths = [write(tmp_path / f"{i}.safetensors", network, i, part, step=1 + i) for i in range(2)]
    denoiser = stages.family.denoiser(stages.model, lora(paths))
    given, sampling = stages.given(), Sampling(steps=STEPS, guidance=case.guidance)
    made = denoiser.denoise(given, stages.spec(SEED), sampling)["video"]
    whole = library(case, stages.folder)
    for i, path in enumerate(paths):
        whole.load_lora_weights(path, adapter_name=f"a{i}")
    whole.set_adapters(["a0", "a1"], list(SCALES[:2]))
    wanted = stages.denoiser.form.to_rest(call(case, whole, "latent"))
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-3)
    assert np.abs(made - stages.latent(given)).max() > 1e-2


def test_each_expert_has_adapters_of_its_own(tiny, tmp_path):
    case = case_of("wan-two-experts")
    stages = tiny(case)
    names = ("transformer", "transformer_2")
    assert stages.offers.lora == names
    paths = [write(tmp_path / f"{n}.safetensors", stages.denoiser.parts[n], i) for i, n in enumerate(names)]
    denoiser: EngineDenoiser = stages.family.denoiser(stages.model, lora(paths, parts=names))
    given, sampling = stages.given(), Sampling(steps=STEPS, guidance=case.guidance)
    made = denoiser.denoise(given, stages.spec(SEED), sampling)["video"]
    whole = library(case, stages.folder)
    whole.load_lora_weights(paths[0], adapter_name="high")
    whole.load_lora_weights(paths[1], adapter_name="low", load_into_transformer_2=True)
    whole.transformer.set_adapters("high", SCALES[0])
    whole.transformer_2.set_adapters("low", SCALES[1])
    wanted = stages.denoiser.form.to_rest(call(case, whole, "latent"))
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-3)
    swapped = stages.family.denoiser(stages.model, lora(paths, parts=names[::-1]))
    assert np.abs(swapped.denoise(given, stages.spec(SEED), sampling)["video"] - made).max() > 1e-2


@pytest.mark.parametrize(
    ("case", "config", "said"),
    [
        ("wan-two-experts", LoraConfig(path="a"), r"base\.lora\.part: wan \(T2V, two experts\) denoises with two"),
        (
            "wan-two-experts",
            LoraConfig(path="a", part="transformer", more=[Adapter(path="b", part="vae")]),
            r"base\.lora\.more\[0\]\.part: .* has no part 'vae' that takes one; give transformer or transformer_2",
        ),
        ("wan-t2v", LoraConfig(path="a", part="transformer_2"), r"base\.lora\.part: wan \(T2V\) has no part"),
        ("wan-t2v", LoraConfig(path="a", more=[Adapter()]), r"base\.lora\.more\[0\]\.path is empty: give the adapter"),
        ("svd-image-to-video", LoraConfig(more=[Adapter(path="b")]), r"base\.lora\.more\[0\]\.path: svd takes no"),
    ],
)  # fmt: skip
def test_adapters_that_are_for_no_network_are_refused_before_any_work(tiny, case, config, said):
    stages = tiny(case_of(case))
    still = {"kind": "still", "role": "first", "sha256": "a", "frame": 0}
    take = TAKE if stages.reader else {**TAKE, "frames": 4, "conditions": [still]}
    with pytest.raises(BadInput, match=said):
        Base.check_unit(Base.Config(model=stages.model, lora=config), take)
    with pytest.raises(BadInput, match=said.replace("base", "refine")):
        Refine.check_unit(Refine.Config(model=stages.model, lora=config), {})


def test_what_is_no_scale_and_what_does_not_fit_is_said_of_every_adapter(model, three, checkpoint):
    with pytest.raises(BadInput, match=r"lora\.scale is nan; it must be a number"):
        Adapter(path="a", scale=float("nan"))
    with pytest.raises(BadInput, match=r"extend\.lora\.part: ltx has no part 'unet'"):
        Extend.check_unit(Extend.Config(model=model, lora=LoraConfig(path="a", part="unet")), {"longer": 2})
    broken = three[1].with_name("broken.safetensors")
    save_file(
        {"transformer.nowhere.lora_A.weight": torch.ones(1, 2), "transformer.nowhere.lora_B.weight": torch.ones(2, 1)},
        broken,
    )
    with pytest.raises(BadInput, match=r"broken\.safetensors does not fit this transformer"):
        fingerprint(ref(lora([three[0], broken]), model))
    with pytest.raises(BadInput, match=r"broken\.safetensors does not fit this transformer"):
        load_family("ltx").denoiser(model, lora([three[0], broken]))
