"""Frames of a source by their number in presentation order, as the pass over it counted them.

A timestamp leads to a frame only where it is unique and rising, over the whole source. There a key frame is an address:
reading may begin at it, and every frame that follows is held against the time that the pass noted for it. Anywhere else
frames are counted from the start of the file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.sources.reading import open_media
from stages.core.media import BadMedia

I64 = npt.NDArray[np.int64]
INDEX_COLUMNS = ("pts", "said", "epoch", "keyframe")
"""The columns of the signal table that an index is made of."""
WORTH_A_SEEK = 12
"""Frames: what lies closer ahead than this is reached by decoding on."""


class Lost(BadMedia):
    """Reading did not give the frames that were looked for."""


def times_rise(table: pa.Table) -> bool:
    """Whether every frame of a source came with a time of its own, later than the one before: `pts`, `said`, `epoch` of
    its signals."""
    said = table.column("said")
    return bool(said.null_count == 0 and np.array_equal(_numbers(said), _numbers(table.column("pts"))))


def _numbers(column: pa.ChunkedArray) -> I64:
    return np.asarray(column.to_numpy(), np.int64)


@dataclass(frozen=True)
class FrameIndex:
    """Where the frames of a source are. pts [n]: the time of each frame in ticks; keys: the numbers of the key frames
    whose time is an address, ascending, none where times are no addresses."""

    pts: I64
    keys: tuple[int, ...] = ()

    @classmethod
    def of(cls, table: pa.Table) -> FrameIndex:
        """From the columns INDEX_COLUMNS of a source's signals."""
        pts = _numbers(table.column("pts"))
        if not times_rise(table):
            return cls(pts)
        keys = np.flatnonzero(np.asarray(table.column("keyframe")))
        return cls(pts, tuple(int(k) for k in keys))

    def counted(self) -> FrameIndex:
        """The same without addresses: frames are counted from the start of the file."""
        return FrameIndex(self.pts)

    def before(self, frame: int) -> int:
        """The last key frame at or before a frame that is an address, 0 (the start of the file) where there is none."""
        at = bisect_right(self.keys, frame)
        return self.keys[at - 1] if at else 0


def presented(
    container: Any,
    stream: Any,
    tolerates: Callable[[Exception], bool] = lambda error: True,
    ended: Callable[[], bool] = lambda: False,
) -> Iterator[Any]:
    """The frames of a stream in presentation order; a packet that does not decode is passed over.

    This loop is what gives frames their numbers, so everything that counts frames counts here. tolerates is told of
    each error and says whether to go on; ended is asked before every packet.
    """
    import av

    packets = container.demux(stream)
    while not ended():
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None else None
        except (av.FFmpegError, OSError) as error:
            if not tolerates(error):
                return
            continue
        if frames is None:
            return
        yield from frames


class FrameReader:
    """Reads ranges of frames of one source. Goes forward where it can, so ranges in ascending order cost one decode."""

    def __init__(self, path: Path, stream_index: int, index: FrameIndex) -> None:
        self.path, self.index, self.at = path, index, 0
        self._stream_index = stream_index
        self._open: Any = None
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._open is not None:
            self._frames, self._container = iter(()), None
            self._open.__exit__(None, None, None)
            self._open = None

    @property
    def stream(self) -> Any:
        """The stream that is read; there once something was."""
        return self._container.streams[self._stream_index]

    def frames(self, first: int, end: int) -> Iterator[Any]:
        """Frames [first, end). Raises Lost where one of them does not come, or is another than the pass saw."""
        self._go_to(first)
        while self.at < end:
            frame = next(self._frames, None)
            if frame is None:
                raise Lost(f"the source ends at frame {self.at}, before the clip's last frame {end - 1}")
            number, self.at = self.at, self.at + 1
            if self.index.keys and frame.pts != self.index.pts[number]:
                raise Lost(f"frame {number} came at {frame.pts}, it was seen at {self.index.pts[number]}")
            if number >= first:
                yield frame

    def _go_to(self, first: int) -> None:
        key = self.index.before(first)
        if self._container is not None and self.at <= first and key <= self.at + WORTH_A_SEEK:
            return
        self.close()
        self._open = open_media(self.path)
        self._container = self._open.__enter__()
        self.stream.codec_context.thread_count, self.stream.thread_type = 1, "NONE"
        self.at, self._frames = 0, presented(self._container, self.stream)
        if key:
            self._seek(key)

    def _seek(self, key: int) -> None:
        """Go to a key frame. Some demuxers land behind the place they are asked for, so an earlier one is tried too."""
        import av

        sooner = self.index.before(key - 1)
        for place in dict.fromkeys((key, sooner)):
            try:
                self._container.seek(int(self.index.pts[place]), stream=self.stream, backward=True)
            except (av.FFmpegError, OSError):
                break
            self._frames = presented(self._container, self.stream)
            for frame in self._frames:
                if frame.pts is None or frame.pts > self.index.pts[key]:
                    break
                if frame.pts == self.index.pts[key]:
                    if frame.is_corrupt:
                        break
                    self.at, self._frames = key, _again(frame, self._frames)
                    return
        raise Lost(f"key frame {key} is not found by its time")


def _again(frame: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield frame
    yield from rest
