"""Latents to an mp4 and a poster."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from stages.core.conditions import read_conditions
from stages.core.errors import BadInput, require
from stages.core.fitting import check_fit
from stages.core.latents.artifacts import SIZE, get_tracks, media_of
from stages.core.latents.form import BadLatent, DecodeRecipe, LatentSpec
from stages.core.latents.frames import Clip, open_clip, rests_as_frames
from stages.core.media import Frames, VideoWriter, check_encoding, ffmpeg_version, write_jpeg
from stages.core.pasting import pasted
from stages.core.sound import Sound
from stages.core.step import ARTIFACT, Inputs, PermanentError, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import LATER, Latents, load_family, offers_of
from stages.families.offers import check_decoding


class Decode(Step):
    """Loads the VAE only, and the vocoder where there is sound. What it makes depends on the latent alone, and with
    `paste` on the take's video and mask: prompts and names are put into files at export.

    Frames are encoded as they are decoded, so that a longer clip needs no more memory where its VAE decodes in pieces.
    """

    kind = "video"
    version = 2  # 2: chunks of ltx were one frame late, and those of svd did not overlap
    writes = pa.schema(
        [
            *ARTIFACT,
            *SIZE,
            ("seconds", pa.float64()),
            ("poster_uri", pa.string()),
            ("poster_sha256", pa.string()),
            ("poster_size", pa.int64()),
            ("stage_seed", pa.int64()),
            ("encoder", pa.string()),
            ("made_from", pa.list_(pa.string())),
            ("sound_rate", pa.int64()),
            ("sound_db", pa.float64()),
        ]
    )
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How latents become videos.

        model           the weights
        timestep        timestep that is given to the decoder; null uses the value stored with the latent
        noise_scale     noise that is added before decoding; null uses the value stored with the latent
        tiling          [from 0] pixels of a tile, to save memory; 0 decodes whole frames
        chunk           [from 0] frames decoded at a time, to save memory, half of which overlap with their neighbours;
                        0 decodes the whole clip at once if the VAE mixes frames
        crf             [0 to 51] quality of x264; lower is better, 0 is lossless
        preset          speed preset of x264, such as `fast`, `medium` or `slow`
        poster_quality  [1 to 95] quality of the poster's JPEG
        paste           [true, false] in takes with `video` and `mask`, the video's own pixels are put back where the
                        mask is black; other takes stay as they are
        feather         [from 0] pixels inside the white of the mask over which what was made fades into the video; 0
                        for a hard edge. Only with `paste`
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        timestep: float | None = None
        noise_scale: float | None = None
        tiling: int = 0
        chunk: int = 0
        crf: int = 18
        preset: str = "medium"
        poster_quality: int = 90
        paste: bool = field(default=False, metadata=LATER)
        feather: int = field(default=0, metadata=LATER)

        def __post_init__(self) -> None:
            require(
                (0 <= self.crf <= 51, "crf", self.crf, "0 to 51"),
                (1 <= self.poster_quality <= 95, "poster_quality", self.poster_quality, "1 to 95"),
                (self.tiling >= 0, "tiling", self.tiling, "0 or more"),
                (self.chunk >= 0, "chunk", self.chunk, "0 or more"),
                (self.feather >= 0, "feather", self.feather, "0 or more"),
            )
            if self.feather and not self.paste:
                raise BadInput(f"feather is {self.feather}, and nothing is pasted back: set `paste: true` too")
            check_encoding(24, self.crf, self.preset)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """A latent; the seed too where the VAE denoises while it decodes; with `paste`, the take's video and mask."""
        draws = "decode" in offers_of(config.model).draws
        depends = (*(("seed",) if draws else ()), *(("conditions", "fit") if config.paste else ()))
        carries = ("media",) if config.paste else ()
        return Inputs(ports={"latent": Port(kind="latent")}, depends=depends, carries=carries, draws=draws)

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """What the family decodes with."""
        return offers_of(config.model).weights("decode", "sound")

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a way to save memory that the family's VAE does not have."""
        check_decoding("decode", config.model.family, offers_of(config.model), config)
        if config.paste and {"source", "clip"} <= {c.kind for c in read_conditions(values["conditions"])}:
            check_fit(values["fit"])

    def setup(self) -> None:
        """Load the VAE, and the vocoder where the family's clips have sound."""
        family, offers = load_family(self.config.model.family), offers_of(self.config.model)
        self.draws = "decode" in offers.draws
        self.codec = family.codec(self.config.model)
        self.vocoder = family.sound(self.config.model) if "audio" in offers.tracks else None

    def process(self, row: Row) -> Row:
        """One take's video with its sound, and its middle frame as a poster."""
        parent, seed = row["latent"], self.seed_for(row) if self.draws else 0
        settings = {"crf": self.config.crf, "preset": self.config.preset}
        with tempfile.TemporaryDirectory(prefix="rushes-") as folder, self._opened(parent, seed) as clip:
            target, spec, sound = Path(folder) / "video.mp4", clip.spec, clip.sound
            pieces, sources = self._pasted(clip.frames, row, spec)
            with VideoWriter(target, spec.fps, sound=sound, **settings) as video:
                shown = self._written(video, pieces, spec.n_frames // 2)
            made = self.workspace.put_file(target, ".mp4")
        poster = self.workspace.put(write_jpeg(shown, self.config.poster_quality), ".jpg")
        return {
            **made,
            "width": spec.width,
            "height": spec.height,
            "n_frames": video.count,
            "fps": float(spec.fps),
            "seconds": video.count / spec.fps,
            **{f"poster_{key}": value for key, value in poster.items()},
            "stage_seed": seed,
            "encoder": f"ffmpeg {ffmpeg_version()}",
            "made_from": [parent["sha256"], *sources],
            "sound_rate": sound.rate if sound else None,
            "sound_db": sound.loudness if sound else None,
        }

    @contextmanager
    def _opened(self, parent: Row, seed: int) -> Iterator[Clip]:
        """The frames of a latent, made as they are asked for, or those that lie there as pixels; and the sound."""
        if rests_as_frames(parent):
            with open_clip(self.workspace, parent, self.codec.vae.vae_id) as clip:
                yield clip
            return
        tracks, spec = get_tracks(self.workspace, parent, self.codec.vae.vae_id)
        frames = self.codec.stream(tracks["video"], self._recipe(spec, seed))
        yield Clip(spec, frames, self._sound(tracks, spec.n_frames / spec.fps))

    def _pasted(self, pieces: Iterator[Frames], row: Row, spec: LatentSpec) -> tuple[Iterator[Frames], list[str]]:
        """The frames with those of the take's video where its mask is black, and the hashes of both; where nothing is
        to be pasted, the frames as they come."""
        given = {c.kind: c for c in read_conditions(row["conditions"])} if self.config.paste else {}
        if not {"source", "clip"} <= given.keys():
            return pieces, []
        hashes = [given[kind].sha256 or "" for kind in ("source", "clip")]
        video, mask = (self.workspace.read(media_of(row, sha256)) for sha256 in hashes)
        return pasted(pieces, video, mask, row["fit"], spec.n_frames, spec.fps, self.config.feather), hashes

    def _sound(self, tracks: Latents, seconds: float) -> Sound | None:
        """What is heard while so many seconds of pictures are shown; None where the clip is silent."""
        if self.vocoder is None:
            return None
        if "audio" not in tracks:
            raise BadLatent("the latent has no track `audio`, and clips of this family have sound")
        return self.vocoder.decode(tracks["audio"], seconds)

    def _written(self, video: VideoWriter, pieces: Iterator[Frames], middle: int) -> Frames:
        """The middle frame [H, W, 3] of a clip that is written as it is decoded."""
        shown: Frames | None = None
        for frames in pieces:
            if 0 <= middle - video.count < len(frames):
                shown = frames[middle - video.count].copy()
            video.write(frames)
        if shown is None:
            raise PermanentError(f"the VAE made {video.count} frames, fewer than the latent says")
        return shown

    def _recipe(self, spec: LatentSpec, seed: int) -> DecodeRecipe:
        config = self.config
        asked = {"timestep": config.timestep, "noise_scale": config.noise_scale}
        given = {name: value for name, value in asked.items() if value is not None}
        return replace(spec.decode, seed=seed, tiling=config.tiling, chunk=config.chunk, **given)
