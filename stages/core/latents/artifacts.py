"""Rows of generated artifacts: the columns that every stage fills, and latents on their way to and from the store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from stages.core.errors import BadInput
from stages.core.latents.form import (
    SUFFIX,
    Floats,
    LatentSpec,
    Tensors,
    pack,
    pack_seen,
    unpack,
    unpack_seen,
    unpack_text,
    unpack_tracks,
)
from stages.core.latents.frames import PIXELS, open_clip, pieces_of, put_clip, rests_as_frames
from stages.core.sound import Sound
from stages.core.step import ARTIFACT, Row, Workspace

SIZE = [("width", pa.int64()), ("height", pa.int64()), ("n_frames", pa.int64()), ("fps", pa.float64())]
"""Pixels, frames, and frames a second at playback; 0 where there is no value."""

CONDITION = pa.struct(
    [
        ("kind", pa.string()),
        ("role", pa.string()),
        ("sha256", pa.string()),
        ("frame", pa.int64()),
        ("scale", pa.float64()),
        ("level", pa.float64()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("text", pa.string()),
        ("values", pa.list_(pa.float64())),
    ]
)
"""What a clip is to be made after, as plain data; media by the hash of its content.

kind    still (role first, last, keyframe), clip (continuation, mask), source (video to video), control (depth, pose,
        edges, flow), reference, camera, sound, segment
frame   the pixel frame from which on it holds; null: as the role says
scale   how strongly, from 0; level: the noise level that a source is brought to, 0 to 1
start, end  the share of the schedule, 0 to 1, or of a segment, in seconds
text    of a segment; values: of a camera path
"""

MEDIUM = pa.struct([("sha256", pa.string()), ("uri", pa.string()), ("name", pa.string())])
"""Where the media of conditions lie in the store, and what the files were called. Carried, and no part of an identity:
the hash is."""

SLACK_S = 0.5
"""Seconds by which the sound of a pipeline may be shorter or longer than its pictures: more is that of another clip."""

LATENT = pa.schema(
    [
        *ARTIFACT,
        *SIZE,
        ("fps_conditioning", pa.float64()),
        ("channels", pa.int64()),
        ("latent_frames", pa.int64()),
        ("latent_height", pa.int64()),
        ("latent_width", pa.int64()),
        ("spatial_ratio", pa.int64()),
        ("temporal_ratio", pa.int64()),
        ("std", pa.float64()),
        ("stage_seed", pa.int64()),
        ("family", pa.string()),
        ("vae_id", pa.string()),
        ("made_from", pa.list_(pa.string())),
    ]
)
"""An output row of a stage that makes latents; the file's header says the same and more."""


def put_latent(workspace: Workspace, video: Floats, spec: LatentSpec, tracks: Tensors | None = None) -> Row:
    """Check and keep one latent [C, F, H, W] with its further tracks; the answer has every column of LATENT.

    Raises BadLatent.
    """
    made = _described(workspace.put(pack(video, spec, tracks), SUFFIX), spec)
    return {**made, "channels": int(video.shape[0]), "std": float(video.std(dtype="float64"))}


def put_seen(workspace: Workspace, seen: Tensors, spec: LatentSpec) -> Row:
    """Keep what conditions were encoded to, for a clip of this spec; the answer has every column of LATENT."""
    made = _described(workspace.put(pack_seen(seen, spec), SUFFIX), spec)
    video = seen.get("video")
    return {
        **made,
        "channels": 0 if video is None else int(video.shape[0]),
        "std": 0.0 if video is None else float(video.std(dtype="float64")),
    }


def _described(file: Row, spec: LatentSpec) -> Row:
    frames, height, width = spec.grid
    return {
        **file,
        "width": spec.width,
        "height": spec.height,
        "n_frames": spec.n_frames,
        "fps": float(spec.fps),
        "fps_conditioning": float(spec.fps_conditioning),
        "latent_frames": frames,
        "latent_height": height,
        "latent_width": width,
        "spatial_ratio": spec.spatial_ratio,
        "temporal_ratio": spec.temporal_ratio,
        "stage_seed": spec.seed,
        "family": spec.family,
        "vae_id": spec.vae_id,
        "made_from": list(spec.parents),
    }


def get_latent(workspace: Workspace, row: Row, vae_id: str = "") -> tuple[Floats, LatentSpec]:
    """The latent that a stage's output row points at. Raises BadLatent for a broken file or another VAE's latent."""
    return unpack(workspace.read(row["uri"]), vae_id)


def get_tracks(workspace: Workspace, row: Row, vae_id: str = "") -> tuple[dict[str, Floats], LatentSpec]:
    """`get_latent` with all tracks of the latent, of which `video` is one."""
    if rests_as_frames(row):
        with open_clip(workspace, row, vae_id) as clip:
            pixels = np.concatenate(list(clip.frames))
        video: Floats = np.moveaxis(pixels, -1, 0).astype(np.float32) / np.float32(255)
        return {"video": video}, clip.spec
    tracks, spec = unpack_tracks(workspace.read(row["uri"]), vae_id)
    return dict(tracks), spec


def put_tracks(workspace: Workspace, tracks: Tensors, spec: LatentSpec) -> Row:
    """`put_latent` of all tracks, of which `video` is one.

    Pixels [3, F, H, W], from 0 to 1, rest as frames; beside them may be `sound` [channels, N] and its `sound_rate` [1].
    Raises BadSound where they and the pictures do not last equally long.
    """
    if spec.vae_id == PIXELS:
        return _put_pixels(workspace, tracks, spec)
    return put_latent(workspace, tracks["video"], spec, {k: v for k, v in tracks.items() if k != "video"})


def _put_pixels(workspace: Workspace, tracks: Tensors, spec: LatentSpec) -> Row:
    sound = None
    if "sound" in tracks:
        sound = Sound(tracks["sound"], int(tracks["sound_rate"][0])).lasting(spec.n_frames / spec.fps, SLACK_S)
    made = put_clip(workspace, pieces_of(tracks["video"]), spec, sound)
    return {**_described(made, spec), "channels": 3}


def get_seen(workspace: Workspace, row: Row | None, vae_id: str = "") -> Tensors:
    """What a take's conditions were encoded to, {} where it has none. Raises BadLatent as `get_latent` does."""
    return unpack_seen(workspace.read(row["uri"]), vae_id)[0] if row else {}


def get_text(workspace: Workspace, row: Row | None, family: str = "") -> Tensors | None:
    """The embeddings that the text stage's output row points at, None where there is no text. Raises BadLatent for
    another family's."""
    return unpack_text(workspace.read(row["uri"]), family) if row else None


def media_of(row: Row, sha256: str) -> str:
    """Where the file of this content lies, by the carried column `media`. Raises BadInput where it is not there."""
    for medium in row["media"] or ():
        if medium["sha256"] == sha256:
            return str(medium["uri"])
    raise BadInput(
        f"the file with SHA-256 {sha256[:12]}, which the prompt named, is not in the store; run the same command again"
    )
