"""Shots as a timeline that editors open: OpenTimelineIO's own format, and CMX 3600 edit decision lists (EDL).

Positions are frames of the source, counted from 0. In an EDL they are timecodes without drop frames at every rate,
also at 29.97 and 59.94, and it says so (`FCM: NON-DROP FRAME`): 23.976 counts 24 frames to a second, 29.97 counts 30.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from stages.core.errors import BadInput
from stages.core.reach.policy import local_path

FORMATS = (".edl", ".otio")
RATES = tuple(Fraction(n, d) for n, d in (
    (24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (48, 1), (50, 1), (60000, 1001), (60, 1),
))  # fmt: skip
"""The rates that timecodes are defined for."""
NEAR = 5e-4
"""Half of what 23.976 and 24 differ by: a rate that is nearer than this to one of RATES is that one."""
DAY_S = 24 * 3600


@dataclass(frozen=True)
class Strip:
    """A source and spans of it: frames [start, end), ascending. fps: as it was measured."""

    uri: str
    fps: float
    n_frames: int
    spans: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def rate(self) -> Fraction:
        """The rate that was meant."""
        nearest = min(RATES, key=lambda r: abs(float(r) / self.fps - 1))
        return nearest if abs(float(nearest) / self.fps - 1) <= NEAR else Fraction(self.fps).limit_denominator(10_000)


def check_library() -> Any:
    """OpenTimelineIO. Raises BadInput naming the extra where it is not installed."""
    try:
        import opentimelineio
    except ImportError:
        raise BadInput(
            "EDL and OTIO files need the extra `otio`: pip install -c constraints.txt -e '.[otio]'"
        ) from None
    return opentimelineio


def timeline(strips: Sequence[Strip], name: str, counted: bool = False) -> Any:
    """An `opentimelineio.schema.Timeline` of one video track: source after source, each span where it is in its source,
    gaps for what no span covers. counted: by whole frames a second, as a timecode counts."""
    otio = check_library()
    track = otio.schema.Track(name="V", kind=otio.schema.TrackKind.Video)
    for strip in strips:
        rate = float(round(strip.rate)) if counted else float(strip.rate)

        def span(start: int, end: int, rate: float = rate) -> Any:
            time = otio.opentime.RationalTime
            return otio.opentime.TimeRange(time(start, rate), time(end - start, rate))

        path = local_path(strip.uri)
        url = path.as_uri() if path and path.is_absolute() else strip.uri
        at = 0
        for start, end in strip.spans:
            if start > at:
                track.append(otio.schema.Gap(source_range=span(0, start - at)))
            media = otio.schema.ExternalReference(target_url=url, available_range=span(0, strip.n_frames))
            clip = otio.schema.Clip(name=_plain(strip.name), media_reference=media, source_range=span(start, end))
            clip.metadata["cmx_3600"] = {"reel": _reel(strip.name)}
            track.append(clip)
            at = end
        if strip.n_frames > at:
            track.append(otio.schema.Gap(source_range=span(0, strip.n_frames - at)))
    made = otio.schema.Timeline(name=_plain(name))
    made.tracks.append(track)
    return made


def write_timeline(strips: Sequence[Strip], out: Path) -> list[str]:
    """Write spans as `.edl` or `.otio`, by the name of the file. Returns what a person should know of it.

    Raises BadInput where there are no spans, where an EDL cannot hold them, and where the library is missing.
    """
    otio = check_library()
    strips = [s for s in strips if s.spans]
    if not strips:
        raise BadInput(f"there is nothing to write to {out.name}: no source has a shot")
    if out.suffix == ".otio":
        text = otio.adapters.write_to_string(timeline(strips, out.stem), "otio_json")
    else:
        text = _edl(otio, strips, out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror or error}; give another --out") from None
    events = sum(len(s.spans) for s in strips)
    if out.suffix == ".edl" and events > 999:
        return [f"{out.name} has {events} events; CMX 3600 ends at 999, and some programs do too"]
    return []


def _edl(otio: Any, strips: Sequence[Strip], out: Path) -> str:
    for strip in strips:
        if strip.rate not in RATES:
            known = ", ".join(f"{float(r):.5g}" for r in RATES)
            raise BadInput(
                f"an EDL cannot hold {strip.name} with its {strip.fps:.5g} frames a second, only {known}; "
                f"give --out {out.stem}.otio"
            )
    rates = sorted({s.rate for s in strips})
    several = "name one file for each source: --out '{source}.edl'"
    if len(rates) > 1:
        told = ", ".join(f"{float(r):.5g}" for r in rates)
        raise BadInput(f"an EDL has one frame rate, and the sources have several ({told}); {several}")
    base = round(rates[0])
    if sum(s.n_frames for s in strips) > DAY_S * base:
        raise BadInput(f"timecodes end at 24 hours, and the sources are longer together; {several}")
    text = otio.adapters.write_to_string(timeline(strips, out.stem, counted=True), "cmx_3600", rate=base)
    head, _, events = str(text).partition("\n")
    return f"{head}\nFCM: NON-DROP FRAME\n{events}"


def _plain(name: str) -> str:
    """A name on one line."""
    return "".join(c if c.isprintable() else " " for c in name)


def _reel(name: str) -> str:
    """A reel of at most eight capitals and digits; AX, which is no reel, where the name has none."""
    return "".join(c for c in name.rsplit(".", 1)[0].upper() if c.isascii() and c.isalnum())[:8] or "AX"
