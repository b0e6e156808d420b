"""The stages of LTX-2, where they are not those of the engine: two tracks, and text that its connectors have read.

The connectors run with the text encoder. What they are given is every layer of Gemma for every token, 1.5 GB of floats
for the two prompts of one take; what they answer is 60 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import diffusers
import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift

from stages.core.errors import BadInput
from stages.core.latents.form import BadLatent, DecodeRecipe, Floats, LatentSpec, Tensors
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.digests import weights_digest
from stages.families.contract import Latents, VaeFacts
from stages.families.engine.card import Card, whole_config
from stages.families.engine.chunks import chunks
from stages.families.engine.stages import EngineDenoiser, EngineSeer, EngineText
from stages.families.engine.vae import EngineCodec, Form, vae_class
from stages.families.loading import load_component, load_tensors

ANSWERS = ("video", "audio", "mask")
"""What the connectors answer: embeddings for the pictures and for the sound, and which of their tokens count."""
STATISTICS = ("latents_mean", "latents_std")


class LTX2Form(Form):
    """Latents in VAE space, in which the pipelines take and give them too. Their statistics lie with the weights."""

    def __init__(self, model: ModelConfig) -> None:
        folder = model.folder(("vae", "audio_vae"))
        self.kind, self.layout = vae_class(model), "BCFHW"
        self.config = whole_config(self.kind, model.read_part("vae"))
        self.statistics = load_tensors(folder / "vae", STATISTICS)
        with torch.device("meta"):
            vae = self.kind.from_config(self.config)
        self.facts = VaeFacts(
            vae_id=weights_digest(folder, ("vae", "audio_vae")),
            spatial_ratio=vae.spatial_compression_ratio,
            temporal_ratio=vae.temporal_compression_ratio,
            channels=int(self.config["latent_channels"]),
            scale=float(self.statistics["latents_std"].mean()),
        )

    def to_pipeline(self, video: Floats) -> torch.Tensor:
        """[C, F, H, W] -> [1, C, F, H, W]."""
        return torch.from_numpy(np.ascontiguousarray(video))[None]

    def to_rest(self, latents: torch.Tensor) -> Floats:
        """[1, ...] -> [...], float32."""
        return cast(Floats, latents[0].float().cpu().contiguous().numpy())


class Connected(torch.nn.Module):  # type: ignore[misc]
    """Stands in for the connectors: answers with what they answered elsewhere for the negative prompt and the prompt,
    or for the prompt alone where there is no guidance."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.dtype, self.device = dtype, device
        self.answers: list[torch.Tensor] = []

    def forward(self, embeds: torch.Tensor, mask: torch.Tensor, **kwargs: Any) -> list[torch.Tensor]:
        """Embeddings for pictures and sound [B, L, D], and the mask [B, L]."""
        return [answer[-len(embeds) :] for answer in self.answers]


class LTX2Text(EngineText):
    """Tokenizer, text encoder and connectors."""

    def __init__(self, family: Any, model: ModelConfig) -> None:
        super().__init__(family, model)
        self.connectors = self.place(load_component(model, "connectors", self.dtype))

    def encode(self, prompt: str, negative_prompt: str, max_tokens: int) -> tuple[Tensors, int]:
        """`video`, `audio` [L, D] and `mask` [L] of the prompt, the negative one's with `negative_` before them, and
        how many tokens the prompt has."""
        with self.running(0):
            embeds, mask, negative, negative_mask = self.pipeline.encode_prompt(
                prompt, negative_prompt, max_sequence_length=max_tokens or self.length, device=self.device
            )
            both, masks = torch.cat([negative, embeds]), torch.cat([negative_mask, mask])
            found = self.connectors(both, masks, padding_side=self.tokenizer.padding_side)
        text = {}
        for name, tensor in zip(ANSWERS, found, strict=True):
            text[f"negative_{name}"], text[name] = (t.float().cpu().numpy() for t in tensor)
        for name in ("mask", "negative_mask"):
            text[name] = text[name].astype(bool)
        return text, len(self.tokenizer(prompt)["input_ids"])


