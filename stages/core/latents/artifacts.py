"""Rows of generated artifacts: the columns that every stage fills, and latents on their way to and from the store."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from stages.core.errors import BadInput
from stages.core.latents.form import SUFFIX, Floats, LatentSpec, TextEmbeds, pack, unpack, unpack_text
from stages.core.step import ARTIFACT, Row, Workspace

SIZE = [("width", pa.int64()), ("height", pa.int64()), ("n_frames", pa.int64()), ("fps", pa.float64())]
"""Pixels, frames, and frames a second at playback; 0 where there is no value."""

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
        ("parents", pa.list_(pa.string())),
    ]
)
"""An output row of a stage that makes latents; the file's header says the same and more."""


def put_latent(workspace: Workspace, video: Floats, spec: LatentSpec) -> Row:
    """Check and keep one latent [C, F, H, W]; the answer has every column of LATENT. Raises BadLatent."""
    frames, height, width = spec.grid
    return {
        **workspace.put(pack(video, spec), SUFFIX),
        "width": spec.width,
        "height": spec.height,
        "n_frames": spec.n_frames,
        "fps": float(spec.fps),
        "fps_conditioning": float(spec.fps_conditioning),
        "channels": int(video.shape[0]),
        "latent_frames": frames,
        "latent_height": height,
        "latent_width": width,
        "spatial_ratio": spec.spatial_ratio,
        "temporal_ratio": spec.temporal_ratio,
        "std": float(video.std(dtype="float64")),
        "stage_seed": spec.seed,
        "family": spec.family,
        "vae_id": spec.vae_id,
        "parents": list(spec.parents),
    }


def get_latent(workspace: Workspace, row: Row, vae_id: str = "") -> tuple[Floats, LatentSpec]:
    """The latent that a stage's output row points at. Raises BadLatent for a broken file or another VAE's latent."""
    return unpack(workspace.read(row["uri"]), vae_id)


def get_text(workspace: Workspace, row: Row, family: str = "") -> TextEmbeds:
    """The embeddings that the text stage's output row points at. Raises BadLatent for another family's."""
    return unpack_text(workspace.read(row["uri"]), family)


def parent_latent(row: Row) -> Row:
    """The first output row among those that a stage is given, in the order of its `after`, that points at a latent.

    Found by its columns and not by a stage's name, so that a cascade may leave stages out or put new ones between.
    Raises BadInput where there is none.
    """
    given = {name: value for name, value in row.items() if isinstance(value, Mapping)}
    for found in given.values():
        if "latent_frames" in found:
            return dict(found)
    raise BadInput(f"this stage needs a latent, and none of {', '.join(given) or 'its inputs'} has one; set `after`")
