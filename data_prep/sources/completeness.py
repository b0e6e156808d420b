"""Whether a file is whole: what its header promises against what is there, and whether its frames have a hole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

COUNTING = frozenset({"mov", "mp4"})
"""Formats whose index counts frames, each of which has its place in the file."""
TIMING = frozenset({"matroska", "webm", "asf", "flv", "ogg", "avi"})
"""Formats whose header, or last page, says how long they are."""
SYNC, PACKETS = 0x47, ((0, 188), (4, 192), (0, 204))
"""The byte with which a packet of a transport stream begins; where it stands in the first packet, and how long they
are."""
SHARE, SECONDS = 0.02, 0.5
STEPS, FEW = 8, 0.01
"""A hole lasts so many usual steps, and SECONDS at least; where more than this share of steps do, frames come so."""


def what_is_missing(container: Any, stream: Any, read: int, end: int, path: Path, time_limit_s: float) -> str:
    """A sentence that says how much of a file is there, "" where it is whole or its format promises nothing.

    read: packets of the video stream that are there; end: when the last of them ends, in its ticks.
    """
    kinds = set(container.format.name.split(","))
    if kinds & COUNTING and stream.frames:
        missing = stream.frames - read
        if missing > max(1, SHARE * stream.frames):
            return f"the file is not whole: {read} of the {stream.frames} frames that its index lists are in it"
        return _cut_in_a_box(path)
    cut = _cut_in_a_box(path) if kinds & {*COUNTING, "avi"} else ""
    if cut or kinds & COUNTING:
        return cut
    if "mpegts" in kinds:
        return _cut_in_a_packet(path)
    if not kinds & TIMING or not container.duration:
        return ""
    promised, there = container.duration / 1e6, float(end * stream.time_base)
    if promised - there <= max(SECONDS, SHARE * promised):
        return ""
    there = max(there, _end_of_all(path, time_limit_s))  # sound may go on behind the last picture
    if promised - there <= max(SECONDS, SHARE * promised):
        return ""
    return f"the file is not whole: its header says {promised:.1f} s, but it has {there:.1f} s"


def holes(times: npt.NDArray[np.int64], tick: float) -> str:
    """A sentence about stretches without frames in footage whose frames come regularly otherwise, "" for none.

    times: when each frame is shown [n], rising, in ticks; tick: seconds of one.
    """
    steps = np.diff(times) * tick
    if len(steps) < 2 or np.quantile(steps, 0.9) > 2 * np.median(steps):
        return ""
    wide = np.flatnonzero(steps > max(SECONDS, STEPS * float(np.median(steps))))
    if not len(wide) or len(wide) > max(1, FEW * len(steps)):
        return ""
    begin, end = ((times[wide[0] + i] - times[0]) * tick for i in (0, 1))
    more = len(wide) - 1
    places = "one more place" if more == 1 else f"{more} more places"
    return f"there are no frames between {begin:.2f} and {end:.2f} s" + (f" and at {places}" if more else "")


def _cut_in_a_box(path: Path) -> str:
    """Whether an mp4 or AVI file ends within one of the boxes (chunks) that it is made of, by their sizes."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            if head[:4] == b"RIFF":
                length = 8 + int.from_bytes(head[4:8], "little")
            else:
                length = int.from_bytes(head[:4], "big")
                length = int.from_bytes(head[8:16], "big") if length == 1 else length
            if length < 8 or not (head[:4] == b"RIFF" or head[4:8].isalnum()):
                return ""  # to the end of the file, or no box
            if at + length > size:
                return f"the file is not whole: {at + length - size:,} bytes are missing at its end"
            at += length + (length % 2 if head[:4] == b"RIFF" else 0)
    return ""


def _cut_in_a_packet(path: Path) -> str:
    """Whether a transport stream, which is nothing but packets of one length, ends in something else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2 * PACKETS[-1][1])
        found = next(((at, n) for at, n in PACKETS if len(head) > at + n and head[at] == head[at + n] == SYNC), None)
        if found is None:
            return ""
        at, length = found
        if size % length:
            return "the file is not whole: it ends within a packet"
        file.seek(size - length + at)
        return "" if file.read(1)[0] == SYNC else "the file is not whole: its end holds no packets"


def _end_of_all(path: Path, time_limit_s: float) -> float:
    """When the last packet of any stream ends, in seconds from the start."""
    from av import FFmpegError

    from data_prep.sources.reading import open_media

    latest = 0.0
    with open_media(path, time_limit_s) as container:
        try:
            for packet in container.demux():
                if packet.pts is not None and packet.time_base:
                    latest = max(latest, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except (FFmpegError, OSError):
            pass
    return latest