def blank_text(device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What the pipeline is given as the embeddings of a text: nothing looks at it but the connectors' stand-in."""
    embeds, mask = torch.zeros(1, 1, 1, device=device, dtype=dtype), torch.ones(1, 1, device=device)
    return {
        "prompt_embeds": embeds,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": embeds,
        "negative_prompt_attention_mask": mask,
    }


class LTX2Seer(EngineSeer):
    """The VAE of the pictures."""

    def beside(self) -> dict[str, Any]:
        """A scheduler of the kind that the pipelines set, and connectors that say nothing."""
        connectors = Connected(self.dtype, self.device)
        connectors.answers = [torch.zeros(2, 1, 1, device=self.device, dtype=self.dtype)] * len(ANSWERS)
        return {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler(), "connectors": connectors}

    def blank(self) -> dict[str, torch.Tensor]:
        """As for the denoiser."""
        return blank_text(self.device, self.dtype)


class LTX2Denoiser(EngineDenoiser):
    """The transformer and the scheduler; pictures and sound come out of one call."""

    def beside(self) -> dict[str, Any]:
        """Cards of both VAEs, and connectors that answer with a prompt's embeddings."""
        for name, tensor in self.form.statistics.items():  # type: ignore[attr-defined]
            setattr(self.card, name, tensor.to(self.device))
        self.card.spatial_compression_ratio = self.vae.spatial_ratio
        self.card.temporal_compression_ratio = self.vae.temporal_ratio
        self.connectors = Connected(self.dtype, self.device)
        return {"connectors": self.connectors, "audio_vae": self._audio_card()}

    def _audio_card(self) -> Card:
        kind = diffusers.AutoencoderKLLTX2Audio
        config = whole_config(kind, self.model.read_part("audio_vae"))
        with torch.device("meta"):
            vae = kind.from_config(config)
        card = Card(kind, config, self.dtype, self.device)
        card.mel_compression_ratio = vae.mel_compression_ratio
        card.temporal_compression_ratio = vae.temporal_compression_ratio
        for name, tensor in load_tensors(self.model.folder(("audio_vae",)) / "audio_vae", STATISTICS).items():
            setattr(card, name, tensor.to(self.device))
        return card

    def schedule(self, spec: LatentSpec, steps: int) -> dict[str, Any]:
        """As the pipelines set it: by the number of tokens."""
        config = self.scheduler.config
        patch, patch_t = (int(self.parts["transformer"].config[k]) for k in ("patch_size", "patch_size_t"))
        frames, height, width = spec.grid
        tokens = (frames // patch_t) * (height // patch) * (width // patch)
        mu = calculate_shift(
            tokens, config.get("base_image_seq_len", 1024), config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.95), config.get("max_shift", 2.05),
        )  # fmt: skip
        return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": mu}

    def begin(
        self, scheduler: Any, start: Latents, before: Sequence[Floats], generator: torch.Generator
    ) -> dict[str, Any]:
        """Both tracks, which the pipeline brings to the noise level itself. Raises BadInput where one is absent."""
        if "audio" not in start:
            raise BadInput("ltx2 goes on from pictures and sound, and this latent has no sound")
        return {
            "latents": self._held(start["video"]),
            "audio_latents": self._held(start["audio"]),
            "noise_scale": float(scheduler.sigmas[0]),
        }

    def tracks(self, made: Any) -> dict[str, Floats]:
        """`video` [C, F, H, W] and `audio` [C, L, mel bins]."""
        return {"video": self.form.to_rest(made.frames), "audio": self.form.to_rest(made.audio)}

    def _held(self, track: Floats) -> torch.Tensor:
        return self.form.to_pipeline(track).to(self.device)

    def _text(self, text: Mapping[str, Any] | None) -> dict[str, torch.Tensor]:
        wanted = {f"{side}{name}" for side in ("", "negative_") for name in ANSWERS}
        if text is None or set(text) != wanted:
            raise BadLatent(f"ltx2 takes the embeddings {', '.join(sorted(wanted))}, not {sorted(text or ())}")
        pairs = [np.stack([text[f"negative_{name}"], text[name]]) for name in ANSWERS]
        self.connectors.answers = [torch.from_numpy(pair).to(self.device, self.dtype) for pair in pairs[:2]]
        self.connectors.answers.append(torch.from_numpy(pairs[2]).to(self.device, torch.int64))
        return blank_text(self.device, self.dtype)


class LTX2Codec(EngineCodec):
    """The VAE of the pictures."""

    def _pieces(self, latents: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        """[3, n, H, W] of [C, F, h, w], in order: chunks of ours, as for LTX."""
        for chunk in chunks(latents.shape[1], size, self.vae.temporal_ratio):
            made = self.network.decode(latents[None, :, chunk.start : chunk.end], return_dict=False)[0][0]
            yield made[:, chunk.first : chunk.last]

    def _tile(self, recipe: DecodeRecipe) -> None:
        """No chunks of the library's beside ours."""
        super()._tile(recipe)
        self.network.use_framewise_decoding = False
