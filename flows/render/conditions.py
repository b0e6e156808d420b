"""The conditions of a take: the pictures and videos that its prompt names, looked at before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flows.render.entries import CHECKS, Entry
from flows.render.probing import PICTURE, VIDEO, Probes, kept
from flows.words import file_name
from stages.core.condition_video import SLACK_S
from stages.core.errors import BadInput
from stages.core.reach.opening import joined
from stages.core.reach.secrets import bare
from stages.core.step import Row

Look = Callable[[float], str] | None
PLAIN = ("image", "last_image", "video", "mask")
"""Keys that hold one path."""
KEYS = (*PLAIN, "keyframes", "references", "control")
"""Keys that name pictures and videos."""


def conditions_of(values: Mapping[str, Any], entry: Entry, probes: Probes | None = None) -> tuple[list[Row], list[Row]]:
    """The conditions of a take, and where their files lie. Raises BadInput for a file that is no picture or video, and
    for a video that ends before the clip's last frame is shown."""
    conditions: list[Row] = []
    media: dict[str, Row] = {}
    probed = Probes() if probes is None else probes

    def add(look: Look, key: str, location: str, kind: str, role: str | None, **more: Any) -> None:
        uri, sha256 = _found(joined(entry.folder, location), entry.place, key, look, probed)
        conditions.append({"kind": kind, "role": role, "sha256": sha256, **more})
        media[sha256] = {"sha256": sha256, "uri": uri, "name": file_name(bare(uri))}

    long_enough = _lasts(values)
    if values.get("image"):
        add(None, "image", values["image"], "still", "first", frame=0)
    if values.get("last_image"):
        add(None, "last_image", values["last_image"], "still", "last")
    for frame, place in values.get("keyframes") or ():
        add(None, "keyframes", place, "still", "keyframe", frame=frame)
    for place in values.get("references") or ():
        add(None, "references", place, "reference", None)
    if values.get("video"):
        level = {} if values.get("level") is None else {"level": float(values["level"])}
        add(long_enough, "video", values["video"], "source", None, **level)
    elif values.get("level") is not None:
        raise BadInput(f"{entry.place}: level is the noise level of a `video`, and there is none")
    if values.get("mask"):
        add(long_enough, "mask", values["mask"], "clip", "mask")
    if control := values.get("control"):
        more = {k: float(control[k]) for k in ("scale", "start", "end") if control.get(k) is not None}
        medium = control.get("video") or control["footage"]
        add(long_enough, "control", medium, "control", control["signal"], **more)
    return conditions, list(media.values())


def check_files_of_all(values: Mapping[str, Any], where: str) -> None:
    """Raise BadInput, naming the campaign, for a file that all prompts share and that cannot be used."""
    given = {key: value for key, value in values.items() if key in (*KEYS, "level")}
    if given and set(given) != {"level"}:
        conditions_of(given, Entry(where))


def named_places(holder: Mapping[str, Any]) -> Iterator[str]:
    """Every path or address of a picture or video that a campaign, or one of its prompts, names."""
    for key in PLAIN:
        if isinstance(value := holder.get(key), str) and value:
            yield value
    control = holder.get("control")
    if isinstance(control, str):
        yield control.partition(":")[2]
    elif isinstance(control, Mapping):
        yield from (control[key] for key in ("video", "footage") if isinstance(control.get(key), str))
    frames, pictures = holder.get("keyframes"), holder.get("references")
    pairs = frames.items() if isinstance(frames, Mapping) else frames or ()
    yield from (str(place) for _, place in pairs)
    yield from (str(p) for p in ([pictures] if isinstance(pictures, str) else pictures or ()))


def rebase(holder: Any, place: Callable[[str], str]) -> None:
    """Replace every one of these paths by what `place` makes of it."""
    for key in PLAIN:
        if isinstance(value := holder.get(key), str) and value:
            holder[key] = place(value)
    control = holder.get("control")
    if isinstance(control, str) and ":" in control:
        signal, _, path = control.partition(":")
        holder["control"] = f"{signal}:{place(path.strip())}"
    elif isinstance(control, Mapping):
        paths = {key: place(control[key]) for key in ("video", "footage") if isinstance(control.get(key), str)}
        holder["control"] = {**control, **paths}
    if isinstance(frames := holder.get("keyframes"), Mapping):
        holder["keyframes"] = {k: place(str(v)) for k, v in frames.items()}
    if isinstance(pictures := holder.get("references"), str):
        holder["references"] = place(pictures)
    elif pictures:
        holder["references"] = [place(str(p)) for p in pictures]


def media_of(entry: Entry, own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every picture and video that a prompt names, as far as its keys can be read: its path or address, and which of
    both it should be."""
    for key in KEYS:
        kind = VIDEO if key in ("video", "mask", "control") else PICTURE
        try:
            for place in named_places({key: CHECKS[key](own[key])}) if own.get(key) is not None else ():
                yield kept(joined(entry.folder, place)), kind
        except (ValueError, TypeError, AttributeError):
            continue  # told when the row is checked


def _found(location: str, place: str, key: str, look: Look, probes: Probes) -> tuple[str, str]:
    """Path or address, and SHA-256, of a file. look: what refuses a video by its length, None for a picture. Raises
    BadInput for what cannot be used, and may not be opened."""
    uri = kept(location)
    found = probes.look(uri, PICTURE if look is None else VIDEO)
    if found.fault:
        raise BadInput(f"{place}: {key} {found.fault}")
    if look is not None and (short := look(found.seconds)):
        raise BadInput(f"{place}: {key} {uri}: {short}")
    return uri, found.sha256


def _lasts(values: Mapping[str, Any]) -> Callable[[float], str]:
    """Why a video of so many seconds is too short for the clip, "" where it is not."""
    frames, fps = values.get("frames"), values.get("fps")

    def look(seconds: float) -> str:
        if frames and fps and seconds - SLACK_S <= (frames - 1) / fps:
            last = f"the last of {frames} frames at {fps:g} fps is shown at {(frames - 1) / fps:.2f} s"
            return f"lasts {seconds:.2f} s; {last}"
        return ""

    return look
