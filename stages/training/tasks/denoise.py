"""Training the base denoiser, with its text encoder or without; any transformer or U-Net that diffusers has."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPTextModel

from stages.core.errors import BadInput
from stages.training.data.batches import Batch, Frames, PixelBatches
from stages.training.data.cache import LatentBatches, LatentCache
from stages.training.latents import decode, encode, latents_digest
from stages.training.settings import Bucket, TrainConfig
from stages.training.tasks.base import Metrics, Task, to_frames
from stages.training.tasks.denoisers import Geometry, Keyframe, predict
from stages.training.tasks.models import denoiser_name, load_part
from stages.training.tasks.objectives import Noised, draw_clean, draw_levels, make_objective, noise_grid, weighted_error
from stages.training.tasks.raising import Raiser, between
from stages.training.tasks.vae import to_video_tensor

SAMPLES, SAMPLE_STEPS, SAMPLE_GUIDANCE = 4, 12, 4.0
EMBEDDINGS_KEPT = 20_000


class DenoiseTask(Task):
    """Trains `transformer` (or `unet`) and, as far as `trainable` says, `text_encoder`."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.name = denoiser_name(self.start)
        vae_folder = Path(config.model.vae).expanduser() if config.model.vae else self.start
        vae = load_part(vae_folder, "vae")
        self.adopt(
            {self.name: load_part(self.start, self.name), "text_encoder": load_part(self.start, "text_encoder")},
            {"vae": vae, "tokenizer": load_part(self.start, "tokenizer")},
        )
        self.objective = make_objective(config.objective, self.start)
        self.whole_text = self._reads_whole_text()
        raiser = self._raiser()
        self.ratios = (
            getattr(vae, "spatial_compression_ratio", 8),
            getattr(vae, "temporal_compression_ratio", 1),
        )
        self.learns_text = any(n.startswith("text_encoder.") for n in self.trained_names)
        self._embedded: dict[str, torch.Tensor] = {}
        if config.data.cache:
            about = config.data, self.buckets, latents_digest(vae), config.seed
            self.cache = LatentCache(folder, self.source, *about, raiser)

    def _reads_whole_text(self) -> bool:
        """Whether the text encoder is handed all its places and no mask, as rendering does with CLIP. Raises BadInput
        where `max_tokens` is another number of them."""
        encoder, limit = self.trained["text_encoder"], self.config.objective.max_tokens
        if not isinstance(encoder, CLIPTextModel):
            return False
        if limit != (places := encoder.config.max_position_embeddings):
            raise BadInput(
                f"objective.max_tokens is {limit}, and this text encoder has {places} places: set it to that"
            )
        return True

    def _raiser(self) -> Any:
        """The upsamplers, where there are buckets that refine what comes out of them."""
        if not any(b.refines for b in self.buckets):
            return None
        if self.config.objective.kind != "flow":
            raise BadInput(
                f"objective.kind is {self.config.objective.kind}, and data.curriculum[].buckets[].refines needs flow:"
                " set it to flow, or take `refines` out of the buckets"
            )
        self.frozen["raiser"] = raiser = Raiser(self.start).requires_grad_(False).eval()
        return raiser

    def batches(self, rank: int, world: int) -> Any:
        """Latents where they are kept, else frames."""
        config, parts = self.config, self.config.optim.accumulate
        if self.cache is not None:
            return LatentBatches(self.cache, config.data, config.seed, rank, parts)
        return PixelBatches(self.source, config.data, config.seed, rank, parts)

    def latents(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch's latents, and those of its last frames alone, normalised, float32."""
        if "latents" in batch:
            pair = [batch[k].to(self.device, torch.float32, non_blocking=True) for k in ("latents", "last")]
            return pair[0], pair[1]
        video = to_video_tensor(batch["frames"], self.device)
        return encode(self.frozen["vae"], video), encode(self.frozen["vae"], video[:, :, -1:])

    def embed(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text embeddings [B, L, D] and mask [B, L], padded as at work; remembered while the encoder is frozen."""
        limit, encoder = self.config.objective.max_tokens, self.trained["text_encoder"]
        words = self.frozen["tokenizer"](
            captions, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        ids, mask = words["input_ids"].to(self.device), words["attention_mask"].to(self.device)
        if self.learns_text:
            return encoder(ids, attention_mask=None if self.whole_text else mask)[0], mask
        missing = sorted({i for i, c in enumerate(captions) if c not in self._embedded})
        if len(self._embedded) > EMBEDDINGS_KEPT:
            self._embedded.clear()
            missing = list(range(len(captions)))
        if missing:
            with torch.no_grad():
                embedded = encoder(ids[missing], attention_mask=None if self.whole_text else mask[missing])[0]
            self._embedded.update({captions[i]: embedded[k] for k, i in enumerate(missing)})
        return torch.stack([self._embedded[c] for c in captions]), mask

    def forward(self, batch: Batch, seed: int) -> tuple[torch.Tensor, Metrics]:
        """The error of the prediction over all frames that were not given clean."""
        bucket, generator = self.buckets[batch["bucket"]], self.generator(seed)
        clean, last = self.latents(batch)
        noised = self.noised(batch, clean, bucket, generator)
        noisy, timesteps = noised.noisy, noised.timesteps[:, None]
        has_clean = self.starts_clean(bucket, seed)
        is_clean = self.clean_frames(clean, has_clean, generator)
        if has_clean:
            noisy, timesteps = self.with_clean_frames(noisy, clean, noised.timesteps, is_clean, generator)
        keyframe = self.keyframe(last, bucket, generator)
        text, mask = self.embed(self.dropped(batch["captions"], seed))
        predicted = predict(self.trained[self.name], noisy, timesteps, text, mask, self.geometry(bucket), keyframe)
        loss = weighted_error(predicted, noised.target, noised.weight, (~is_clean).float())
        return loss, {"error": loss.detach()}

    def noised(self, batch: Batch, clean: torch.Tensor, bucket: Bucket, generator: torch.Generator) -> Noised:
        """Latents with noise; in a bucket that refines, upsampled ones on their way to the clean ones."""
        if bucket.refines:
            return between(self.raised(batch), clean, bucket.refines, generator)
        levels = draw_levels(self.config.objective, len(clean), bucket, generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        return self.objective.noise(clean, noise, levels)

    def raised(self, batch: Batch) -> torch.Tensor:
        """The batch's latents as they come out of the upsamplers, normalised, float32."""
        if "raised" in batch:
            return batch["raised"].to(self.device, torch.float32, non_blocking=True)
        raised: torch.Tensor = self.frozen["raiser"](self.frozen["vae"], to_video_tensor(batch["frames"], self.device))
        return raised

    def dropped(self, captions: list[str], seed: int) -> list[str]:
        """The captions, some of them left empty, for guidance."""
        gone = np.random.default_rng([seed, 0xD20]).random(len(captions)) < self.config.objective.caption_dropout
        return ["" if g else c for g, c in zip(gone, captions, strict=True)]

    def starts_clean(self, bucket: Bucket, seed: int) -> bool:
        """Whether this batch's clips begin with clean frames: all or none, since only then a level for each token is
        needed, which costs a tenth of a step."""
        drawn = np.random.default_rng([seed, 0x61E]).random() < self.config.objective.condition
        return bucket.frames > 1 and not bucket.refines and (bucket.conditioned or bool(drawn))

    def clean_frames(self, clean: torch.Tensor, has_clean: bool, generator: torch.Generator) -> torch.Tensor:
        """Which latent frames of each clip are kept clean, its first ones: bool [B, F]."""
        n, frames = len(clean), clean.shape[2]
        counts = draw_clean(n, frames, generator) if has_clean and frames > 1 else torch.zeros(n, device=clean.device)
        return torch.arange(frames, device=clean.device)[None] < counts[:, None]

    def with_clean_frames(
        self,
        noisy: torch.Tensor,
        clean: torch.Tensor,
        timesteps: torch.Tensor,
        is_clean: torch.Tensor,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean frames but for `condition_noise` (which grows with the clip's noise level squared, as
        LTXConditionPipeline does it), and timesteps [B, F] that say so."""
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        strength = self.config.objective.condition_noise * (timesteps / 1000).square().view(-1, 1, 1, 1, 1)
        almost_clean = clean + strength * noise
        mixed = torch.where(is_clean[:, None, :, None, None], almost_clean, noisy)
        return mixed, timesteps[:, None] * (~is_clean)

    def keyframe(self, last: torch.Tensor, bucket: Bucket, generator: torch.Generator) -> Keyframe | None:
        """The clips' last frames as conditions, for some batches; all of a batch, since they are further tokens. Not of
        pictures: theirs is what they are to become."""
        share = 0.0 if bucket.refines or bucket.frames == 1 else self.config.objective.condition_last
        if not share or float(torch.rand((), generator=generator, device=generator.device)) >= share:
            return None
        return Keyframe(last, (bucket.crop_frames or bucket.frames) - 1)

    def geometry(self, bucket: Bucket) -> Geometry:
        """What the transformer is given of a bucket: ratios and frame rate."""
        return Geometry(*self.ratios, bucket.fps)

    def samples(self) -> list[Frames]:
        """Clips of a few captions from pure noise, guided; nothing for what is not trained by flow matching."""
        if self.config.objective.kind != "flow":
            return []
        full = [i for i, b in enumerate(self.buckets) if b.sigma_max == 1 and not b.conditioned and not b.refines]
        return [self.sample(n, self.buckets[full[0] if full else 0]) for n in range(SAMPLES)]

    def sample(self, number: int, bucket: Bucket, steps: int = SAMPLE_STEPS, guidance: float = SAMPLE_GUIDANCE) -> Any:
        """One clip from noise by Euler steps; frames [F, H, W, 3]."""
        video, caption = self.example(number, bucket)
        x = torch.randn(encode(self.frozen["vae"], video).shape, generator=self.generator(number), device=self.device)
        text, mask = self.embed([caption, ""])
        for now, after in pairwise(noise_grid(steps, self.config.objective.shift)):
            x = x + (after - now) * guided(self, x, now, text, mask, bucket, guidance)
        return to_frames(decode(self.frozen["vae"], x)[0])


def guided(
    task: DenoiseTask, x: torch.Tensor, sigma: float, text: Any, mask: Any, bucket: Bucket, guidance: float
) -> torch.Tensor:
    """The velocity of one clip [1, C, F, H, W] under classifier-free guidance (arXiv 2207.12598)."""
    if not hasattr(x, "shape") or len(x) != 1:
        raise BadInput("samples are drawn one clip at a time")
    timesteps = torch.full((2, x.shape[2]), sigma * 1000, device=x.device)
    both = predict(task.trained[task.name], torch.cat([x, x]), timesteps, text, mask, task.geometry(bucket))
    conditional, unconditional = both.chunk(2)
    return unconditional + guidance * (conditional - unconditional)
