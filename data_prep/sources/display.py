"""How a decoded frame is shown: its display matrix, the shape of its pixels, its fields. As a player does it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Orientation:
    """What turns a stored picture into the one that is shown: rows and columns swapped first, then mirrored.

    Whatever a display matrix asks for by quarter turns and mirrors is one of these eight.
    """

    swapped: bool = False
    across: bool = False
    down: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the picture is shown as it is stored."""
        return not (self.swapped or self.across or self.down)

    @property
    def rotation(self) -> int:
        """Degrees against the clock, 0, 90, 180 or 270, before any mirror (`mirrored`)."""
        if self.swapped:
            return 90 if self.down else 270
        return 180 if self.down else 0

    @property
    def mirrored(self) -> bool:
        """Whether the picture is mirrored across after its rotation."""
        return (self.swapped + self.across + self.down) % 2 == 1

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) as shown."""
        return (height, width) if self.swapped else (width, height)

    def apply(self, picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A picture [h, w] or [h, w, c] as it is shown, contiguous."""
        if self.is_plain:
            return picture
        shown = picture.swapaxes(0, 1) if self.swapped else picture
        return np.ascontiguousarray(shown[:: -1 if self.down else 1, :: -1 if self.across else 1])

    def filters(self) -> list[tuple[str, str]]:
        """The same as libavfilter filters: (name, arguments)."""
        swap = [("transpose", "dir=cclock_flip")] if self.swapped else []  # the plain matrix transpose
        return [*swap, *([("hflip", "")] if self.across else []), *([("vflip", "")] if self.down else [])]


PLAIN = Orientation()


def orientation_of(frame: Any) -> Orientation:
    """What a frame's display matrix asks for. Turns that are no quarter turns are brought to the nearest one.

    The matrix is [a b u; c d v; x y w]: a stored pixel (p, q) is shown at (a p + c q, b p + d q).
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return PLAIN
    a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(data), np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def pixel_aspect(stream: Any) -> Fraction:
    """The width of a stored pixel over its height; 1 where nothing is said, or nothing that makes sense."""
    said = stream.sample_aspect_ratio or (stream.codec_context and stream.codec_context.sample_aspect_ratio)
    return Fraction(said) if said and Fraction(1, 16) <= said <= 16 else Fraction(1)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """A stored picture's (width, height) with square pixels, before it is turned."""
    return max(1, round(width * aspect)), height


class Deinterlacer:
    """Makes whole pictures of interlaced frames, one for each; others pass as they are.

    Nothing is done until a frame is flagged interlaced. From then on frames go through bwdif, which is one frame late
    and leaves those that are not flagged alone. `take` is called with each picture and what was handed in with it,
    in order.
    """

    def __init__(self, take: Callable[[Any, Any], None]) -> None:
        self._take = take
        self._graph: Any = None
        self._shape: tuple[Any, ...] = ()
        self._waiting: deque[tuple[Any, Any]] = deque()

    def put(self, frame: Any, about: Any) -> None:
        """The next frame."""
        shape = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and shape != self._shape:
            self.flush()
        if self._graph is None and not frame.interlaced_frame:
            self._take(frame, about)
            return
        if self._graph is None:
            self._graph = graph_of(
                frame, Fraction(1, 1000), [("bwdif", "mode=send_frame:parity=auto:deint=interlaced")]
            )
            self._shape = shape
        self._waiting.append((frame, about))
        own = frame.pts, frame.time_base
        frame.pts, frame.time_base = len(self._waiting), Fraction(1, 1000)
        self._graph.vpush(frame)
        frame.pts, frame.time_base = own
        self._pull()

    def flush(self) -> None:
        """No more frames come, for now."""
        if self._graph is not None:
            self._graph.vpush(None)
            self._pull()
            self._graph = None
            while self._waiting:  # a graph that gives fewer pictures than it was given frames loses none here
                self._take(*self._waiting.popleft())

    def _pull(self) -> None:
        from av import FFmpegError

        while self._graph is not None and self._waiting:
            try:
                picture = self._graph.vpull()
            except (FFmpegError, OSError):  # it wants another frame, or has ended
                return
            _, about = self._waiting.popleft()
            self._take(picture, about)


def deinterlaced(frames: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Pairs of frame and anything, with every interlaced frame made whole. See `Deinterlacer`."""
    ready: deque[tuple[Any, Any]] = deque()
    maker = Deinterlacer(lambda frame, about: ready.append((frame, about)))
    for frame, about in frames:
        maker.put(frame, about)
        while ready:
            yield ready.popleft()
    maker.flush()
    yield from ready


def graph_of(frame: Any, base: Fraction, filters: Sequence[tuple[str, str]]) -> Any:
    """A filter graph for frames like this one."""
    import av.filter

    graph = av.filter.Graph()
    graph.threads = 1
    # With its matrix and range, which `add_buffer` leaves out: without them `scale` makes BT.601 of everything.
    last = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(base),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    for name, words in filters:
        made = graph.add(name, words) if words else graph.add(name)
        last.link_to(made)
        last = made
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    return graph
