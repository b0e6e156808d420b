"""Text encoder, seer and denoiser of every family of the engine. Each loads its own parts and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import diffusers
import numpy as np
import torch

from stages.core.conditions import STILLS, Condition
from stages.core.errors import BadInput
from stages.core.latents.form import BadLatent, Floats, LatentSpec, Tensors
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import Frames, Given, Latents, Sampling, Shot
from stages.families.engine.accelerate import accelerating
from stages.families.engine.card import Card, Hull, Recorder, Stop, weightless, whole_config
from stages.families.engine.runtime import Stage, quiet
from stages.families.engine.schedule import make_scheduler, renoise, skipped, tail
from stages.families.engine.vae import EngineCodec, Form
from stages.families.engine.variant import Adapter, Call, Variant
from stages.families.loading import load_component, load_part, load_tokenizer
from stages.families.lora import adapt_all

TEXT = {"embeds": "prompt_embeds", "negative_embeds": "negative_prompt_embeds"}
"""Our names of embeddings -> those of the pipelines."""


class EngineText(Stage):
    """Tokenizer and text encoder, through the pipeline's own encode_prompt."""

    def __init__(self, family: Adapter, model: ModelConfig) -> None:
        super().__init__(model)
        folder = model.folder(family.text_parts)
        self.family, self.tokenizer = family, load_tokenizer(folder / "tokenizer")
        encoder = load_component(model, "text_encoder", self.dtype)
        known = encoder.config.get_text_config().vocab_size  # of one that sees too, this lies deeper
        if len(self.tokenizer) > known:
            raise BadInput(
                f"{folder}: the tokenizer has {len(self.tokenizer)} tokens, the text encoder only"
                f" {known}: they belong to two models"
            )
        self.length = family.text_length or int(self.tokenizer.model_max_length)
        parts = {"tokenizer": self.tokenizer, "text_encoder": self.place(encoder)}
        self.pipeline = build_pipeline(family.text_pipeline, parts, self.device)

    def encode(self, prompt: str, negative_prompt: str, max_tokens: int) -> tuple[Tensors, int]:
        """Both prompts as `embeds` and `negative_embeds` [L, D], and how many tokens the prompt has."""
        with self.running(0):
            found = self.family.encode_text(
                self.pipeline, prompt, negative_prompt, max_tokens or self.length, self.device
            )
            arrays = [t[0].float().cpu().numpy() for t in found]
        return dict(zip(TEXT, arrays, strict=True)), len(self.tokenizer(prompt)["input_ids"])


