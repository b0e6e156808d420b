"""A few denoising steps at the final size, which turn upsampled latents into sharp ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from stages.core.conditions import read_conditions
from stages.core.errors import BadInput, require
from stages.core.latents.artifacts import LATENT, get_seen, get_text, get_tracks, put_tracks
from stages.core.latents.form import Floats, LatentSpec
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import Given, Latents, Sampling, load_family, offers_of
from stages.families.settings import check_lora, check_quantize, check_sampling, check_windows


class Refine(Step):
    """Loads the denoiser and its scheduler, as base does, and noises with a seed of its own.

    A clip that is longer than what the model learned is refined in windows, or what is far apart in time mixes: the
    end of an object's way showed as a ghost where it began.
    """

    kind = "latent"
    writes = LATENT
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How latents are refined.

        model     the weights
        lora      adapters that are put onto the denoiser
        sampling  how to denoise
        strength  [above 0, below 1] the noise level that latents are brought to; for the family ltx, the share of the
                  schedule's steps that is run
        window    [from 0] frames refined at a time; 0 refines all at once
        overlap   [from 1] latent frames that two neighbouring windows share and fade over
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        lora: LoraConfig = field(default_factory=LoraConfig)
        sampling: Sampling = field(default_factory=Sampling)
        strength: float = 0.4
        window: int = 0
        overlap: int = 2

        def __post_init__(self) -> None:
            if load_family(self.model.family).strength == "share":
                self.sampling.check_strength(self.strength)
            elif not 0 < self.strength < 1:
                raise BadInput(f"strength is {self.strength}; it must be above 0 and below 1")
            require(
                (self.window >= 0, "window", self.window, "0 or more"),
                (self.overlap >= 1, "overlap", self.overlap, "at least 1"),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """Embeddings and a latent; the take's guidance where `sampling` has none of its own. A family whose denoiser
        has to be given the conditions whatever it starts from is given them here too."""
        offers = offers_of(config.model)
        ports = {"text": Port(kind="text", required="text" in offers.parts), "latent": Port(kind="latent")}
        depends: tuple[str, ...] = ("seed", *config.sampling.depends)
        if offers.refines_after:
            ports["condition"], depends = Port(kind="condition", required=False), (*depends, "conditions")
        return Inputs(ports=ports, depends=depends, draws=True)

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """What the family denoises with, and the adapters."""
        return {**offers_of(config.model).weights("denoise"), "lora.path": ()}

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for settings that the family does not go by."""
        offers = offers_of(config.model)
        check_sampling("refine.sampling", config.model.family, offers, config.sampling)
        if config.window and offers.refines_after:
            raise BadInput("refine.window: this family refines a clip at once, with its conditions; set it to 0")
        if config.window and len(offers.tracks) > 1:
            raise BadInput("refine.window: this family refines pictures and sound at once; set it to 0")
        check_lora("refine.lora", config.model.family, offers, config.lora)
        check_quantize("refine", offers, config.model, config.lora)
        check_windows("refine", offers, config.model, config.sampling)

    def setup(self) -> None:
        """Load the denoiser."""
        self.after = offers_of(self.config.model).refines_after
        self.denoiser = load_family(self.config.model.family).denoiser(self.config.model, self.config.lora)

    def process(self, row: Row) -> Row:
        """One latent of the same size, refined."""
        parent = row["latent"]
        tracks, spec = get_tracks(self.workspace, parent, self.denoiser.vae.vae_id)
        given = Given(
            text=get_text(self.workspace, row["text"], spec.family),
            seen=get_seen(self.workspace, row["condition"], spec.vae_id) if self.after else {},
            conditions=read_conditions(row["conditions"]) if self.after else (),
        )
        parents = (parent["sha256"], *([row["text"]["sha256"]] if row["text"] else []))
        spec = replace(spec, seed=self.seed_for(row), parents=parents)
        return put_tracks(self.workspace, self._refine(tracks, spec, given, row), spec)

    def _refine(self, tracks: Latents, spec: LatentSpec, given: Given, row: Row) -> Latents:
        """The latent at once with all of its tracks, or its only track window by window."""
        video = tracks["video"]
        sampling = self.config.sampling.for_take(row) if self.config.sampling.depends else self.config.sampling
        count, end = self._window(spec), 0
        if count == spec.grid[0]:
            return self.denoiser.denoise(given, spec, sampling, tracks, self.config.strength)
        spec, refined = replace(spec, n_frames=(count - 1) * spec.temporal_ratio + 1), np.empty_like(video)
        for number, start in enumerate(window_starts(video.shape[1], count, self.config.overlap)):
            spec = replace(spec, seed=self.seed_for(row, number))
            window = np.ascontiguousarray(video[:, start : start + count])
            made = self.denoiser.denoise(given, spec, sampling, {"video": window}, self.config.strength)["video"]
            fade_in(refined, made, start, end)
            end = start + count
        return {"video": refined}

    def _window(self, spec: LatentSpec) -> int:
        """Latent frames of a window."""
        count = (self.config.window - 1) // spec.temporal_ratio + 1 if self.config.window else spec.grid[0]
        if self.config.overlap >= count < spec.grid[0]:
            window, overlap = self.config.window, self.config.overlap
            raise BadInput(f"refine.overlap is {overlap}; a window of {window} frames has {count} latent ones")
        return min(count, spec.grid[0])


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """Where windows begin that cover all frames, each whole: the last has more in common with the one before it."""
    last = frames - window
    return [*range(0, last, max(window - overlap, 1)), last]


def fade_in(whole: Floats, part: Floats, start: int, end: int) -> None:
    """Put `part` [C, F, H, W] into `whole` from frame `start` on. Up to `end`, where something stands already, it comes
    in gradually; of its first frame, which a model takes for one that stands for a single frame, nothing is used."""
    shared = end - start
    share = (np.arange(shared, dtype=np.float32) / max(shared, 1))[:, None, None]
    whole[:, start:end] += share * (part[:, :shared] - whole[:, start:end])
    whole[:, end : start + part.shape[1]] = part[:, shared:]
