"""Which clips go into a batch together, and which are kept apart: buckets of like shape, and the split by source.

SQL expressions, as both are worked out for a whole dataset at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.core.errors import BadInput

SPLITS = ("train", "val", "excluded")


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Where one bucket ends and the next begins.

    sides    shorter sides in pixels; a clip is in the class of the largest that it reaches, or under the first
    aspects  aspect ratios as width:height; the nearest one counts
    frames   numbers of frames; the largest that the clip has counts
    fps      frame rates; the nearest one counts
    motion   two mean speeds in picture diagonals a second: below the first is low, from the second on high
    """

    sides: tuple[int, ...] = (144, 240, 360, 480, 540, 720, 1080, 1440, 2160)
    aspects: tuple[str, ...] = ("21:9", "16:9", "3:2", "4:3", "1:1", "3:4", "2:3", "9:16")
    frames: tuple[int, ...] = (1, 17, 33, 49, 65, 81, 97, 121, 161, 241, 321, 481, 721)
    fps: tuple[float, ...] = (8, 10, 12, 15, 24, 25, 30, 50, 60)
    motion: tuple[float, ...] = (0.02, 0.12)

    def __post_init__(self) -> None:
        for name in ("sides", "frames", "fps", "motion"):
            values = list(getattr(self, name))
            if not values or values != sorted(values) or values[0] <= 0:
                raise BadInput(
                    f"publish.buckets.{name} is {values}; it must be a list of numbers above 0, the smallest first"
                )
        if len(self.motion) != 2:
            raise BadInput(
                f"publish.buckets.motion is {list(self.motion)}; it must hold two numbers:"
                " below the first is low, from the second on high"
            )
        if not self.aspects:
            raise BadInput("publish.buckets.aspects is empty; give ratios such as 16:9")
        for text in self.aspects:
            _ratio(text)


def _ratio(text: str) -> float:
    wide, _, high = str(text).partition(":")
    try:
        ratio = float(wide) / float(high)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if ratio <= 0:
        raise BadInput(f"buckets.aspects: {text!r} is not WIDTH:HEIGHT")
    return ratio


def bucket_columns(config: BucketConfig) -> dict[str, str]:
    """Column -> SQL over `width`, `height`, `n_frames`, `fps` and `motion`; `bucket` is all of them in one name."""
    aspects = [(f"{t.replace(':', 'x')}", _ratio(t)) for t in config.aspects]
    parts = {
        "bucket_resolution": _reached("least(width, height)", config.sides, "{}p", "under{}p"),
        "bucket_aspect": _nearest("width / height", aspects),
        "bucket_frames": _reached("n_frames", config.frames, "f{}", "under-f{}"),
        "bucket_fps": _nearest("fps", [(f"{v:g}fps", v) for v in config.fps]),
        "bucket_motion": f"CASE WHEN motion IS NULL THEN 'unknown' WHEN motion < {config.motion[0]} THEN 'low' "
        f"WHEN motion < {config.motion[1]} THEN 'medium' ELSE 'high' END",
    }
    return {**parts, "bucket": " || '_' || ".join(parts)}


def _reached(value: str, limits: Sequence[float], label: str, below: str) -> str:
    """The label of the largest limit that a value reaches; `below` of the first where it reaches none."""
    cases = " ".join(f"WHEN {value} >= {v} THEN '{label.format(v)}'" for v in reversed(limits))
    return f"CASE {cases} ELSE '{below.format(limits[0])}' END"


def _nearest(value: str, choices: Sequence[tuple[str, float]]) -> str:
    """The label whose ratio to the value is nearest to 1."""
    pairs = ", ".join(f"{{'d': abs(ln(greatest({value}, 1e-6) / {v})), 'l': '{label}'}}" for label, v in choices)
    return f"list_min([{pairs}]).l"


def is_validation(source: str, share: float, salt: str) -> str:
    """SQL: whether a source's clips are for validation. A hash of the source alone, so that no other source moves it;
    `salt` must be plain text of the config, without quotes."""
    return f"(md5_number_lower('{salt}/' || {source})::HUGEINT % 1000000) < {round(share * 1_000_000)}"


def share_for(sources: Iterable[str], salt: str) -> float:
    """The least share, in hundredths, with which one of these sources would be for validation."""
    from stages.core.ledger.catalog import connect

    values = ", ".join(f"('{source}')" for source in sources if source.isalnum())
    query = f"SELECT min(md5_number_lower('{salt}/' || s)::HUGEINT % 1000000) FROM (VALUES {values}) AS t(s)"
    least = int(connect().sql(query).fetchall()[0][0])
    return math.ceil((least + 1) / 10_000) / 100


def split_of(share: float, salt: str) -> str:
    """SQL over `source_id` and `copy_sources` (the sources of all copies of the clip): train, val or excluded.

    A source is wholly on one side. A clip on the side of train that has a copy on the side of val is in neither, so
    that nothing of val is trained on, and no clip ever changes from one side to the other.
    """
    linked = f"len(list_filter(copy_sources, lambda s: {is_validation('s', share, salt)})) > 0"
    own = is_validation("source_id", share, salt)
    return f"CASE WHEN {own} THEN 'val' WHEN {linked} THEN 'excluded' ELSE 'train' END"


def excluded_note(clips: int) -> str:
    """A sentence on so many clips that are in neither split; "" for none."""
    if not clips:
        return ""
    are, each = ("1 clip is", "it") if clips == 1 else (f"{clips:,} clips are", "each")
    return f"{are} in neither split: a source in `val` has a copy of {each}, and training must not see that."
