"""The conditions of a take: the pictures and videos that its prompt names, looked at before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flows.render.entries import Entry
from flows.words import file_name
from stages.core.condition_video import SLACK_S, seconds_of
from stages.core.errors import BadInput
from stages.core.media import read_picture
from stages.core.reach.opening import joined, read_named
from stages.core.reach.policy import in_force
from stages.core.reach.secrets import bare, cleared
from stages.core.step import Row

PLAIN = ("image", "last_image", "video", "mask")
"""Keys that hold one path."""
KEYS = (*PLAIN, "keyframes", "references", "control")
"""Keys that name pictures and videos."""


def conditions_of(values: Mapping[str, Any], entry: Entry) -> tuple[list[Row], list[Row]]:
    """The conditions of a take, and where their files lie. Raises BadInput for a file that is no picture or video, and
    for a video that ends before the clip's last frame is shown."""
    conditions: list[Row] = []
    media: dict[str, Row] = {}

    def add(look: Callable[[bytes], None], key: str, location: str, kind: str, role: str | None, **more: Any) -> None:
        uri, sha256 = _found(joined(entry.folder, location), entry.place, key, look)
        conditions.append({"kind": kind, "role": role, "sha256": sha256, **more})
        media[sha256] = {"sha256": sha256, "uri": uri, "name": file_name(bare(uri))}

    long_enough = _lasts(values)
    if values.get("image"):
        add(_is_picture, "image", values["image"], "still", "first", frame=0)
    if values.get("last_image"):
        add(_is_picture, "last_image", values["last_image"], "still", "last")
    for frame, place in values.get("keyframes") or ():
        add(_is_picture, "keyframes", place, "still", "keyframe", frame=frame)
    for place in values.get("references") or ():
        add(_is_picture, "references", place, "reference", None)
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
    yield from (str(p) for p in (frames.values() if isinstance(frames, Mapping) else ()))
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


def _found(location: str, place: str, key: str, look: Callable[[bytes], None]) -> tuple[str, str]:
    """Path or address, and SHA-256, of a file. Raises BadInput for what `look` refuses, and may not be opened."""
    uri = in_force().keep(location)
    try:
        data = read_named(uri)
        look(data)
    except Exception as error:  # every file system has its own tree of errors
        said = getattr(error, "strerror", None) or cleared(str(error))
        raise BadInput(f"{place}: {key} {said if said.startswith(uri) else f'{uri}: {said}'}") from None
    return uri, hashlib.sha256(data).hexdigest()


def _is_picture(data: bytes) -> None:
    read_picture(data, 16, 16)


def _lasts(values: Mapping[str, Any]) -> Callable[[bytes], None]:
    frames, fps = values.get("frames"), values.get("fps")

    def look(data: bytes) -> None:
        found = seconds_of(data)
        if frames and fps and found - SLACK_S <= (frames - 1) / fps:
            last = f"the last of {frames} frames at {fps:g} fps is shown at {(frames - 1) / fps:.2f} s"
            raise BadInput(f"lasts {found:.2f} s; {last}")

    return look
