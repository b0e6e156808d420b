"""Shot lists that came with footage: the csv that PySceneDetect writes, and CMX 3600 edit decision lists (EDL).

A list is read into plain marks before any work, and made into frames once the rate of its source is known. The EDL is
read here and not by a library: the one there is refuses what PySceneDetect writes, does not look at FCM, and has to be
told the rate beforehand.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.errors import BadInput
from stages.core.step import PermanentError, Row

SUFFIXES = (".csv", "-Scenes.csv", ".edl")
"""What the name of a list has behind the name of its source; `-Scenes.csv` is what PySceneDetect writes by default."""
FIRST, LAST, FROM, TO = "Start Frame", "End Frame", "Start Time (seconds)", "End Time (seconds)"
_TC = r"(\d{1,2}:\d{2}:\d{2}[:;.]\d{2,3})"
_EVENT = re.compile(
    rf"^(\d+)\s+(.+?)\s+(\S+)\s+(C|D|W\d+|K\S*(?:\s+\S)?)\s+(?:(\d+)\s+)?{_TC}\s+{_TC}\s+{_TC}\s+{_TC}$"
)
_AUDIO = re.compile(r"^(A\d*|AA|NONE)$")
NO_REEL = ("AX", "BL")


def read_list(name: str, data: bytes) -> str:
    """A shot list as JSON text: {"shots": [[start, end, gradual], ...]}.

    Of a csv start and end are [frame from 0, seconds], the end behind the last frame; of an EDL they are timecodes, and
    gradual is how many frames a transition into the shot takes. An EDL also has `drop`, whether its timecodes drop
    frames, and `clock`, whether their seconds are those of the clock. Raises BadInput naming the file and the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text: {error}") from None
    found = _edl(name, text) if PurePosixPath(name).suffix.lower() == ".edl" else _csv(name, text)
    if not found["shots"]:
        raise BadInput(f"{name} lists no shot")
    return json.dumps(found)


