"""A training step of the loop against a bare diffusers loop of the same model and batch; one JSON line each.

Steps of both are taken in turn, a pair at a time, on one thread, and CPU time is counted, so that a busy machine does
not decide; the figure is the median ratio.

python -m tests.benchmarks.bench_train [--pairs N] [--stage vae|base]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

GOAL = 1.05


def make_trainer(stage: str, folder: Path) -> Any:
    """The loop with a new model of the embedded shape."""
    from stages.core.config import merge
    from stages.training.loop import Trainer
    from stages.training.settings import TrainConfig

    bucket = {"width": 128, "height": 128, "frames": 17, "fps": 8, "batch": 4 if stage == "base" else 1}
    values: dict[str, Any] = {
        "stage": stage, "out": str(folder), "max_steps": 10_000, "save_every_s": 0, "device": "cpu",
        "data": {"curriculum": [{"buckets": [bucket]}], "cache": 8 if stage == "base" else 0},
        "optim": {"name": "adamw", "ema": 0.0}, "reconstruction": {"noise": 0.0},
        "model": {"trainable": ["vae.*", "transformer.*"]}, "objective": {"caption_dropout": 0.0},
    }  # fmt: skip
    trainer = Trainer(merge(TrainConfig, [("benchmark", values)])[0])
    trainer.task.get_ready(lambda: False)
    trainer.task.train()
    return trainer


def bare_vae(vae: Any, optimizer: Any, batch: Any) -> None:
    """What a script would do: encode, decode, L1, clip, step."""
    video = batch["frames"].movedim(-1, 1).float() / 127.5 - 1
    made = vae.decode(vae.encode(video).latent_dist.mode()).sample
    _step(F.l1_loss(made, video), vae, optimizer)


def bare_base(transformer: Any, optimizer: Any, batch: Any, tokenizer: Any, encoder: Any, coords: Any) -> None:
    """What a script would do: encode captions, mix noise in, predict, mean squared error, clip, step."""
    words = tokenizer(batch["captions"], padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    mask = words["attention_mask"]
    with torch.no_grad():
        text = encoder(words["input_ids"], attention_mask=mask)[0]
    clean = batch["latents"].float().flatten(2).mT
    noise, sigma = torch.randn_like(clean), torch.rand(len(clean), 1, 1)
    predicted = transformer(
        (1 - sigma) * clean + sigma * noise, text, 1000 * sigma[..., 0], mask, video_coords=coords, return_dict=False
    )[0]
    _step(F.mse_loss(predicted, noise - clean), transformer, optimizer)


def _step(loss: torch.Tensor, module: Any, optimizer: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def compare(stage: str, pairs: int) -> dict[str, Any]:
    """Median CPU seconds of a step, ours and bare, and the median of their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(stage, Path(folder))
        task, data = trainer.task, trainer.task.batches(0, 1)
        module = task.trained["vae" if stage == "vae" else "transformer"]
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)
        extra: tuple[Any, ...] = ()
        if stage == "base":
            from stages.training.tasks.denoisers import _coords

            latents = data[0]["latents"].float()
            coords = _coords(latents, task.geometry(task.buckets[0]), 0)
            coords[:, 0] /= 8
            extra = (task.frozen["tokenizer"], task.trained["text_encoder"], coords)
        bare = bare_vae if stage == "vae" else bare_base
        times: list[tuple[float, float]] = []
        for step in range(pairs + 1):
            batch, began = data[step], time.process_time()
            trainer._update([batch])
            middle = time.process_time()
            bare(module, optimizer, batch, *extra)
            times.append((middle - began, time.process_time() - middle))
    ours, theirs = zip(*times[1:], strict=True)
    ratio = statistics.median(a / b for a, b in times[1:])
    return {
        "benchmark": f"train_step_{stage}", "ratio": round(ratio, 3), "goal": GOAL, "pairs": pairs,
        "seconds": round(statistics.median(ours), 3), "bare_seconds": round(statistics.median(theirs), 3),
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare a training step with a bare loop's.")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--stage", choices=("vae", "base"), action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for stage in given.stage or ("vae", "base"):
        print(json.dumps(compare(stage, given.pairs)), flush=True)


if __name__ == "__main__":
    main()
