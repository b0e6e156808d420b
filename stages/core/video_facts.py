"""What a video file holds, read once from its first to its last frame: to be held against what its row says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.core.media import BadMedia, Frames
from stages.core.reach.containers import NotOpened, open_container
from stages.core.step import Row, reason

BT709 = 1
"""AVCOL_SPC_BT709, and the same number for primaries and transfer; AVCOL_RANGE_MPEG as well."""
SLACK_S = 0.05
"""Seconds by which pictures and sound may differ in length from what is stated: a packet of AAC lasts 0.02 s."""


@dataclass(frozen=True)
class VideoFacts:
    """What was read.

    n_frames       frames that decode; fps: frames a second, by the times of the frames
    width, height  pixels, of the first frame
    seconds        how long the pictures last
    colours        whether matrix, primaries, transfer and range all say BT.709, limited
    sound_rate     samples a second, None where there is no sound; sound_s: how long it lasts; sound_bad: samples that
                   are not finite
    """

    n_frames: int
    fps: float
    width: int
    height: int
    seconds: float
    colours: bool
    sound_rate: int | None
    sound_s: float
    sound_bad: int


def read_facts(source: bytes | Path, see: Callable[[Frames], None]) -> VideoFacts:
    """Decode all of a video; `see` is handed each frame, uint8 RGB [H, W, 3]. Raises BadMedia where it is none, or
    where it breaks off."""
    from av.error import FFmpegError

    try:
        with open_container(source) as container:
            if not container.streams.video:
                raise BadMedia("the file has no video stream")
            stream = container.streams.video[0]
            times, size, colours = list[float](), (0, 0), True
            for frame in container.decode(stream):
                size = size if times else (frame.width, frame.height)
                tags = frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range
                colours &= all(int(tag) == BT709 for tag in tags)
                times.append(float(frame.time or 0.0))
                see(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
            stated = float(stream.average_rate or 0)
            sounds = len(container.streams.audio) > 0
        rate, heard_s, bad = _sound(source) if sounds else (None, 0.0, 0)
    except (FFmpegError, NotOpened) as error:
        raise BadMedia(f"not a readable video: {error}") from None
    if not times:
        raise BadMedia("the video has no frames")
    fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else stated
    seconds = times[-1] - times[0] + (1 / fps if fps else 0.0)
    return VideoFacts(len(times), fps, *size, seconds, colours, rate, heard_s, bad)


def _sound(source: bytes | Path) -> tuple[int, float, int]:
    """Rate, seconds, and how many samples are not finite, of the first sound."""
    count = bad = rate = 0
    with open_container(source) as container:
        for frame in container.decode(container.streams.audio[0]):
            samples = frame.to_ndarray()
            rate, count = frame.sample_rate, count + frame.samples
            bad += int(samples.size - np.isfinite(samples).sum())
    return rate, count / rate if rate else 0.0, bad


def faults(facts: VideoFacts, row: Row) -> list[Row]:
    """Where a file is not what its row says (`n_frames`, `fps`, `width`, `height`, `seconds`, `sound_rate`), as reasons
    of a rejection; none where all is as it says."""
    found = [
        reason(name, found, "==", said)
        for name, found, said in (
            ("frames", facts.n_frames, row["n_frames"]),
            ("width", facts.width, row["width"]),
            ("height", facts.height, row["height"]),
        )
        if found != said
    ]
    if abs(facts.fps - row["fps"]) > 0.001 * row["fps"]:
        found.append(reason("fps", round(facts.fps, 3), "==", row["fps"]))
    if abs(facts.seconds - row["seconds"]) > max(SLACK_S, 1 / row["fps"]):
        found.append(reason("seconds", round(facts.seconds, 3), "==", row["seconds"]))
    if not facts.colours:
        found.append(reason("colour tags", "not BT.709 in limited range", "==", "BT.709"))
    return found + _sound_faults(facts, row)


def _sound_faults(facts: VideoFacts, row: Row) -> list[Row]:
    said = row["sound_rate"]
    if not said and not facts.sound_rate:
        return []
    if facts.sound_rate != said:
        return [reason("sound", _rate(facts.sound_rate), "==", _rate(said))]
    found = []
    if facts.sound_s < facts.seconds - 2 * SLACK_S:
        found.append(reason("sound seconds", round(facts.sound_s, 3), "==", round(facts.seconds, 3)))
    if facts.sound_bad:
        found.append(reason("samples of sound that are not finite", facts.sound_bad, "==", 0))
    return found


def _rate(rate: int | None) -> str:
    return f"{rate} Hz" if rate else "none"
