"""What a clip is to be made after, besides its text: typed plain data, media by the hash of their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

KINDS: Mapping[str, tuple[str, ...]] = {
    "still": ("first", "last", "keyframe"),
    "clip": ("continuation", "mask"),
    "source": (),
    "control": ("depth", "pose", "edges", "flow"),
    "reference": (),
    "camera": (),
    "sound": (),
    "segment": (),
    "path": (),
    "box": (),
    "motion": (),
}
"""Every kind of condition -> its roles; of a control, the signals.

still      a picture that the clip shows: as its first frame, its last, or at `frame`
clip       frames that the clip goes on from (`continuation`), or what may change in its source (`mask`, white changes)
source     the video that is made anew, at the noise level `level`
control    a video of a signal that the clip follows
reference  a picture of what the clip is to show, somewhere
camera, path, box, motion  the way of the camera or of an object, boxes around it, a dense field of motion
sound      what is to be heard; segment: the prompt of a span of time
"""

STILLS = ("still", "reference")
"""Kinds whose medium is a picture; the others that have a medium have a video."""


PROMPT_KEYS: Mapping[str, str] = {
    "still": "image",
    "source": "video",
    "reference": "references",
    "first": "image",
    "last": "last_image",
    "keyframe": "keyframes",
    "mask": "mask",
}
"""Kind or role -> the key of a prompt that names such a condition; where there is none, it is the kind itself."""


def prompt_key(kind: str, role: str | None = None) -> str:
    """The key of a prompt that names a condition of this kind and role, such as `last_image`."""
    return PROMPT_KEYS.get(role or "", PROMPT_KEYS.get(kind, kind)) if kind != "control" else kind


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition. None where it says nothing.

    kind, role  of KINDS
    sha256      SHA-256 of its medium
    frame       the pixel frame from which on it holds; None: as the role says
    scale       how strongly, from 0; None is the family's own, mostly 1
    level       the noise level that a source is brought to, above 0 to 1
    start, end  the share of the schedule, 0 to 1, in which a control acts
    text        of a segment; values: of a camera path
    """

    kind: str
    role: str | None = None
    sha256: str | None = None
    frame: int | None = None
    scale: float | None = None
    level: float | None = None
    start: float | None = None
    end: float | None = None
    text: str | None = None
    values: tuple[float, ...] | None = None

    @property
    def key(self) -> str:
        """The key of a prompt that names it, such as `last_image`; its kind where there is none."""
        return prompt_key(self.kind, self.role)

    @property
    def words(self) -> str:
        """How a sentence calls it, such as `still (last)`."""
        return f"{self.kind} ({self.role})" if self.role else self.kind


def read_conditions(rows: Iterable[Mapping[str, Any]] | None) -> tuple[Condition, ...]:
    """The conditions of a take, from its column `conditions`; () where it has none."""
    names = [f.name for f in fields(Condition) if f.name != "kind"]
    return tuple(Condition(kind=str(r["kind"]), **{n: r.get(n) for n in names}) for r in rows or ())
