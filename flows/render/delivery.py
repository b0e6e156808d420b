"""`deliver`: in which format and under which names finished videos leave the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.render.naming import check_template, names_of, numbered_text
from flows.render.provenance import INDEX, check_metadata
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.formats import FORMATS, Format, Shape, check_format
from stages.core.identity import digest
from stages.core.step import Row

MANIFESTS = {kind: f"rushes.{kind}" for kind in ("csv", "jsonl", "parquet")}
"""Kind of a manifest -> its name in the folder."""
RESERVED = (INDEX, *MANIFESTS.values())


@dataclass
class DeliverConfig:
    """How `--export` delivers finished videos.

    format    [mp4-h264, mp4-hevc, webm-vp9, webm-av1, prores, png, gif, webp] container and codec; png is a folder of
              frames for each video
    crf       quality of the encoder, lower is better: 0 to 51 for mp4 (null: 18 for H.264, 20 for HEVC), 0 to 63 for
              webm (null: 24); the others have none
    name      template of the file's name, such as `{campaign}/{position:04}-{seed}-{prompt}`; fields are campaign,
              position, seed, prompt, negative_prompt, take_id, tags, guidance, model and cascade. Empty: prompt, seed
              and the beginning of the take's id
    width     pixels; null keeps the size, or follows `height`
    height    pixels; null keeps the size, or follows `width`
    fps       frames a second; frames are dropped or shown again. null keeps the rate
    fit       [crop, pad or stretch] how a picture of another aspect ratio fills `width` and `height`
    metadata  [full, id or none] what the metadata of each file holds: all that it was made from, which take it shows,
              or nothing
    manifest  [a list of csv, jsonl, parquet] the tables of what the folder holds
    """

    format: str = "mp4-h264"
    crf: float | None = None
    name: str = ""
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fit: str = "crop"
    metadata: str = "full"
    manifest: list[str] = field(default_factory=lambda: list(MANIFESTS))

    @property
    def shape(self) -> Shape:
        """What is changed of the videos."""
        return Shape(self.crf, self.width, self.height, self.fps, self.fit)


def check_delivery(config: DeliverConfig) -> None:
    """Refuse what cannot be delivered so; ffmpeg is asked what it can write. Raises BadInput."""
    try:
        check_format(config.format, config.shape)
        if config.name:
            check_template(config.name)
        for kind in config.manifest:
            if kind not in MANIFESTS:
                raise BadInput(f"manifest has {kind!r}; {nearest(str(kind), MANIFESTS)}")
    except BadInput as bad:
        raise BadInput(f"deliver.{bad}") from None
    check_metadata(config.metadata)


@dataclass(frozen=True)
class Delivery:
    """One campaign's delivery: its settings, all of its takes, and what its files say that is no column of a take
    (`model` and `cascade`, by name)."""

    config: DeliverConfig
    takes: Sequence[Row] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def form(self) -> Format:
        """The format."""
        return FORMATS[self.config.format]

    def names(self, rows: Sequence[Row], index: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Id of each take -> its name in a folder with this index. All takes of the campaign have one, so each
        keeps its own, whichever are finished. rows: takes, or rows of `videos`, where the campaign's are not known."""
        return names_of(self.config.name, self.form.suffix, self.takes or rows, self.about, index, RESERVED)

    @cached_property
    def by_id(self) -> dict[str, Row]:
        """The takes by their ids."""
        return {take["id"]: take for take in self.takes}

    @property
    def recipe(self) -> str:
        """The identity of the settings that decide a file's bytes."""
        shape = self.config.shape
        if self.config.format == "mp4-h264" and shape.as_it_is:
            return ""
        return digest("deliver", self.config.format, [getattr(shape, n) for n in sorted(vars(shape))])

    @property
    def remark(self) -> str:
        """What a person should know of the names; "" where there is nothing."""
        return numbered_text(self.config.name, self.takes, self.about)


MP4 = Delivery(DeliverConfig(manifest=[]))
"""mp4 as stored, and no manifest."""


def plain_name(value: Any, default: str) -> str:
    """How a config is called that was given by name or by path: never a path."""
    return Path(value).stem if isinstance(value, str) and value else default