class EngineSeer(Stage):
    """The VAE, and the image encoder where there is one. Runs the pipeline itself as far as its denoiser."""

    def __init__(self, family: Adapter, model: ModelConfig) -> None:
        super().__init__(model)
        self.family, self.variant = family, family.variant(model)
        self.codec = EngineCodec(family, model)
        self.vae = self.codec.vae
        self.recorder = Recorder(self.codec.network)
        parts = {name: self.place(load_component(model, name, self.dtype)) for name in self.variant.see}
        hulls = {name: self._hull(name) for name in self.variant.denoise if name != "scheduler"}
        scheduler = diffusers.EulerDiscreteScheduler()  # of a run that takes no step
        self.parts = {"vae": self.codec.network, "scheduler": scheduler, **parts, **hulls, **self.beside()}

    def beside(self) -> dict[str, Any]:
        """Parts that a pipeline asks on its way to the denoiser, beside those that look."""
        return {}

    def blank(self) -> dict[str, torch.Tensor]:
        """What stands for the embeddings of a text, which a run that looks does not need."""
        return {name: torch.zeros(1, 1, 8, device=self.device) for name in TEXT.values()}

    def see(self, shot: Shot, media: Sequence[Frames], knobs: Mapping[str, Any]) -> Tensors:
        """`source`: the latent of a video to begin from; `encoded.N`, `looked.N`: what VAE and image encoder answered,
        in order; `KIND.N`: pixels that go to the denoiser; `knob.NAME`: how it was looked."""
        shown = [c for c in shot.conditions if c.sha256]
        frames = dict(zip(shown, media, strict=True))
        seen: dict[str, Any] = {}
        for one in shown:
            if starts(one):
                seen["source"] = self.codec.encode_stream([frames[one]])
        seen |= kept(self.variant, shown, frames)
        if any(c.kind in self.variant.encodes and not starts(c) for c in shown):
            asked = with_defaults(self.variant, knobs, "see")
            seen |= {f"knob.{name}": np.array([value], np.float32) for name, value in asked.items()}
            seen |= self._look(Call(shot=shot, sampling=Sampling(steps=1, guidance=1.0), frames=frames,
                                    knobs={**with_defaults(self.variant, {}, "denoise"), **asked}))  # fmt: skip
        return seen

    def _look(self, call: Call) -> dict[str, Floats]:
        looked: list[torch.Tensor] = []
        pipeline = build_pipeline(
            class_for(self.variant, call.shot.conditions), self.parts, self.device, self.variant.options
        )
        real = {name: getattr(pipeline, name) for name in self.variant.looks}

        def listening(name: str) -> Any:
            def look(*args: Any, **kwargs: Any) -> Any:
                looked.append(real[name](*args, **kwargs))
                return looked[-1]

            return look

        for name in real:
            setattr(pipeline, name, listening(name))
        text = self.blank() if "text" in self.variant.offers.parts else {}
        with self.running(call.shot.seed) as generator, self.recorder.listening() as taken, suppress(Stop):
            pipeline(**text, **self.variant.bind(call), **common(call), generator=generator)
        return {**_numbered("encoded", taken), **_numbered("looked", looked)}

    def _hull(self, name: str) -> Any:
        further = name in self.model.parts
        config = self.model.read_further(name) if further else self.model.read_part(name)
        kind = getattr(diffusers, str(config.get("_class_name", "")), None)
        if kind and further:
            return weightless(kind, config, self.dtype, self.device)
        return Hull(whole_config(kind, config) if kind else config, self.dtype, self.device)


