"""Encode the pictures and videos that a take names: as first or last frame, as control, or as a start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages.core.condition_video import read_clip
from stages.core.conditions import STILLS, Condition, read_conditions
from stages.core.fitting import check_fit, fit_picture, fit_text
from stages.core.latents.artifacts import LATENT, media_of, put_seen
from stages.core.media import Frames, read_frames, read_whole_picture
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import LATER, Shot, load_family, offers_of, refuse_conditions
from stages.families.settings import check_knobs


class See(Step):
    """Loads the VAE, and an image encoder where the family has one. Applies to takes that have conditions.

    `note` of a row says what was cut off a picture or video, added to it or stretched; it is "" where nothing was.
    """

    kind = "condition"
    version = 2  # a video to begin from is encoded in pieces, which rounds otherwise
    writes = pa.schema([*LATENT, ("note", pa.string())])
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What encodes.

        model  the weights
        knobs  further settings of how a family encodes pictures and videos; docs/families.md lists them
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        knobs: dict[str, Any] = field(default_factory=dict, metadata=LATER)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What the pictures are, the size that they are brought to, and how; where they lie is carried. A signal that
        `control` made of footage comes by its own port."""
        offers = offers_of(config.model)
        depends = dict.fromkeys(("conditions", "width", "height", "fps", "fit", *offers.sees))
        draws = "see" in offers.draws
        columns = (*depends, "seed") if draws else tuple(depends)
        ports = {"control": Port(kind="control", required=False)}
        return Inputs(ports=ports, depends=columns, carries=("media",), when=("conditions",), draws=draws)

    @classmethod
    def needed(cls, config: Config) -> bool:
        """Not by a checkpoint that is given nothing but text."""
        return "see" in offers_of(config.model).parts

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """What the family looks with."""
        return offers_of(config.model).weights("see")

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for conditions that the family does not take, and for an unknown way to fit them."""
        check_fit(values["fit"])
        family, offers = load_family(config.model.family), offers_of(config.model)
        check_knobs("see.knobs", family.name, offers, config.knobs, "see")
        if values.get("frames"):  # else the frames of a clip have no say here or are not known, and `base` looks at it
            refuse_conditions(family, offers, read_conditions(values["conditions"]), values["frames"])

    def setup(self) -> None:
        """Load what looks."""
        offers = offers_of(self.config.model)
        self.draws, self.asks_frames = "see" in offers.draws, "frames" in offers.sees
        self.seer = load_family(self.config.model.family).seer(self.config.model)

    def process(self, row: Row) -> Row:
        """What the family makes of the conditions, each in the take's shape. Raises BadMedia."""
        conditions = read_conditions(row["conditions"])
        shot = Shot(
            width=row["width"],
            height=row["height"],
            n_frames=row["frames"] if self.asks_frames else 1,
            fps=row["fps"],
            seed=self.seed_for(row) if self.draws else 0,
            conditions=conditions,
        )
        spec = self.seer.vae.spec(
            family=self.config.model.family,
            width=shot.width,
            height=shot.height,
            n_frames=shot.n_frames,
            fps=shot.fps,
            fps_conditioning=shot.fps,
            seed=shot.seed,
            parents=tuple(self._source(row, c) for c in conditions if c.sha256),
        )
        found = [self._medium(row, c, shot) for c in conditions if c.sha256]
        made = put_seen(self.workspace, self.seer.see(shot, [frames for frames, _ in found], self.config.knobs), spec)
        return {**made, "note": "; ".join(dict.fromkeys(note for _, note in found if note))}

    def _source(self, row: Row, condition: Condition) -> str:
        """The SHA-256 of what a condition is read from."""
        made = row["control"] if condition.kind == "control" else None
        return str(made["sha256"] if made else condition.sha256)

    def _medium(self, row: Row, condition: Condition, shot: Shot) -> tuple[Frames, str]:
        """The frames [F, H, W, 3] of one condition, one of a picture, as many as the clip has of a video; and what
        fitting did to it."""
        if condition.kind == "control" and row["control"]:
            return read_frames(self.workspace.read(row["control"]["uri"])), row["control"]["note"]
        data = self.workspace.read(media_of(row, condition.sha256 or ""))
        shape = shot.width, shot.height, row["fit"]
        if condition.kind in STILLS:
            whole = read_whole_picture(data)
            return fit_picture(whole, *shape)[None], fit_text(whole.shape[1], whole.shape[0], *shape)
        frames, (wide, high) = read_clip(data, *shape, shot.n_frames, shot.fps)
        return frames, fit_text(wide, high, *shape)
