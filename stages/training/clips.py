"""A published dataset as a source of training clips: an index in Parquet, and the videos that it names.

Columns of the index: `uri` (relative to the dataset's folder), `caption`; further ones are not looked at. Frames are
picked by their time stamps, so that a variable frame rate stays what it is.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from stages.core.errors import BadInput
from stages.core.media import BadMedia
from stages.core.weights import file_digest
from stages.training.data import Frames
from stages.training.settings import Bucket

TRIES = 20


@dataclass(frozen=True)
class PublishedClip:
    """Frames [F, H, W, 3] uint8 RGB and the caption of the clip they are from."""

    frames: Frames
    caption: str


class PublishedClips:
    """Clips of a published dataset, cut to a bucket's shape, length and rate.

    folder: the dataset's; index: its Parquet file or folder of parts, relative to it. columns: other names of `uri`
    and `caption`. holdout: every so many-th clip (by its place in the index) is left out of `train` and makes up
    `heldout`; 0 for none. Raises BadInput where the index or a column is missing, or nothing is left.
    """

    def __init__(
        self, folder: str, index: str = "index.parquet", columns: dict[str, str] | None = None, split: str = "train",
        holdout: int = 0,
    ) -> None:  # fmt: skip
        self.folder = Path(folder).expanduser()
        path = self.folder / index
        if not path.exists():
            raise BadInput(f"data.args.index: there is no {path}")
        names = {"uri": "uri", "caption": "caption", **(columns or {})}
        rows = _read(path, list(names.values()))
        part = [r for i, r in enumerate(rows) if split == "any" or (split == "heldout") == _held(i, holdout)]
        self.rows = [(str(r[names["uri"]]), str(r[names["caption"]] or "")) for r in part]
        if not self.rows:
            raise BadInput(f"{path} has no clips in the split {split!r} with holdout {holdout}")
        self.length = len(self.rows)
        digest = file_digest(path) if path.is_file() else str(len(rows))
        self.identity = f"published:{digest[:16]}:{split}:{holdout}"

    def clip(self, seed: int, bucket: Bucket) -> PublishedClip:
        """A clip that the seed draws. One that cannot be read, or is too short, is passed over for another."""
        rng = np.random.default_rng([seed, 0xC11B])
        last: Exception | None = None
        for _ in range(TRIES):
            uri, caption = self.rows[int(rng.integers(len(self.rows)))]
            try:
                return PublishedClip(read_clip(self.path(uri), bucket, float(rng.random())), caption)
            except BadMedia as error:
                last = error
        raise BadInput(f"{TRIES} clips in a row give no {bucket.frames} frames at {bucket.fps} fps: {last}")

    def caption(self, seed: int, bucket: Bucket, rng: np.random.Generator) -> str:
        """The caption of the clip that `clip` draws, which has only this one."""
        return self.clip(seed, bucket).caption

    def path(self, uri: str) -> Path:
        """The file of a row. Raises BadInput for one outside the dataset's folder."""
        found = (self.folder / uri).resolve()
        if not found.is_relative_to(self.folder.resolve()):
            raise BadInput(f"the index names {uri!r}, which lies outside {self.folder}")
        return found


def _read(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    known = pq.ParquetDataset(path).schema.names
    for name in columns:
        if name not in known:
            raise BadInput(f"{path} has no column {name!r}; it has {', '.join(known)}")
    rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    return rows


def _held(row: int, every: int) -> bool:
    return bool(every) and row % every == every - 1


def read_clip(path: Path, bucket: Bucket, where: float) -> Frames:
    """frames of a bucket from a video: successive moments 1 / fps apart, the first as far in as `where`, 0 to 1.

    Cut from the middle to the bucket's aspect, then scaled. Raises BadMedia for a video that is broken or too short.
    """
    times, frames = _decode(path)
    need = ((bucket.crop_frames or bucket.frames) - 1) / bucket.fps
    span = times[-1] - times[0]
    if span + 1e-6 < need:
        raise BadMedia(f"{path.name} lasts {span:.2f} s, {need:.2f} s are wanted")
    start = times[0] + where * (span - need)
    moments = start + np.arange(bucket.crop_frames or bucket.frames) / bucket.fps
    chosen = [max(0, bisect_right(times, t + 1e-6) - 1) for t in moments]
    return np.stack([_fit(frames[i], bucket) for i in chosen])


def _decode(path: Path) -> tuple[list[float], list[Frames]]:
    import av
    from av.error import FFmpegError

    times: list[float] = []
    frames: list[Frames] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if frame.time is not None:
                    times.append(float(frame.time))
                    frames.append(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False))
    except (FFmpegError, OSError, IndexError) as error:
        raise BadMedia(f"{path.name} is not a readable video: {error}") from None
    if not frames:
        raise BadMedia(f"{path.name} has no frames")
    return times, frames


def _fit(frame: Frames, bucket: Bucket) -> Frames:
    height, width = frame.shape[:2]
    scale = max(bucket.width / width, bucket.height / height)
    cut_w, cut_h = round(bucket.width / scale), round(bucket.height / scale)
    x, y = (width - cut_w) // 2, (height - cut_h) // 2
    cut = np.ascontiguousarray(frame[y : y + cut_h, x : x + cut_w])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(cut, (bucket.width, bucket.height), interpolation=method), dtype=np.uint8)