class EngineDenoiser(Stage):
    """The denoising networks and the scheduler, through the family's pipeline; of the VAE a card."""

    def __init__(self, family: Adapter, model: ModelConfig, lora: LoraConfig) -> None:
        super().__init__(model)
        self.family, self.variant = family, family.variant(model)
        self.form: Form = family.form(model)
        self.vae = self.form.facts
        self.card = Card(self.form.kind, self.form.config, self.dtype, self.device)
        model.folder([n for n in self.variant.denoise if n not in model.parts])  # one download, and all that is missing
        self.scheduler = load_component(model, "scheduler", self.dtype)
        networks = {n: self._network(n) for n in self.variant.denoise if n != "scheduler"}
        adapt_all(networks, lora, model.download)
        placed = {name: self.place(network, turns=True) for name, network in networks.items()}
        self.networks = list(placed.values())
        self.parts = {"vae": self.card, "scheduler": self.scheduler, **placed, **self.beside()}
        self.pipeline = self._pipeline(self.variant.pipeline)

    def _pipeline(self, kind: str) -> Any:
        made = build_pipeline(kind, self.parts, self.device, self.variant.options)
        self.family.amend(made)
        return made

    def beside(self) -> dict[str, Any]:
        """Parts that stand in for others that the pipeline asks, beside the VAE."""
        return {}

    def schedule(self, spec: LatentSpec, steps: int) -> dict[str, Any]:
        """What the pipeline sets its schedule by, beside the number of steps."""
        return {}

    def begin(
        self, scheduler: Any, start: Latents, before: Sequence[Floats], generator: torch.Generator
    ) -> dict[str, Any]:
        """What the pipeline is called with to go on from `start`. before: latents [1, C, F, H, W] in front of it."""
        noisy = self._renoised(scheduler, np.concatenate([*(a[0] for a in before), start["video"]], axis=1), generator)
        return {"latents": noisy}

    def tracks(self, made: Any) -> dict[str, Floats]:
        """The tracks of what the pipeline answers."""
        return {"video": self.form.to_rest(made.frames)}

    def denoise(
        self, given: Given, spec: LatentSpec, sampling: Sampling, start: Latents | None = None, level: float = 1.0
    ) -> Latents:
        """A latent of the spec's size, from pure noise, or from `start` at the noise level `level`."""
        call = self._call(given, spec, sampling)
        scheduler, more, skip = make_scheduler(self.scheduler, sampling.scheduler), dict[str, Any](), 0
        answers = _in_order(given.seen, "encoded")
        leading = sum(c.kind in self.variant.leads for c in given.conditions)
        kind = class_for(self.variant, given.conditions)
        same = kind == self.variant.pipeline
        pipeline = self.pipeline if same else self._pipeline(kind)
        with self.running(spec.seed) as generator, self.card.answering(answers), self._looking(pipeline, given.seen):
            if start is not None:
                by = self.schedule(spec, sampling.steps)
                skip = skipped(scheduler, sampling.steps, level, **by)
                scheduler = tail(scheduler, skip)
                scheduler.set_timesteps(sampling.steps, **by)
                more = self.begin(scheduler, start, answers[len(answers) - leading :][::-1], generator)
            pipeline.register_modules(scheduler=scheduler)
            self.family.steer(pipeline, call)
            with accelerating(pipeline, self.networks, sampling, skip):
                made = pipeline(
                    **self._text(given.text), **self.variant.bind(call), **common(call), **more, generator=generator
                )
            tracks = self.tracks(made)
            return {**tracks, "video": np.ascontiguousarray(tracks["video"][:, leading:])}

    def _renoised(self, scheduler: Any, start: Floats, generator: torch.Generator) -> torch.Tensor:
        clean = self.form.to_pipeline(start)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = renoise(scheduler, clean, noise)
        if self.variant.scales:
            noisy = noisy / scheduler.init_noise_sigma
        return noisy.to(self.device, self.dtype)

    def _call(self, given: Given, spec: LatentSpec, sampling: Sampling) -> Call:
        """The call, with blank frames where what was made of them is answered."""
        shot = Shot(
            width=spec.width,
            height=spec.height,
            n_frames=spec.n_frames,
            fps=spec.fps_conditioning,
            playback=spec.fps,
            seed=spec.seed,
            conditions=given.conditions,
        )
        frames = {c: np.zeros((1 if c.kind in STILLS else spec.n_frames, spec.height, spec.width, 3), np.uint8)
                  for c in given.conditions}  # fmt: skip
        counts: dict[str, int] = {}
        for c in given.conditions:
            if c.kind in self.variant.keeps and not starts(c):
                number = counts[c.kind] = counts.get(c.kind, -1) + 1
                frames[c] = cast(Frames, given.seen[f"{c.kind}.{number}"])
        looked = {k.removeprefix("knob."): float(v[0]) for k, v in given.seen.items() if k.startswith("knob.")}
        knobs = {**with_defaults(self.variant, sampling.knobs, "denoise"), **looked}
        return Call(shot=shot, sampling=sampling, knobs=knobs, frames=frames)

    def _looking(self, pipeline: Any, seen: Tensors) -> _Looking:
        return _Looking(pipeline, self.family, self.variant, _in_order(seen, "looked"), self.device, self.dtype)

    def _text(self, text: Tensors | None) -> dict[str, torch.Tensor]:
        if "text" not in self.variant.offers.parts:
            return {}
        if text is None or set(text) != set(TEXT):
            raise BadLatent(f"{self.family.name} takes the embeddings {', '.join(TEXT)}, not {sorted(text or ())}")
        return {TEXT[n]: torch.from_numpy(t)[None].to(self.device, self.dtype) for n, t in text.items()}

    def _network(self, name: str) -> Any:
        made = self.family.load(self.model, name, self.dtype)
        if made is not None:
            return made
        if name in self.model.parts:
            config = self.model.read_further(name)
            return load_part(getattr(diffusers, str(config["_class_name"])), self.model.part(name), self.dtype)
        return load_component(self.model, name, self.dtype, self.model.quantize.get(name))


