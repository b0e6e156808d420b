"""Sequences with known transitions, composed of real shots: the ground truth behind the cut detector's tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

Frames = np.ndarray  # uint8 [n, h, w, 3], RGB


def read_shot(path: Path, start: int, count: int, size: tuple[int, int]) -> Frames:
    """`count` frames from frame `start` on, scaled to (width, height)."""
    out = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(container.streams.video[0])):
            if index >= start:
                picture = frame.to_ndarray(format="rgb24")
                out.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
            if len(out) == count:
                break
    return np.stack(out)


@dataclass
class Sequence:
    """Frames so far and the transitions between them, in the form of the labelled data: kind, start, end, frame."""

    frames: list[np.ndarray] = field(default_factory=list)
    truth: list[dict] = field(default_factory=list)

    def _label(self, kind: str, start: int, end: int) -> None:
        self.truth.append({"kind": kind, "start": start, "end": end, "frame": (start + end) // 2})

    def cut(self, shot: Frames) -> None:
        if self.frames:
            self.truth.append({"kind": "cut", "frame": len(self.frames)})
        self.frames += list(shot)

    def mixed(self, shot: Frames, length: int, mask: str) -> None:
        """A dissolve (mask "dissolve") or a wipe over `length` mixed frames; both shots keep running."""
        start = len(self.frames) - length
        for i in range(length):
            weight = mask_at(mask, (i + 1) / (length + 1), shot.shape[1:3])
            old = self.frames[start + i].astype(np.float32)
            self.frames[start + i] = np.uint8(np.round(old * (1 - weight) + shot[i] * weight))
        self._label("dissolve" if mask == "dissolve" else "wipe", start, len(self.frames) - 1)
        self.frames += list(shot[length:])

    def fade(self, shot: Frames, out: int, hold: int, back: int, colour: int = 0) -> None:
        """Fade out over `out` frames, stay plain for `hold`, fade in over `back`; 0 means a hard cut on that side."""
        start = len(self.frames) - out
        for i in range(out):
            self.frames[start + i] = _dim(self.frames[start + i], 1 - (i + 1) / (out + 1), colour)
        plain = len(self.frames)
        self.frames += [np.full_like(shot[0], colour)] * hold
        risen = [_dim(shot[i], (i + 1) / (back + 1), colour) for i in range(back)] + list(shot[back:])
        again = len(self.frames)
        if out and back:
            self._label("fade_through_black", start, again + back - 1)
        elif back:
            self.truth.append({"kind": "cut", "frame": plain})
            self._label("fade_in_from_black", again, again + back - 1)
        elif out:
            self._label("fade_out_to_black", start, plain - 1)
            self.truth.append({"kind": "cut", "frame": again})
        self.frames += risen

    def flash(self, at: int, length: int, colour: int = 255) -> None:
        for i in range(at, at + length):
            self.frames[i] = _dim(self.frames[i], 0.15, colour)

    def whip(self, at: int, length: int) -> None:
        """A pan of one and a half picture widths, blurred along its way, and back on the same picture."""
        width = self.frames[at].shape[1]
        for i in range(length):
            shift = int(1.5 * width * (i + 1) / (length + 1))
            blur = max(3, width // 8)
            rolled = np.roll(self.frames[at + i], shift, axis=1)
            self.frames[at + i] = cv2.blur(rolled, (blur, 1), borderType=cv2.BORDER_REFLECT)

    def expose(self, at: int, length: int, gain: float) -> None:
        """Brightness drifts to `gain` over `length` frames and stays there."""
        for i in range(at, len(self.frames)):
            now = 1 + (gain - 1) * min(1.0, (i - at) / length)
            self.frames[i] = np.uint8(np.clip(self.frames[i] * now, 0, 255))


def _dim(frame: np.ndarray, share: float, colour: int) -> np.ndarray:
    return np.uint8(np.round(frame.astype(np.float32) * share + colour * (1 - share)))


def mask_at(mask: str, progress: float, size: tuple[int, int]) -> np.ndarray:
    """The weight of the new shot, [h, w, 1] between 0 and 1."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    x, y = (x + 0.5) / width, (y + 0.5) / height
    course = {
        "dissolve": None,
        "left": 1 - x,
        "right": x,
        "up": 1 - y,
        "down": y,
        "diagonal": (x + y) / 2,
        "circle": np.hypot(x - 0.5, y - 0.5) / np.hypot(0.5, 0.5),
        "soft": 0.1 + 0.8 * x,
        "barn": np.abs(x - 0.5) * 2,
    }[mask]
    if course is None:
        return np.full((height, width, 1), progress, np.float32)
    edge = 0.1 if mask == "soft" else 0.01
    return np.clip((progress - course) / edge + 0.5, 0, 1).astype(np.float32)[..., None]


STABLE = {"x264-params": "no-asm=1"}
"""With its assembly, x264 gives the same frames other bytes in one run of ten on some processors, on one thread too."""


def encode(
    frames: list[np.ndarray],
    path: Path,
    codec: str = "libx264",
    fps: int | Fraction = 25,
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
) -> Path:
    """Write frames to a file; `pts` in milliseconds makes the frame rate variable."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        options = {**STABLE, **(options or {})} if codec == "libx264" else options or {}
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        if pts is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.time_base = Fraction(1, 1000) if pts is not None else 1 / Fraction(fps)
            frame.pts = pts[i] if pts is not None else i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
