"""What a person writes without Rushes: one process, the pipelines of diffusers loaded once, a loop over the prompts.

python -m tests.benchmarks.plain_script CHECKPOINT OUT TAKES THREADS   prints one JSON line with its seconds
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

BEGAN = time.perf_counter()

import torch  # noqa: E402  (importing is part of what is timed)
from diffusers import LTXConditionPipeline, LTXLatentUpsamplePipeline  # noqa: E402
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel  # noqa: E402

from stages.core.media import write_video  # noqa: E402

SIGMAS = [(12 - i) / 12 for i in range(12)]
BASE_TIMESTEPS = [1000 * 4 * s / (1 + 3 * s) for s in SIGMAS]
REFINE_TIMESTEPS = [1000 * (8 - i) / 8 for i in range(8)]
GUIDANCE = 2.0
STRENGTH = 0.375
PROMPTS = ("a red circle moving left on a black background", "a blue square growing on a white background")


def load(folder: Path) -> tuple[LTXConditionPipeline, LTXLatentUpsamplePipeline, LTXLatentUpsamplePipeline]:
    """The three pipelines, weights in memory."""
    pipeline = LTXConditionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    upsamplers = (
        LTXLatentUpsamplePipeline(
            vae=pipeline.vae,
            latent_upsampler=LTXLatentUpsamplerModel.from_pretrained(
                folder / f"{name}_upsampler", torch_dtype=torch.float32
            ),
        )
        for name in ("spatial", "temporal")
    )
    return pipeline, *upsamplers


@torch.inference_mode()
def take(models: tuple, prompt: str, seed: int, target: Path) -> None:
    """One prompt to one mp4, with the sizes and steps of configs/cascades/tiny.yaml."""
    pipeline, spatial, temporal = models
    generator = torch.Generator().manual_seed(seed)
    base = pipeline(
        prompt=prompt, negative_prompt="", width=128, height=128, num_frames=17, frame_rate=8.0,
        num_inference_steps=12, timesteps=BASE_TIMESTEPS, guidance_scale=GUIDANCE,
        generator=generator, max_sequence_length=64, output_type="latent",
    ).frames  # fmt: skip
    larger = spatial(latents=base, width=256, height=256, output_type="latent").frames
    longer = temporal(latents=larger, width=256, height=256, output_type="latent").frames
    frames = pipeline(
        prompt=prompt, negative_prompt="", latents=longer, denoise_strength=STRENGTH, width=256, height=256,
        num_frames=33, frame_rate=16.0, num_inference_steps=8, timesteps=REFINE_TIMESTEPS,
        guidance_scale=1.0, image_cond_noise_scale=0.0, generator=generator, max_sequence_length=64, output_type="np",
    ).frames[0]  # fmt: skip
    target.write_bytes(write_video((frames * 255).round().astype("uint8"), 16))


def main() -> None:
    """Load, one take that is not counted, then the takes that are."""
    folder, out, takes, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    models = load(folder)
    take(models, PROMPTS[0], 10**6, out / "warm.mp4")
    warm = time.perf_counter()
    for number in range(takes):
        take(models, PROMPTS[number % 2], number // 2, out / f"{number}.mp4")
    print(json.dumps({"startup": warm - BEGAN, "warm": time.perf_counter() - warm}))


if __name__ == "__main__":
    main()