class _Looking:
    """Within it, the pipeline's methods that look answer with what was answered elsewhere."""

    def __init__(
        self, pipeline: Any, family: Adapter, variant: Variant, answers: list[Floats], device: Any, dtype: Any
    ) -> None:
        self.pipeline, self.family, self.names = pipeline, family, variant.looks if answers else ()
        self.answers = [torch.from_numpy(a).to(device, dtype) for a in answers]

    def __enter__(self) -> None:
        for name in self.names:
            setattr(self.pipeline, name, lambda *args, **kwargs: self.family.look(self.answers.pop(0), args))

    def __exit__(self, *error: object) -> None:
        for name in self.names:
            delattr(self.pipeline, name)
        if error[0] is None and self.answers:
            raise RuntimeError(f"{len(self.answers)} image embeddings were not looked at")


def starts(condition: Condition) -> bool:
    """Whether a condition is what the clip begins from, at a noise level, rather than something it is made after."""
    return condition.kind == "source" and condition.level is not None


def class_for(variant: Variant, conditions: Sequence[Condition]) -> str:
    """The pipeline for a clip that is made after these conditions."""
    shown = [c for c in conditions if c.kind in variant.encodes and not starts(c)]
    return variant.looking(shown) if shown and variant.looking else variant.pipeline


def common(call: Call) -> dict[str, Any]:
    """What every pipeline is called with."""
    shot = call.shot
    size = {"width": shot.width, "height": shot.height, "num_frames": shot.n_frames}
    return {**size, "num_inference_steps": call.sampling.steps, "output_type": "latent"}


def kept(variant: Variant, shown: Sequence[Condition], frames: Mapping[Condition, Frames]) -> dict[str, Frames]:
    """The pixels that go to the denoiser as they are: `KIND.N`."""
    found: dict[str, Frames] = {}
    for kind in variant.keeps:
        of_kind = [c for c in shown if c.kind == kind and not starts(c)]
        found |= {f"{kind}.{number}": frames[c] for number, c in enumerate(of_kind)}
    return found


def with_defaults(variant: Variant, knobs: Mapping[str, Any], role: str) -> dict[str, Any]:
    """The knobs of a role: those that are given, and the defaults of the others."""
    return {k: knobs.get(k, knob.default) for k, knob in variant.offers.knobs.items() if knob.role == role}


def build_pipeline(
    name: str, parts: Mapping[str, Any], device: torch.device, options: Mapping[str, Any] | None = None
) -> Any:
    """A pipeline of diffusers of these parts, and None for the others that it would have."""
    kind = getattr(diffusers, name)
    wanted, optional = kind._get_signature_keys(kind)
    blank = {n: None for n in wanted if n not in (options or {})}
    given = {n: part for n, part in parts.items() if n in {*wanted, *optional}}
    return quiet(kind(**{**blank, **given, **(options or {})}), device)


def _numbered(name: str, tensors: Sequence[torch.Tensor]) -> dict[str, Floats]:
    return {f"{name}.{i}": t.detach().float().cpu().contiguous().numpy() for i, t in enumerate(tensors)}


def _in_order(seen: Tensors, name: str) -> list[Floats]:
    count = sum(key.startswith(f"{name}.") for key in seen)
    return [cast(Floats, seen[f"{name}.{i}"]) for i in range(count)]


__all__ = ["EngineCodec", "EngineDenoiser", "EngineSeer", "EngineText"]
