"""A published dataset as a source of training clips: an index in Parquet, and the videos that it names.

Columns of the index: `uri` (relative to the dataset's folder), `caption`, and, where the dataset is split, `split`;
further ones are not looked at. Frames are picked by their time stamps, so that a variable frame rate stays what it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from stages.core.errors import BadInput
from stages.core.media import BadMedia
from stages.core.reach.containers import NotOpened, open_container
from stages.core.weights.digests import file_digest
from stages.training.data.batches import Frames
from stages.training.settings import Bucket

TRIES = 20
HELD = {"val": "heldout", "validation": "heldout", "test": "heldout"}
"""What indexes call clips that are held out."""


@dataclass(frozen=True)
class PublishedClip:
    """Frames [F, H, W, 3] uint8 RGB and the caption of the clip they are from."""

    frames: Frames
    caption: str


class PublishedClips:
    """Clips of a published dataset, cut to a bucket's shape, length and rate.

    folder   folder of the dataset
    index    its Parquet file, or folder of parts, relative to `folder`
    columns  other names of the columns `uri` and `caption`
    split    [train, heldout, any] clips that are used; of the splits in the index, `val` is the held-out one
    holdout  hold out every n-th clip of the index instead of its split `val`; 0 goes by the split

    Raises BadInput where the index or a column is missing, or nothing is left.
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
        sides = [_held(i, holdout) if holdout else r.get("split", "train") for i, r in enumerate(rows)]
        part = [r for r, side in zip(rows, sides, strict=True) if split in ("any", HELD.get(side, side))]
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
    columns = [*columns, *(["split"] if "split" in known else [])]
    for name in columns:
        if name not in known:
            raise BadInput(f"{path} has no column {name!r}; it has {', '.join(known)}")
    rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    return rows


def _held(row: int, every: int) -> str:
    return "heldout" if row % every == every - 1 else "train"


def read_clip(path: Path, bucket: Bucket, where: float) -> Frames:
    """frames of a bucket from a video: successive moments 1 / fps apart, the first as far in as `where`, 0 to 1.

    Cut from the middle to the bucket's aspect, then scaled. Raises BadMedia for a video that is broken or too short.
    """
    base, stamps = time_stamps(path)
    times = [float(t * base) for t in stamps]
    need = ((bucket.crop_frames or bucket.frames) - 1) / bucket.fps
    span = times[-1] - times[0]
    if span + 1e-6 < need:
        raise BadMedia(f"{path.name} lasts {span:.2f} s, {need:.2f} s are needed")
    start = times[0] + where * (span - need)
    moments = start + np.arange(bucket.crop_frames or bucket.frames) / bucket.fps
    shown_at = [stamps[max(0, bisect_right(times, t + 1e-6) - 1)] for t in moments]
    frames = _decode(path, set(shown_at), bucket)
    return np.stack([frames[stamp] for stamp in shown_at])


@lru_cache(maxsize=4096)
def time_stamps(path: Path) -> tuple[Fraction, tuple[int, ...]]:
    """The time base of a video, in seconds, and when each of its frames is shown, in order. Decodes nothing where the
    packets say it. Raises BadMedia."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stamps = [p.pts for p in container.demux(stream) if p.size and not p.is_discard]
        base = stream.time_base
    if None in stamps or len(set(stamps)) != len(stamps):
        with _opened(path) as container:
            stamps = [f.pts for f in container.decode(video=0) if f.pts is not None]
    if not stamps or base is None:
        raise BadMedia(f"{path.name} has no frames")
    return base, tuple(sorted(set(stamps)))


def _decode(path: Path, wanted: set[int], bucket: Bucket) -> dict[int, Frames]:
    """The frames shown at these time stamps, from the keyframe before the first on, in the bucket's size."""
    found: dict[int, Frames] = {}
    with _opened(path) as container:
        stream = container.streams.video[0]
        container.seek(min(wanted), stream=stream)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                found[frame.pts] = _fit(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False), bucket)
                if len(found) == len(wanted):
                    return found
    raise BadMedia(f"{path.name} lacks {len(wanted) - len(found)} of the frames that its header declares")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A video's container; what is wrong with it is BadMedia."""
    from av.error import FFmpegError

    try:
        with open_container(path) as container:
            if not container.streams.video:
                raise BadMedia(f"{path.name} has no video in it")
            yield container
    except (FFmpegError, NotOpened, OSError, IndexError) as error:
        raise BadMedia(f"{path.name} is not a readable video: {error}") from None


def _fit(frame: Frames, bucket: Bucket) -> Frames:
    height, width = frame.shape[:2]
    scale = max(bucket.width / width, bucket.height / height)
    cut_w, cut_h = round(bucket.width / scale), round(bucket.height / scale)
    x, y = (width - cut_w) // 2, (height - cut_h) // 2
    cut = np.ascontiguousarray(frame[y : y + cut_h, x : x + cut_w])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(cut, (bucket.width, bucket.height), interpolation=method), dtype=np.uint8)
