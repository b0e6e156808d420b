"""Each stage, alone and from files, gives what the library's own pipeline gives for the same input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTXVideo, LTXConditionPipeline, LTXLatentUpsamplePipeline
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

from stages.core.identity import stage_seed
from stages.core.latents.artifacts import get_latent, get_text
from stages.core.ledger.storage import Storage
from stages.core.media import read_frames, write_video
from stages.core.step import Row, Workspace
from stages.core.weights.checkpoint import ModelConfig
from tests.stages.cascade import (
    GUIDANCE,
    NEGATIVE,
    PROMPT,
    REFINING,
    SAMPLING,
    STRENGTH,
    inputs,
    make_stages,
    run_take,
    take,
)

RATIOS = ["16x4", "32x8", "8x2"]
SEED = 7


@dataclass
class Reference:
    """One checkpoint as the library holds it, all parts in memory, and a take that went through the split stages."""

    folder: Path
    pipeline: LTXConditionPipeline
    workspace: Workspace
    row: Row

    @property
    def vae(self) -> AutoencoderKLLTXVideo:
        return self.pipeline.vae

    def embeds(self) -> dict[str, torch.Tensor]:
        text = get_text(self.workspace, self.row["text"])
        return {
            "prompt_embeds": torch.from_numpy(text["embeds"])[None],
            "prompt_attention_mask": torch.from_numpy(text["mask"])[None],
            "negative_prompt_embeds": torch.from_numpy(text["negative_embeds"])[None],
            "negative_prompt_attention_mask": torch.from_numpy(text["negative_mask"])[None],
        }

    def ours(self, stage: str) -> np.ndarray:
        return get_latent(self.workspace, self.row[stage])[0]

    def normalized(self, stage: str) -> torch.Tensor:
        z = torch.from_numpy(self.ours(stage))[None]
        return self.pipeline._normalize_latents(
            z, self.vae.latents_mean, self.vae.latents_std, self.vae.config.scaling_factor
        )

    def in_vae_space(self, latents: torch.Tensor) -> np.ndarray:
        z = self.pipeline._denormalize_latents(
            latents, self.vae.latents_mean, self.vae.latents_std, self.vae.config.scaling_factor
        )
        return z[0].numpy()


@pytest.fixture(scope="module", params=RATIOS)
def reference(request, checkpoints, tmp_path_factory) -> Reference:
    folder = checkpoints(request.param)
    workspace = Workspace(Storage(str(tmp_path_factory.mktemp("split"))))
    stages = make_stages(ModelConfig(checkpoint=str(folder), device="cpu"), workspace)
    pipeline = LTXConditionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return Reference(folder, pipeline, workspace, run_take(stages, take(SEED)))


def test_the_statistics_would_show_if_forgotten(reference):
    assert reference.vae.config.scaling_factor == pytest.approx(0.7)
    assert float(reference.vae.latents_mean.abs().max()) > 0.1
    assert float((reference.vae.latents_std - 1).abs().max()) > 0.1


def test_text_equals_the_pipelines_own(reference):
    with torch.no_grad():
        wanted = reference.pipeline.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=24)
    for ours, theirs in zip(reference.embeds().values(), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_base_equals_the_pipelines_own(reference):
    latents = reference.pipeline(
        **reference.embeds(),
        width=96,
        height=64,
        num_frames=9,
        frame_rate=8.0,
        num_inference_steps=SAMPLING.steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(stage_seed(SEED, "base")),
        output_type="latent",
    ).frames
    np.testing.assert_array_equal(reference.ours("base"), reference.in_vae_space(latents))
    assert not np.allclose(reference.ours("base"), latents[0].numpy(), atol=1e-2)


@pytest.mark.parametrize(
    ("stage", "before", "settings", "size"),
    [
        ("spatial", "base", {"adain_factor": 0.5}, (192, 128)),
        ("temporal", "spatial", {"tone_map_compression_ratio": 0.3}, (192, 128)),
    ],
)
def test_upsamplers_equal_the_pipelines_own(reference, stage, before, settings, size):
    network = LTXLatentUpsamplerModel.from_pretrained(reference.folder / f"{stage}_upsampler")
    pipeline = LTXLatentUpsamplePipeline(vae=reference.vae, latent_upsampler=network)
    latents = pipeline(
        latents=reference.normalized(before), width=size[0], height=size[1], output_type="latent", **settings
    ).frames
    np.testing.assert_array_equal(reference.ours(stage), reference.in_vae_space(latents))


def test_refine_equals_the_pipelines_own(reference):
    latents = reference.pipeline(
        **reference.embeds(),
        latents=reference.normalized("temporal"),
        denoise_strength=STRENGTH,
        width=192,
        height=128,
        num_frames=17,
        frame_rate=16.0,
        num_inference_steps=REFINING.steps,
        timesteps=[1000.0, 750.0, 500.0, 250.0],
        guidance_scale=REFINING.guidance,
        image_cond_noise_scale=0.0,
        generator=torch.Generator().manual_seed(stage_seed(SEED, "refine")),
        output_type="latent",
    ).frames
    np.testing.assert_array_equal(reference.ours("refine"), reference.in_vae_space(latents))
    assert not np.allclose(reference.ours("refine"), reference.ours("temporal"), atol=1e-2)


def test_decode_equals_one_call_from_noise_to_pixels(reference):
    """The library's whole way at once against base's file, decoded on its own."""
    call = {"width": 96, "height": 64, "num_frames": 9, "frame_rate": 8.0, "num_inference_steps": SAMPLING.steps}
    clip = reference.pipeline(
        **reference.embeds(),
        **call,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(stage_seed(SEED, "base")),
        output_type="np",
    ).frames[0]
    frames = (clip * 255).round().astype(np.uint8)
    decode = make_stages(ModelConfig(checkpoint=str(reference.folder), device="cpu"), reference.workspace)["decode"]
    row = decode.process(inputs("decode", reference.row, latent=reference.row["base"]))
    video = reference.workspace.read(row["uri"])
    assert video == write_video(frames, 8.0)
    assert read_frames(video).shape == (9, 64, 96, 3)


def test_sizes_come_out_doubled_in_space_and_in_time(reference):
    rows = {name: row for name, row in reference.row.items() if isinstance(row, dict)}
    size = {name: tuple(row[k] for k in ("width", "height", "n_frames", "fps")) for name, row in rows.items()}
    assert size == {
        "text": (0, 0, 0, 0.0),
        "base": (96, 64, 9, 8.0),
        "spatial": (192, 128, 9, 8.0),
        "temporal": (192, 128, 17, 16.0),
        "refine": (192, 128, 17, 16.0),
        "decode": (192, 128, 17, 16.0),
    }
    video = read_frames(reference.workspace.read(reference.row["decode"]["uri"]))
    assert video.shape == (17, 128, 192, 3)
    assert video.std() > 3
