"""Clips that rest as pixels: FFV1 in Matroska with the sound beside them, written and read as the frames come.

8 bits a channel, as every encoder here takes them: a pixel is rounded once, to 1/255, and then kept to the last bit.
Sound is kept in the floats that it came in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.core.latents.form import STD_BAND, BadLatent, Floats, LatentSpec
from stages.core.lossless import SUFFIX, LosslessWriter
from stages.core.media import BadMedia, Frames, iter_frames, read_sound
from stages.core.rows import Row
from stages.core.sound import Sound
from stages.core.step import Workspace

PIXELS = "pixels"
"""What stands for the identity of a VAE where there is none: such clips rest in this form."""


@dataclass
class Clip:
    """A clip of pixels: what it is, its frames [1, H, W, 3] one by one, and what is heard; None where it is silent."""

    spec: LatentSpec
    frames: Iterator[Frames]
    sound: Sound | None


def put_clip(workspace: Workspace, pieces: Iterable[Frames], spec: LatentSpec, sound: Sound | None = None) -> Row:
    """Keep frames [F, H, W, 3] that come in pieces, of which it holds one at a time, with sound as long as they are.
    The answer: the columns of a file, and `std`, the spread of the pixels from 0 to 1.

    Raises BadLatent for another number or size of frames than the spec says, and for a clip of one colour.
    """
    total, squares = 0.0, 0.0
    with tempfile.TemporaryDirectory(prefix="rushes-") as folder:
        target = Path(folder) / f"frames{SUFFIX}"
        with LosslessWriter(target, spec.fps, sound=sound) as video:
            for frames in pieces:
                if frames.shape[1:3] != (spec.height, spec.width):
                    raise BadLatent(
                        f"the frames are {frames.shape[2]}x{frames.shape[1]}, not {spec.width}x{spec.height}"
                    )
                video.write(frames)
                for frame in frames:  # one by one: the squares are floats
                    values = frame.astype(np.float64) / 255
                    total, squares = total + values.sum(), squares + np.square(values).sum()
        if video.count != spec.n_frames:
            raise BadLatent(f"the clip has {video.count} frames, not {spec.n_frames}")
        size = video.count * spec.height * spec.width * 3
        spread = float(np.sqrt(max(0.0, squares / size - (total / size) ** 2)))
        if spread < STD_BAND[0] * spec.scale:
            raise BadLatent("the clip is blank: every pixel has the same value")
        return {**workspace.put_file(target, SUFFIX), "std": spread}


def pieces_of(video: Floats) -> Iterator[Frames]:
    """Frames [1, H, W, 3] of pixels [3, F, H, W] from 0 to 1, rounded as diffusers rounds pictures. Raises BadLatent
    for values that are not finite."""
    for number in range(video.shape[1]):
        frame = np.moveaxis(video[:, number : number + 1], 0, -1)
        if bad := int(frame.size - np.isfinite(frame).sum()):
            raise BadLatent(f"{bad} of the {frame.size} values of frame {number} are not finite")
        yield np.asarray((frame * 255).round().clip(0, 255), np.uint8)


def rests_as_frames(row: Row) -> bool:
    """Whether a row's file is a clip of pixels; stores of before hold them as floats."""
    return str(row["uri"]).endswith(SUFFIX)


@contextmanager
def open_clip(workspace: Workspace, row: Row, vae_id: str = "") -> Iterator[Clip]:
    """The clip that a row of LATENT points at, which is read while this context lasts. Raises BadLatent for a broken
    file and, if vae_id is given, for a clip that belongs to another VAE."""
    if vae_id not in ("", PIXELS):
        raise BadLatent(f"this is a clip of pixels, and the VAE {vae_id} takes latents: the hand-off is refused")
    spec = spec_of(row)
    with workspace.opened(row["uri"]) as path:
        try:
            sound = read_sound(path)
        except BadMedia as error:
            raise BadLatent(f"the frames at rest are broken: {error}") from None
        yield Clip(spec, _read(path, spec), sound)


def spec_of(row: Row) -> LatentSpec:
    """The spec of a clip of pixels, by its row."""
    return LatentSpec(
        family=row["family"],
        vae_id=row["vae_id"],
        spatial_ratio=row["spatial_ratio"],
        temporal_ratio=row["temporal_ratio"],
        width=row["width"],
        height=row["height"],
        n_frames=row["n_frames"],
        fps=row["fps"],
        fps_conditioning=row["fps_conditioning"],
        seed=row["stage_seed"],
        parents=tuple(row["made_from"]),
    )


def _read(path: Path, spec: LatentSpec) -> Iterator[Frames]:
    count = 0
    try:
        for frame in iter_frames(path):
            count += 1
            yield frame[None]
    except BadMedia as error:
        raise BadLatent(f"the frames at rest are broken: {error}") from None
    if count != spec.n_frames:
        raise BadLatent(f"the file holds {count} frames, and its row says {spec.n_frames}: it is cut short")
