"""Every objective learns: the loss falls on a tiny model in a few steps, and only what is to be trained changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.core.errors import BadInput
from stages.core.latents.form import DecodeRecipe
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Given, Sampling, load_family, load_maker
from stages.training.latents import decode, encode, latents_digest
from stages.training.loop import Trainer, train
from stages.training.progress import read_losses
from stages.training.settings import Bucket, Objective
from stages.training.tasks.denoise import DenoiseTask
from stages.training.tasks.models import load_part
from stages.training.tasks.objectives import draw_levels
from stages.training.tasks.raising import UPSAMPLERS, Raiser, between, lift
from stages.training.tasks.registry import make_task
from stages.training.tasks.vae import to_video_tensor

from .conftest import LOW, SMALL_AND_FINAL

HIGH = {**LOW, "width": 64, "height": 64}
LONG = {**LOW, "frames": 9, "fps": 16.0}


def probe(trainer: Trainer) -> float:
    """The mean loss over a few batches, always the same ones."""
    task = trainer.task
    data = task.batches(0, 1)
    with torch.no_grad():
        return float(np.mean([float(task(data[10_000 + i], i)[0]) for i in range(4)]))


def falls(config: Any, to: float = 0.9) -> Path:
    """Train; the loss on batches that are never trained on must fall to this share of what it was."""
    trainer = Trainer(config)
    assert trainer.task.get_ready(lambda: False)
    before = probe(trainer)
    outcome = trainer.run()
    assert outcome.finished
    assert len(read_losses(Path(config.out))) == config.max_steps
    assert probe(trainer) < to * before
    assert outcome.model is not None
    return outcome.model


def test_vae_learns_and_measures_its_latents(settings):
    terms = {"charbonnier": 1, "mse": 1, "gradient": 0.5, "temporal": 0.2, "spectrum": 0.1, "norm": 0.01, "kl": 1e-4}
    model = falls(settings("vae", max_steps=30, reconstruction=terms, sample_every=15))
    vae = load_part(model, "vae")
    assert not torch.equal(vae.latents_std, torch.ones_like(vae.latents_std))
    assert (model.parent / "samples" / "00000015.png").stat().st_size > 1000
    about = json.loads((model / "training.json").read_text())
    assert about["stage"] == "vae"
    assert about["step"] == 30
    assert about["data"].startswith("world:train:")


def test_base_learns_with_kept_latents_and_conditions(settings):
    buckets = [LOW, {**LONG, "sigma_max": 0.5, "conditioned": True, "lead_s": 1.0}]
    objective = {"condition": 0.3, "condition_last": 0.3, "condition_noise": 0.1, "max_tokens": 40}
    config = settings("base", buckets, max_steps=40, objective=objective, sample_every=40, data={"cache": 4})
    model = falls(config)
    from diffusers import LTXConditionPipeline

    pipeline = LTXConditionPipeline.from_pretrained(model)
    assert type(pipeline.transformer).__name__ == "LTXVideoTransformer3DModel"


@pytest.mark.parametrize(("stage", "high"), [("spatial", HIGH), ("temporal", LONG)])
def test_upsamplers_learn(settings, stage, high):
    upsampling = {"pixels": 0.2 if stage == "spatial" else 0.0, "input_noise": 0.1}
    falls(settings(stage, [LOW, high], max_steps=16, upsampling=upsampling))


def test_an_error_of_a_latent_counts_as_much_as_it_moves_the_pixels(start):
    from stages.training.tasks.models import load_part
    from stages.training.tasks.upsample import channel_gains

    vae = load_part(start, "vae")
    with torch.no_grad():
        vae.decoder.conv_in.conv.weight[:, 0] *= 0
        vae.decoder.conv_in.conv.weight[:, 1] *= 3
    gains = channel_gains(vae, torch.zeros(1, 8, 2, 2, 2)).flatten()
    assert float(gains[0]) == 0
    assert float(gains[1]) == float(gains.max())
    assert float(gains.square().mean()) == pytest.approx(1, rel=1e-4)


def test_a_bucket_may_have_levels_of_its_own():
    settings, draw = Objective(mean=0.0), torch.Generator().manual_seed(0)
    usual = draw_levels(settings, 4000, Bucket(), draw)
    noisier = draw_levels(settings, 4000, Bucket(mean=2.0), draw)
    assert abs(float(usual.mean()) - 0.5) < 0.02
    assert float(noisier.mean()) > 0.75
    assert float(draw_levels(settings, 4000, Bucket(mean=2.0, sigma_max=0.5), draw).max()) <= 0.5


def test_a_decoder_learns_from_upsampled_latents(settings, start):
    """Only where clips have the final size and rate."""
    frozen = {"trainable": ["vae.*"]}
    config = settings("vae", SMALL_AND_FINAL, reconstruction={"upsampled": 0.5}, model=frozen)
    task = make_task(config, Path(config.out))
    small, final = task.buckets
    assert {task.ways(small, seed) for seed in range(40)} == {()}
    ways = [task.ways(final, seed) for seed in range(200)]
    assert set(ways) == {(), UPSAMPLERS, *((name,) for name in UPSAMPLERS)}
    assert 70 < ways.count(()) < 130
    batches = task.batches(0, 1)
    batch = next(b for b in (batches[i] for i in range(20)) if b["bucket"] == 1)
    raised, plain = (task(batch, ways.index(way))[0] for way in (UPSAMPLERS, ()))
    assert not torch.isclose(raised, plain, rtol=1e-4)
    raised.backward()
    assert all(p.grad is not None for n, p in task.parameters_by_name().items())
    assert all(p.grad is None for name in UPSAMPLERS for p in task.trained[name].parameters())


@pytest.mark.parametrize("cache", [0, 4])
def test_a_denoiser_learns_to_lead_from_upsampled_latents_to_true_ones(settings, start, cache):
    buckets = [LOW, {**SMALL_AND_FINAL[1], "refines": 0.25}]
    config = settings("base", buckets, data={"cache": cache}, objective={"condition": 1.0})
    task = make_task(config, Path(config.out))
    assert task.get_ready(lambda: False)
    batches = task.batches(0, 1)
    batch = next(b for b in (batches[i] for i in range(20)) if b["bucket"] == 1)
    clean, raised = task.latents(batch)[0], task.raised(batch)
    assert clean.shape == raised.shape
    assert not torch.allclose(clean, raised, atol=0.1)
    assert not task.starts_clean(task.buckets[1], 0)
    task(batch, 3)[0].backward()
    assert all(p.grad is not None for n, p in task.parameters_by_name().items() if n.startswith("transformer."))


def test_the_way_of_a_refine_pass_begins_at_upsampled_latents_and_ends_at_true_ones(start):
    vae, raiser = load_part(start, "vae"), Raiser(start)
    clean = torch.randn(64, 8, 1, 1, 1)
    video = torch.rand(1, 3, 9, 64, 64) * 2 - 1
    assert raiser(vae, video).shape == encode(vae, video).shape
    way = between(torch.zeros_like(clean), clean, 0.25, torch.Generator().manual_seed(0))
    assert float(way.timesteps.max()) <= 250
    ends = way.noisy - (way.timesteps / 1000).view(-1, 1, 1, 1, 1) * way.target
    assert torch.allclose(ends, clean, atol=1e-5)
    begins = way.noisy + (0.25 - way.timesteps / 1000).view(-1, 1, 1, 1, 1) * way.target
    assert float(begins.std()) == pytest.approx(0.25, rel=0.15)


def test_upsamplers_are_not_rounded_by_mixed_precision(start):
    network, latents = load_part(start, "spatial_upsampler"), torch.randn(1, 8, 3, 4, 4)
    with torch.no_grad():
        exact = network(latents)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(lift(network, latents), exact)
            assert not torch.equal(network(latents), exact)


def test_upsamplers_learn_with_the_decoder_where_they_are_named(settings, start):
    model = {"trainable": ["vae.decoder.*", "temporal_upsampler.*"]}
    made = train(settings("vae", SMALL_AND_FINAL, max_steps=4, reconstruction={"upsampled": 1.0}, model=model)).model
    for name, learns in (("vae", True), ("spatial_upsampler", False), ("temporal_upsampler", True)):
        before, after = (load_part(folder, name).state_dict() for folder in (start, made))
        assert learns != all(torch.equal(before[key], after[key]) for key in before), name
    assert json.loads((made / "training.json").read_text())["trained"] == ["temporal_upsampler", "vae"]


def test_latents_stay_what_they_are_while_the_decoder_learns(settings, start):
    config = settings("vae", max_steps=2, model={"trainable": ["vae.decoder.*"]})
    before, after = load_part(start, "vae"), load_part(train(config).model, "vae")
    assert latents_digest(after) == latents_digest(before)
    assert not torch.equal(after.decoder.conv_out.conv.weight, before.decoder.conv_out.conv.weight)


def test_clean_frames_are_given_to_whole_batches(settings, start):
    config = settings("base", model={"checkpoint": str(start)}, objective={"condition": 0.3, "max_tokens": 40})
    task = make_task(config, Path(config.out))
    clip, still = Bucket(frames=17), Bucket(frames=1)
    given = [task.starts_clean(clip, seed) for seed in range(400)]
    assert 0.2 < sum(given) / len(given) < 0.4
    assert not any(task.starts_clean(still, seed) for seed in range(50))
    assert task.starts_clean(Bucket(frames=17, conditioned=True), 0)
    clean = torch.zeros(6, 1, 5, 1, 1)
    assert bool(task.clean_frames(clean, True, torch.Generator().manual_seed(0))[:, 0].all())
    assert not bool(task.clean_frames(clean, False, torch.Generator().manual_seed(0)).any())


def test_a_student_is_sampled_where_its_intervals_begin():
    from stages.training.settings import Distillation
    from stages.training.tasks.distill import student_timesteps
    from stages.training.tasks.objectives import noise_grid

    settings = Distillation(steps=3, teacher_steps=12)
    teacher = noise_grid(12, 4.0)
    assert (teacher[0], teacher[-1], len(teacher)) == (1, 0, 13)
    assert student_timesteps(settings, 4.0) == pytest.approx([1000 * t for t in teacher[:-1:4]])
    assert student_timesteps(settings) == pytest.approx([1000, 2000 / 3, 1000 / 3])


def test_ways_that_are_kept_are_those_that_are_walked(settings, tmp_path):
    """And walking goes on where it was cut off; every way comes once a round."""
    from stages.training.data.batches import clip_seed
    from stages.training.tasks.walks import WALK

    config = settings(
        "distill", model={"lora": {"rank": 2}}, objective={"max_tokens": 40, "condition": 0.5},
        distillation={"steps": 2, "teacher_steps": 4, "kept": 3}, data={"cache": 4},
    )  # fmt: skip
    task = make_task(config, tmp_path / "run")
    asked: list[int] = []
    assert not task.get_ready(lambda: len(asked.append(0) or asked) > 2)
    there = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").glob("walks-*/*.safetensors")}
    assert 0 < len(there) < 3
    assert task.get_ready(lambda: False)
    kept = task.batches(0, 1)
    assert {n: t for n, t in there.items() if (kept.folder / n).stat().st_mtime_ns == t} == there
    lap = [kept[i]["captions"] for i in range(3)]
    assert sorted(lap) == sorted(kept.batches[i]["captions"] for i in range(3))
    assert sorted(kept[i]["captions"] for i in range(3, 6)) == sorted(lap)
    found = next(kept[i] for i in range(3) if kept[i]["captions"] == kept.batches[0]["captions"])
    fresh = task.way(kept.batches[0], clip_seed(config.seed, WALK, 0))
    for name in ("states", "velocities", "free"):
        torch.testing.assert_close(found[name], fresh[name], rtol=2e-3, atol=2e-3)
    assert torch.isclose(task(found, 0)[0], task(fresh, 1)[0], rtol=1e-2)


def test_distillation_learns_as_lora_and_the_file_opens(settings, start):
    lora = {"rank": 4, "targets": ["to_q", "to_v", "net.0.proj", "proj_out"]}
    config = settings(
        "distill", max_steps=24, model={"lora": lora}, optim={"name": "adamw", "lr": 0.02},
        distillation={"steps": 2, "teacher_steps": 4, "guidance": 2.0, "kept": 5}, data={"cache": 8},
        objective={"max_tokens": 40, "condition": 0.2},
    )  # fmt: skip
    model = falls(config)
    transformer = load_part(start, "transformer")
    before = transformer.proj_out.weight.clone()
    transformer.load_lora_adapter(str(model), weight_name="pytorch_lora_weights.safetensors", prefix="transformer")
    assert "default_0" in transformer.peft_config
    assert torch.equal(transformer.proj_out.base_layer.weight, before)


def unet_folder(start: Path, folder: Path, kind: str) -> Path:
    """The tiny checkpoint with a U-Net in the transformer's place."""
    from diffusers import UNet3DConditionModel, UNetMotionModel

    shutil.copytree(start, folder)
    shutil.rmtree(folder / "transformer")
    torch.manual_seed(0)
    shape = {"in_channels": 8, "out_channels": 8, "block_out_channels": (8, 16), "cross_attention_dim": 32,
             "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 2}  # fmt: skip
    if kind == "3d":
        down, up = ("CrossAttnDownBlock3D", "DownBlock3D"), ("UpBlock3D", "CrossAttnUpBlock3D")
        net: Any = UNet3DConditionModel(down_block_types=down, up_block_types=up, attention_head_dim=4, **shape)
    else:
        down, up = ("CrossAttnDownBlockMotion", "DownBlockMotion"), ("UpBlockMotion", "CrossAttnUpBlockMotion")
        net = UNetMotionModel(
            down_block_types=down, up_block_types=up, num_attention_heads=2, motion_num_attention_heads=2,
            motion_max_seq_length=8, use_motion_mid_block=False, **shape,
        )  # fmt: skip
    net.save_pretrained(folder / "unet")
    return folder


@pytest.mark.parametrize(("kind", "min_snr"), [pytest.param("epsilon", 0.0, marks=pytest.mark.soak), ("v", 5.0)])
def test_a_3d_unet_learns_epsilon_and_v(settings, start, tmp_path, kind, min_snr):
    folder = unet_folder(start, tmp_path / "unet", "3d")
    bucket = {**LOW, "width": 64, "height": 64}
    objective = {"kind": kind, "min_snr": min_snr, "timesteps": "uniform", "max_tokens": 40}
    config = settings("base", [bucket], max_steps=10, model={"checkpoint": str(folder)}, objective=objective)
    falls(config, to=0.95)


def test_only_the_motion_modules_of_a_factorised_model_learn(settings, start, tmp_path):
    folder = unet_folder(start, tmp_path / "motion", "motion")
    bucket = {**LOW, "width": 64, "height": 64}
    model = {"checkpoint": str(folder), "trainable": ["unet.*motion_modules*"]}
    config = settings("base", [bucket], max_steps=4, model=model, objective={"kind": "epsilon", "max_tokens": 40})
    trained = train(config).model
    assert trained is not None
    before, after = load_part(folder, "unet").half().state_dict(), load_part(trained, "unet").half().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("motion_modules" in name for name in changed)
    assert not (trained / "transformer").exists()


def test_a_motion_module_that_is_trained_here_renders_here(settings, tmp_path):
    """On AnimateDiff's own parts, a VAE and a text encoder for pictures: what is trained is what is rendered with."""
    folder = load_maker("animatediff")(tmp_path / "animatediff", "text-to-video", 0)
    bucket = {**LOW, "width": 64, "height": 64, "frames": 4}
    model = {"checkpoint": str(folder), "trainable": ["unet.*motion_modules*"]}
    objective = {"kind": "epsilon", "max_tokens": 77}
    config = settings("base", [bucket], max_steps=3, model=model, objective=objective)
    trained, family = train(config).model, load_family("animatediff")
    assert trained is not None
    before, after = load_part(folder, "unet").half().state_dict(), load_part(trained, "unet").half().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("motion_modules" in name for name in changed)
    models = [ModelConfig(family="animatediff", checkpoint=str(f), device="cpu") for f in (folder, trained)]
    text, tokens = family.text(models[0]).encode("a red cube turns", "", 0)
    assert tokens
    task = DenoiseTask(config, tmp_path)
    np.testing.assert_allclose(task.embed(["a red cube turns"])[0][0].numpy(), text["embeds"], rtol=0, atol=1e-6)
    denoisers = [family.denoiser(m) for m in models]
    betas = denoisers[0].scheduler.alphas_cumprod
    torch.testing.assert_close(task.objective.scheduler.alphas_cumprod, betas)
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    codec = family.codec(models[0])
    video = to_video_tensor(torch.from_numpy(frames)[None], torch.device("cpu"))
    latents = encode(task.frozen["vae"], video)
    torch.testing.assert_close(latents, denoisers[0].form.to_pipeline(codec.encode(frames)), rtol=0, atol=1e-5)
    again = (decode(task.frozen["vae"], latents)[0].movedim(0, -1).clamp(-1, 1) + 1) * 127.5
    assert np.abs(again.detach().numpy() - codec.decode(codec.encode(frames), DecodeRecipe())).max() <= 1
    spec = codec.vae.spec(family="animatediff", width=64, height=64, n_frames=4, fps=8.0, fps_conditioning=8.0, seed=1)
    made = [d.denoise(Given(text=text), spec, Sampling(steps=2, guidance=2.0))["video"] for d in denoisers]
    assert np.isfinite(made[1]).all()
    assert np.abs(made[1] - made[0]).max() > 1e-3
    for objective, said in (
        ({"kind": "epsilon", "max_tokens": 40}, "objective.max_tokens is 40, and this text encoder has 77 places"),
        ({"kind": "v", "max_tokens": 77}, "objective.kind is v, and the checkpoint's scheduler samples epsilon"),
    ):
        with pytest.raises(BadInput, match=said):
            train(settings("base", [bucket], model=model, objective=objective, out=str(tmp_path / "other")))


def test_patterns_that_match_nothing_and_conditions_of_a_unet_are_refused(settings, start, tmp_path):
    with pytest.raises(BadInput, match=r"matches no parameter; one is called vae\."):
        train(settings("vae", model={"trainable": ["transformer.*"]}))
    folder = unet_folder(start, tmp_path / "unet", "3d")
    config = settings("base", model={"checkpoint": str(folder)}, objective={"condition": 1.0, "kind": "epsilon"})
    with pytest.raises(BadInput, match=r"objective\.condition"):
        train(config)


def test_gradient_checkpointing_and_bfloat16_give_nearly_the_same_step(settings, tmp_path):
    losses = []
    for i, more in enumerate([{}, {"model": {"checkpointing": True}}, {"dtype": "bfloat16"}]):
        train(settings("base", max_steps=2, out=str(tmp_path / str(i)), objective={"max_tokens": 40}, **more))
        losses.append(read_losses(tmp_path / str(i)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=0.05)


def test_accumulated_batches_are_one_step(settings, tmp_path):
    trainer = Trainer(settings("vae", max_steps=1, optim={"accumulate": 3}))
    assert trainer.run().finished
    assert len(read_losses(Path(trainer.config.out))) == 1
    assert trainer.ema is not None
    assert trainer.ema.optimization_step == 1