def _csv(name: str, text: str) -> dict[str, Any]:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    head = next((i for i, row in enumerate(rows) if FIRST in row), None)  # a list of timecodes may stand above it
    if head is None or not {LAST, FROM, TO} <= set(rows[head]):
        raise BadInput(f"{name} has no columns {FIRST!r}, {LAST!r}, {FROM!r} and {TO!r}, as PySceneDetect writes them")
    shots = []
    for number, row in enumerate(rows[head + 1 :], head + 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = dict(zip(rows[head], row, strict=False))
        try:
            start = [int(cells[FIRST]) - 1, float(cells[FROM])]
            shots.append([start, [int(cells[LAST]), float(cells[TO])], 0])
        except (KeyError, ValueError):
            raise BadInput(f"{name}, line {number}: its frames or seconds are no numbers") from None
    return {"shots": shots}


def _edl(name: str, text: str) -> dict[str, Any]:
    drop, reels, shots = False, set(), []
    clock = "CREATED WITH PYSCENEDETECT" in text[:200].upper()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.upper().startswith("FCM"):
            drop = "NON" not in line.upper()
        if not line[:1].isdigit():
            continue
        if (event := _EVENT.match(line)) is None:
            raise BadInput(f"{name}, line {number} is no event of a CMX 3600 list: {line[:60]!r}")
        _, reel, channel, _, gradual, start, end, *_ = event.groups()
        if _AUDIO.match(channel) or start == end:
            continue
        reels.add(reel)
        shots.append([start, end, int(gradual or 0)])
    if len(reels - set(NO_REEL)) > 1:
        raise BadInput(f"{name} is of several reels ({', '.join(sorted(reels))}); write one list for each source")
    return {"shots": shots, "drop": drop, "clock": clock}


def listed_shots(text: str, times: npt.NDArray[np.float64], fps: float, varies: bool) -> list[tuple[int, int, int]]:
    """The shots of a list as (first frame, frame behind the last, frames of the transition into it), in order.

    times [n]: when each frame of the source is shown, in seconds from the first. Where the rate varies, marks count by
    their time. Raises PermanentError where the list does not fit the source.
    """
    found, frames = json.loads(text), len(times)
    ends = np.append(times, times[-1] + (times[-1] - times[-2] if frames > 1 else 1 / fps))

    def frame(mark: Any) -> int:
        number, seconds = mark if isinstance(mark, list) else _of_timecode(mark, fps, found)
        return int(np.abs(ends - seconds).argmin()) if varies else number

    shots = sorted((frame(a), frame(b), gradual) for a, b, gradual in found["shots"])
    shots = [(start, end, min(gradual, end - start)) for start, end, gradual in shots]
    behind = 0
    for start, end, _ in shots:
        if start < behind:
            raise PermanentError(f"its shot list has a shot from frame {start}, before the one ahead ends at {behind}")
        if start < 0 or end > frames:
            raise PermanentError(f"its shot list has frames {start} to {end}, and the source has {frames} frames")
        if end <= start:
            raise PermanentError(f"its shot list has a shot that ends at frame {end} and starts at {start}")
        behind = end
    return shots


def _of_timecode(text: str, fps: float, of: dict[str, Any]) -> tuple[int, float]:
    """The frame that a timecode names, and when that is in seconds.

    PySceneDetect's seconds are those of the clock, whatever the rate, and its frames those since then, cut to a whole
    number: the first frame that fits is the one that it means, or, where it has cut 28.999999 to 28, the one before.
    """
    number = frames_of(text, round(fps), of["drop"] or ";" in text)
    if of["clock"]:
        seconds, past = divmod(number, round(fps))
        number = math.ceil(seconds * fps + past - 1e-6)
    return number, number / fps


def frames_of(timecode: str, base: int, drop: bool) -> int:
    """The number of a frame from its timecode, where so many are counted in a second; drop: at 30 and 60 the first 2
    and 4 numbers of each minute are left out, but for every tenth minute. Raises PermanentError for a frame that no
    second has."""
    hours, minutes, seconds, frame = (int(part) for part in re.split(r"[:;.]", timecode))
    if frame >= base or minutes > 59 or seconds > 59:
        raise PermanentError(f"its shot list has the timecode {timecode}, and a second of the source has {base} frames")
    whole = hours * 60 + minutes
    left_out = round(base / 15) * (whole - whole // 10) if drop and base % 30 == 0 else 0
    return (whole * 60 + seconds) * base + frame - left_out


def by_source(lists: Mapping[str, bytes], uris: Iterable[str]) -> dict[str, str]:
    """Path or URL of a source -> its list, read.

    lists: path below the folder of shot lists -> content. A list is called as its source is; one in a subfolder is for
    a source in a folder of that name. Raises BadInput where two lists are for one source or the other way round, and
    where none is for any.
    """
    called: dict[str, set[str]] = {}
    for uri in uris:
        for name in (PurePosixPath(uri).stem, PurePosixPath(uri).name):
            called.setdefault(name, set()).add(uri)
    paths: dict[str, str] = {}
    for path in sorted(lists):
        folder, stem = PurePosixPath(path).parent, _stem(PurePosixPath(path).name)
        found = sorted(uri for uri in called.get(stem, ()) if _lies_in(uri, folder))
        if len(found) > 1:
            raise BadInput(
                f"shot_lists: {path} is called like more than one source ({', '.join(found[:3])}); put a list for each "
                "into a subfolder that is called like the source's folder"
            )
        for uri in found:
            if uri in paths:
                raise BadInput(f"shot_lists: {uri} has more than one list there: {paths[uri]} and {path}")
            paths[uri] = path
    if not paths:
        raise BadInput(
            "shot_lists: none of the lists there is called as a source is; the list of tape.mp4 is tape.csv, "
            "tape-Scenes.csv or tape.edl, and upper and lower case count"
        )
    return {uri: read_list(path, lists[path]) for uri, path in paths.items()}


def _lies_in(uri: str, folder: PurePosixPath) -> bool:
    """Whether the folders that a source lies in end with these."""
    return not folder.parts or PurePosixPath(uri).parent.parts[-len(folder.parts) :] == folder.parts


def strangers(paths: Iterable[str], uris: Iterable[str]) -> list[tuple[str, str]]:
    """The lists that fit no source: (path below the folder of shot lists, the source that fits but for upper and lower
    case, or "")."""
    called: dict[str, list[str]] = {}
    for uri in uris:
        for name in (PurePosixPath(uri).stem, PurePosixPath(uri).name):
            called.setdefault(name.lower(), []).append(uri)
    found = []
    for path in sorted(paths):
        base, folder = PurePosixPath(path).name, PurePosixPath(path).parent
        loose = _stem(base.lower(), [suffix.lower() for suffix in SUFFIXES])
        near = [PurePosixPath(u) for u in called.get(loose, []) if _lies_in(u, folder)]
        if loose != base.lower() and not any(_stem(base) in (u.stem, u.name) for u in near):
            found.append((path, near[0].name if near else ""))
    return found


def _stem(base: str, suffixes: Sequence[str] = SUFFIXES) -> str:
    """What a list is called without its suffix; the whole name of what is no list."""
    longest_first = sorted(suffixes, key=len, reverse=True)
    return next((base.removesuffix(s) for s in longest_first if base.endswith(s)), base)


def shots_rows(shots: list[tuple[int, int, int]]) -> list[Row]:
    """Shots as transitions: kind, first and last frame of each. A cut is where one shot begins as the other ends; what
    a list leaves out between two shots is a gap."""
    found = []
    for (_, end, _), (start, _, gradual) in pairwise(shots):
        last = start + gradual
        kind = "dissolve" if gradual and start == end else "gap" if last > end else "cut"
        found.append({"kind": kind, "first_frame": end, "last_frame": last})
    return found
