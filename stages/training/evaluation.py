"""What a checkpoint that a run has made is worth, on clips that its training never saw. Quick, after every run; the
whole cascade is judged by `rushes evaluate`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stages.core.config_files import CONFIGS, read_yaml
from stages.core.errors import BadInput
from stages.core.measures.world.judge import Verdict, accuracy, judge
from stages.core.measures.world.words import Vocabulary, parse_prompt
from stages.training.data.batches import Source, load_source
from stages.training.settings import Bucket, Model, TrainConfig
from stages.training.tasks.denoise import DenoiseTask
from stages.training.tasks.models import load_part
from stages.training.tasks.quality import clips_of, reconstruction, spatial_gain, temporal_gain

Figures = dict[str, float]


def evaluate(folder: Path, config: TrainConfig, clips: int, seed: int = 0) -> Figures:
    """The figures of a checkpoint folder, by stage; none where the source holds nothing out, or for LoRA alone.

    vae                psnr of reconstructions, all pixels pooled; of the worst clip: psnr_least. dB
    spatial, temporal  psnr over swept pixels, `plain` of bicubic or blending, their difference `gain`, `ceiling`. dB
    base               shares of sampled clips in which the judge finds what the caption names: colour, ..., all
    """
    source = heldout(config) if clips else None
    if source is None or config.model.lora.rank:
        return {}
    buckets = [replace(b, crop=0, crop_frames=0, sigma_max=1.0) for b in config.data.curriculum[-1].buckets]
    if config.stage == "vae":
        return _reconstructed(folder, source, buckets[0], clips, seed)
    if config.stage in ("spatial", "temporal"):
        return _upsampled(folder, config.stage, source, buckets, clips, seed)
    return _judged(folder, config, source, buckets[0], clips) if config.stage == "base" else {}


def heldout(config: TrainConfig) -> Source | None:
    """The clips that the config's source keeps out of training; None where it keeps none."""
    try:
        return load_source(config.data.use, {**config.data.args, "split": "heldout"})
    except BadInput:
        return None


def _reconstructed(folder: Path, source: Source, bucket: Bucket, clips: int, seed: int) -> Figures:
    figures = reconstruction(load_part(folder, "vae"), clips_of(source, bucket, clips, seed))
    return {"psnr": figures["psnr"], "psnr_least": figures["least"], "clips": figures["clips"]}


def _upsampled(folder: Path, stage: str, source: Source, buckets: list[Bucket], clips: int, seed: int) -> Figures:
    low, high = (clips_of(source, bucket, clips, seed) for bucket in buckets[:2])
    gain = spatial_gain if stage == "spatial" else temporal_gain
    return gain(load_part(folder, "vae"), load_part(folder, f"{stage}_upsampler"), zip(low, high, strict=True))


def _judged(folder: Path, config: TrainConfig, source: Source, bucket: Bucket, clips: int) -> Figures:
    """Sampled as while training: guided Euler steps on captions that are held out. Needs flow matching and a world."""
    if config.objective.kind != "flow" or bucket.frames < 4:
        return {}
    task = DenoiseTask(replace(config, model=Model(checkpoint=str(folder))), folder)
    task.source = source
    task.eval()
    vocabulary = Vocabulary.of(read_yaml(Path(config.data.args.get("world") or CONFIGS / "world.yaml")))
    verdicts = []
    for number in range(clips):
        with torch.no_grad(), contextlib.suppress(BadInput):  # a caption of two objects
            verdicts.append(_judge_one(task, number, bucket, vocabulary))
    return {name: share for name, share in accuracy(verdicts).items() if share is not None} | {"clips": len(verdicts)}


def _judge_one(task: DenoiseTask, number: int, bucket: Bucket, vocabulary: Vocabulary) -> Verdict:
    named: Any = parse_prompt(task.example(number, bucket)[1], vocabulary)
    return judge(task.sample(number, bucket), bucket.fps, named, vocabulary)
