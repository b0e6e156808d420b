"""A source that clips are cut from, with what the pass over it saw: kept at hand for all of its clips."""

from __future__ import annotations

import zlib
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.publish.check import Seen
from data_prep.publish.cutting import Shown
from data_prep.publish.sound import Sound, SoundReader, pieces_of
from data_prep.sources.counting import INDEX_COLUMNS, FrameIndex, FrameReader, presented
from data_prep.sources.reading import CHANGED, open_media, unchanged_file
from stages.core.reach.policy import local_path
from stages.core.step import AbsentError, PermanentError, Row, Workspace

COPYABLE = frozenset({"h264", "hevc", "av1", "mpeg4", "vp9"})
"""Codecs that an mp4 may hold."""
COLUMNS = (*INDEX_COLUMNS, "time_s", "signature")


def stamp(uri: str) -> tuple[int, int] | None:
    """Length and time of a local file, which tell whether it was touched; None for what lies elsewhere or is gone."""
    path = local_path(uri)
    if path is None or not path.exists():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns


class Origin:
    """One source: its file, made sure of, and its frames by number."""

    def __init__(self, row: Row, workspace: Workspace) -> None:
        from data_prep.signals.store import read_signals

        self._stack = ExitStack()
        self.uri, self.stream_index, self.codec = row["uri"], row["stream_index"], row["codec"]
        self.key = f"{row['source_sha256'][:32]}-{self.stream_index}"
        self._stamp = stamp(self.uri)
        self.path: Path = self._stack.enter_context(
            unchanged_file(self.uri, row["bytes"], row["source_sha256"], row["source_version"])
        )
        try:
            self._table = read_signals(workspace, {"uri": row["signals_uri"]}, COLUMNS)
        except FileNotFoundError:
            raise PermanentError("the signals of this source are no longer in the store; curate again") from None
        self.index = FrameIndex.of(self._table)
        self.siblings = unpack_spans(row["siblings"])
        self.in_one_pass = len(self.siblings) > 1 and self._seeking_costs() > len(self.index.pts)
        self._readers: dict[bool, FrameReader] = {}
        self._sounds = SoundReader(self.path, self.stream_index, bool(self.index.keys)) if row["has_audio"] else None
        self._plain, self._full = self._first_look()

    def close(self) -> None:
        """Let go of the file, and of its copy where it lies elsewhere."""
        for reader in self._readers.values():
            reader.close()
        if self._sounds:
            self._sounds.close()
        with suppress(PermanentError):  # a change that concerns no clip that is still to be cut
            self._stack.close()

    def check_unchanged(self) -> None:
        """Raises AbsentError where the file was touched since it was opened."""
        if stamp(self.uri) != self._stamp:
            raise AbsentError(CHANGED)

    def _seeking_costs(self) -> int:
        """How many frames would be decoded to cut every clip by seeking."""
        return sum(end - self.index.before(first) for first, end in self.siblings)

    def _first_look(self) -> tuple[bool, bool]:
        """Whether frames are shown as they are stored, and whether the pass saw them in full range."""
        from data_prep.signals.frames import signature_of
        from data_prep.sources.display import orientation_of, pixel_aspect

        with open_media(self.path) as container:
            stream = container.streams[self.stream_index]
            frame = next(presented(container, stream), None)
            if frame is None:
                raise PermanentError("no frame of the source can be decoded any more")
            plain = orientation_of(frame).is_plain and pixel_aspect(stream) == 1 and not frame.interlaced_frame
            return plain, signature_of(frame, stream)[1]

    def can_copy(self, first: int, end: int) -> bool:
        """Whether packets of these frames can be copied: from key frame to key frame, shown as they are stored."""
        keys = self.index.keys
        whole = first in keys and (end in keys or end == len(self.index.pts))
        return bool(keys) and whole and self._plain and self.codec in COPYABLE

    def reader(self, index: FrameIndex) -> FrameReader:
        """Reads frames by number, by this index."""
        by_seeking = bool(index.keys)
        if by_seeking not in self._readers:
            self._readers[by_seeking] = FrameReader(self.path, self.stream_index, index)
        return self._readers[by_seeking]

    def shown(self, first: int, end: int) -> list[Shown]:
        """When each frame [first, end) is shown, on a clock that starts with the first."""
        pts = self.index.pts
        stop = [pts[end]] if end < len(pts) else [2 * pts[end - 1] - pts[end - 2] if end > 1 else pts[end - 1] + 1]
        times = np.append(pts[first:end], stop) - pts[first]
        return [Shown(int(a), int(b - a)) for a, b in pairwise(times)]

    def seen(self, first: int, end: int) -> Seen:
        """What the pass saw of frames [first, end)."""
        times = np.asarray(self._table.column("time_s"), np.float64)
        last_step = times[-1] - times[-2] if len(times) > 1 else 0.04
        after = times[end] if end < len(times) else times[-1] + last_step
        return Seen(
            self._signatures(first, end),
            times[first:end] - times[first],
            float(after - times[first]),
            self._signatures(first - 1, first) if first else None,
            self._signatures(end, end + 1) if end < len(times) else None,
            self._full,
        )

    def _signatures(self, first: int, end: int) -> Any:
        column: pa.ChunkedArray = self._table.column("signature").slice(first, end - first)
        return np.concatenate([np.asarray(c.flatten()).reshape(len(c), -1) for c in column.chunks if len(c)])

    def sound(self, first: int, end: int, length_s: float) -> Sound | None:
        """The sound of frames [first, end), so long; None where the source has none."""
        if self._sounds is None:
            return None
        part = self._table.slice(first, end - first)
        with open_media(self.path) as container:
            base = container.streams[self.stream_index].time_base
        times = np.asarray(part.column("time_s"), np.float64)
        said, epochs = (part.column(n).to_pylist() for n in ("said", "epoch"))
        return self._sounds.sound(pieces_of(said, epochs, (times - times[0]).tolist(), length_s, base), length_s)


def pack_spans(spans: list[tuple[int, int]]) -> bytes:
    """Frame ranges in few bytes."""
    return zlib.compress(np.asarray(spans, "<i8").tobytes(), 6)


def unpack_spans(data: bytes) -> list[tuple[int, int]]:
    """The ranges of `pack_spans`."""
    return [(int(a), int(b)) for a, b in np.frombuffer(zlib.decompress(data), "<i8").reshape(-1, 2)]
