"""What a prompt may say. Every prompt of a campaign is checked before the first one runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from flows.render.columns import plain_name as plain_name
from stages.core.conditions import KINDS
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.fitting import FITS
from stages.core.media import HIGHEST_FPS
from stages.core.text_tables import PADDING

LONGEST_PROMPT = 128 * 1024
"""Bytes of UTF-8."""
MOST_SEEDS = 10_000
LARGEST_SEED = 2**63 - 1
SHOWN_FAULTS = 20
NUMBER = re.compile(r"\s*[+-]?([0-9]+|(?=\.[0-9]))(?P<part>(\.[0-9]*)?([eE][+-]?[0-9]+)?)\s*")
LONGEST_NUMBER = 100
CONTROL = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
"""Control characters but tabs and line ends, and halves of surrogate pairs."""
CONTROL_KEYS = ("signal", "video", "footage", "scale", "start", "end")


@dataclass(frozen=True)
class Entry:
    """One prompt as somebody wrote it.

    place    where it stands, such as `prompts.csv, line 7`
    values   its raw values by name; no value is None, NaN or an empty cell
    folder   the folder or URL from which its relative paths count
    fault    why it could not be read at all, "" where it could
    """

    place: str
    values: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    fault: str = ""


def as_entry(place: str, value: Any, folder: str = "") -> Entry:
    """A text, or a mapping with keys, as an entry. What is neither becomes an entry with a fault."""
    if isinstance(value, str):
        return Entry(place, {"prompt": value}, folder)
    if not isinstance(value, Mapping):
        return Entry(place, {}, folder, f"a prompt is a text, or a mapping with the key `prompt`, not {_short(value)}")
    names = [plain_name(key) for key in value]
    if "prompt" not in names and (text := next((key for key in value if _is_prompt(key)), "")):
        return Entry(place, {}, folder, f"put quotes around a prompt that holds a colon: {f'{text}: {value[text]}'!r}")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        return Entry(place, {}, folder, f"the key {twice[0]!r} occurs twice")
    return Entry(place, {n: v for n, v in zip(names, value.values(), strict=True) if not _is_none(v)}, folder)


def check_all(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """The checked values of each entry, in order. Raises one BadInput that names the place of every bad one."""
    found: list[dict[str, Any]] = []
    faults: list[str] = []
    for entry in entries:
        try:
            found.append(checked(entry))
        except BadInput as bad:
            faults.append(str(bad))
    if faults:
        raise_faults(faults, len(faults) + len(found))
    return found


def checked(entry: Entry) -> dict[str, Any]:
    """The checked values of one entry. Raises BadInput that names its place."""
    if entry.fault:
        raise BadInput(f"{entry.place}: {entry.fault}")
    return check_entry(entry.place, entry.values)


def raise_faults(faults: list[str], of: int) -> None:
    """One BadInput for many faults: the first of them, and how many more there are."""
    if len(faults) == 1:
        raise BadInput(faults[0])
    more = len(faults) - SHOWN_FAULTS
    lines = [f"{len(faults)} of {of} prompts cannot be used:", *faults[:SHOWN_FAULTS]]
    raise BadInput("\n".join(lines + ([f"and {more} more"] if more > 0 else [])))


def check_entry(place: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one prompt, checked and in their types; keys without a value are left out.

    prompt           [text, up to 128 KiB] the prompt; required, without control characters
    negative_prompt  [text, up to 128 KiB] what the video should not show
    seed             [0 to 2^63 - 1] a single seed; not together with `seeds`
    seeds            [1 to 10000, or a list of seeds] how many takes, or their seeds
    tags             [list of texts, or a text with commas] for your own use; they change nothing in the video
    image            [path] a picture that the clip begins with
    last_image       [path] a picture that the clip ends with
    keyframes        [frame to path] pictures that the clip shows at single frames
    references       [path, or a list of paths] pictures of things (people, objects) that appear somewhere in the clip
    video            [path] a video to start from, with noise of the level `level`, or to change inside `mask`
    level            [above 0, below 1] how much noise is added to `video` first; a higher level keeps less of it
    mask             [path] a video that is white where `video` may change
    control          [SIGNAL:path, or a mapping with signal, video or footage, scale, start, end] a video that the clip
                     follows, or footage to make it from
    fit              [crop, pad or stretch] how a picture of another aspect ratio fills the frame: with its sides cut
                     off, with black bars, or out of proportion
    width            [1 to 16384] pixels of what `base` makes
    height           [1 to 16384] pixels of what `base` makes
    frames           [1 to 1000000] frames of what `base` makes
    fps              [above 0 to 1000] frames a second at playback
    guidance         [0 to 10000] scale of classifier-free guidance in `base`; values up to 1 switch it off
    longer           [1 to 1000] how many times as long as one clip of `base` the video is
    priority         [-1000000 to 1000000] takes with a higher number are rendered first

    Raises BadInput with the place and every fault of this prompt.
    """
    kept: dict[str, Any] = {}
    faults: list[str] = []
    for key, value in values.items():
        try:
            if key not in CHECKS:
                raise ValueError(f"unknown key {key!r}; {nearest(str(key), CHECKS)}")
            found = None if value is None else CHECKS[key](value)
        except ValueError as error:
            faults.append(str(error) if key not in CHECKS else f"{key} {error}")
        else:
            kept |= {} if found is None else {key: found}
    if "prompt" not in kept and not any(fault.startswith("prompt ") for fault in faults):
        faults.insert(0, "there is no prompt")
    if {"seed", "seeds"} <= set(kept):
        faults.append("give `seed` (one seed) or `seeds` (a count or a list), not both")
    if faults:
        raise BadInput(f"{place}: {'; '.join(faults)}")
    return kept


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip(PADDING))


def _is_prompt(key: Any) -> bool:
    """Whether a key is the beginning of a prompt, which YAML has taken for a key because of a colon."""
    return isinstance(key, str) and " " in key.strip(PADDING) and plain_name(key) not in CHECKS


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | Decimal) and math.isnan(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Any) -> str | None:
    """A text; a number as it is written, because spreadsheets take `0` for a number. None for NaN."""
    if _is_nan(value):
        return None
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        whole = _as_whole(value)
        value = str(value if whole is None else whole)
    if not isinstance(value, str):
        raise ValueError(f"must be a text, not {_short(value)}")
    text = value.strip(PADDING)
    if found := CONTROL.search(text):
        what = "half of a surrogate pair" if "\ud800" <= found[0] <= "\udfff" else "the control character"
        raise ValueError(f"holds {what} U+{ord(found[0]):04X}; remove it")
    if (size := len(text.encode())) > LONGEST_PROMPT:
        raise ValueError(f"has {size} bytes; at most {LONGEST_PROMPT} are allowed")
    return text or None


def _number(value: Any) -> int | float:
    """A finite number, also one that is written as a text."""
    number: Any = value
    if isinstance(value, str):
        written = NUMBER.fullmatch(value) if len(value) <= LONGEST_NUMBER else None
        number = (float if written["part"] else int)(value) if written else None  # None is refused below
    elif isinstance(value, Decimal):
        number = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(_as_float(number)):
        raise ValueError(f"must be a number, not {_short(value)}")
    return number


def _as_float(number: int | float) -> float:
    """Infinity for a whole number that no float can hold."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _as_whole(number: int | float | Decimal) -> int | None:
    """The same as a whole number where it is one: a column with gaps holds 7 as 7.0."""
    if isinstance(number, int):
        return number
    whole = math.isfinite(number) and number == int(number)
    return int(number) if whole and -(2**53) < number < 2**53 else None


def _whole(lowest: int, highest: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        whole = _as_whole(_number(value))
        if whole is None or not lowest <= whole <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {_power(highest)}, not {_short(value)}")
        return whole

    return check


def _power(number: int) -> str:
    return "2**63 - 1" if number == LARGEST_SEED else str(number)


def _between(lowest: float, highest: float, open_below: bool = False) -> Callable[[Any], int | float]:
    def check(value: Any) -> int | float:
        number = _number(value)
        if not lowest <= number <= highest or (open_below and number == lowest):
            low = f"over {lowest:g} and at most" if open_below else f"from {lowest:g} to"
            raise ValueError(f"must be {low} {highest:g}, it is {_short(value)}")
        return number

    return check


def _seed(value: Any) -> int | None:
    if _is_nan(value):
        return None
    if isinstance(value, list | tuple) or (isinstance(value, str) and re.search(r"[,;\[]", value)):
        raise ValueError(f"is one seed, not {_short(value)}; write several as `seeds`")
    return _seed_number(value)


def _seed_number(value: Any) -> int:
    """A spreadsheet that writes 1.23E+12 has lost digits, so that it would be another seed."""
    if isinstance(value, str) and NUMBER.fullmatch(value) and "e" in value.lower():
        raise ValueError(f"must be written with all its digits, not as {_short(value)}")
    return _whole(0, LARGEST_SEED)(value)


def _seeds(value: Any) -> int | list[int] | None:
    if _is_nan(value):
        return None
    if isinstance(value, str) and re.search(r"[,;\[\]]", value):
        inner = re.fullmatch(r"\s*\[?([^\[\]]*?)[,;]?\s*\]?\s*", value)
        value = re.split(r"[,;]", inner[1]) if inner else ()
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("must be a count, or seeds such as 1, 2, 3")
        return [_seed_number(seed) for seed in value]
    count = _seed_number(value)
    if not 1 <= count <= MOST_SEEDS:
        raise ValueError(f"is a count from 1 to {MOST_SEEDS}, it is {count}; write one seed as `seed: {count}`")
    return count


def _fit(value: Any) -> str | None:
    if _is_nan(value):
        return None
    if (word := str(value).strip(PADDING).lower()) not in FITS:
        raise ValueError(f"must be one of {', '.join(FITS)}, not {_short(value)}")
    return word


def _level(value: Any) -> float | None:
    if _is_nan(value):
        return None
    number = _number(value)
    if not 0 < number < 1:
        raise ValueError(f"must be above 0 and below 1, it is {_short(value)}")
    return float(number)


def _keyframes(value: Any) -> list[tuple[int, str]] | None:
    if not isinstance(value, Mapping):
        raise ValueError(f"must name frames and pictures, such as {{16: picture.png}}, not {_short(value)}")
    found = {_whole(0, 999_999)(frame): _text(place) for frame, place in value.items()}
    return [(frame, place) for frame, place in sorted(found.items()) if place]


def _references(value: Any) -> list[str] | None:
    if _is_nan(value):
        return None
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"must be a path or a list of paths, not {_short(value)}")
    checked = [_text(place) for place in ([value] if isinstance(value, str) else value)]
    return list(dict.fromkeys(place for place in checked if place))


def _control(value: Any) -> dict[str, Any] | None:
    if _is_nan(value):
        return None
    signals = ", ".join(KINDS["control"])
    if isinstance(value, str):
        signal, colon, path = value.partition(":")
        value = {"signal": signal.strip(), "video": path.strip()} if colon else {"signal": "", "video": signal}
    if not isinstance(value, Mapping) or not (value.get("video") or value.get("footage")):
        raise ValueError(f"must name a signal and a video, such as edges:control.mp4, not {_short(value)}")
    if unknown := [key for key in value if key not in CONTROL_KEYS]:
        raise ValueError(f"has the unknown key {unknown[0]!r}; {nearest(str(unknown[0]), CONTROL_KEYS)}")
    if value.get("video") and value.get("footage"):
        raise ValueError("names a `video` of the signal and `footage` to make it from: leave one out")
    if value.get("signal") not in KINDS["control"]:
        raise ValueError(f"must begin with its signal, one of {signals}, such as edges:control.mp4")
    medium = "video" if value.get("video") else "footage"
    found: dict[str, Any] = {"signal": value["signal"], medium: _text(value[medium])}
    for key, highest in (("scale", 100.0), ("start", 1.0), ("end", 1.0)):
        if value.get(key) is not None:
            found[key] = _between(0, highest)(value[key])
    if found.get("start", 0.0) >= found.get("end", 1.0):
        raise ValueError("must start before it ends: start below end")
    return found


def _tags(value: Any) -> list[str] | None:
    if _is_nan(value):
        return None
    if not isinstance(value, str | list | tuple) or not all(isinstance(tag, str) for tag in value):
        raise ValueError(f"must be a text or a list of texts, not {_short(value)}")
    checked = [_text(tag) for tag in (value.split(",") if isinstance(value, str) else value)]
    return list(dict.fromkeys(tag for tag in checked if tag))


CHECKS: dict[str, Callable[[Any], Any]] = {
    "prompt": _text,
    "negative_prompt": _text,
    "seed": _seed,
    "seeds": _seeds,
    "tags": _tags,
    "image": _text,
    "last_image": _text,
    "keyframes": _keyframes,
    "references": _references,
    "video": _text,
    "level": _level,
    "mask": _text,
    "control": _control,
    "fit": _fit,
    "width": _whole(1, 16384),
    "height": _whole(1, 16384),
    "frames": _whole(1, 1_000_000),
    "fps": _between(0, HIGHEST_FPS, open_below=True),
    "guidance": _between(0, 10_000),
    "longer": _whole(1, 1000),
    "priority": _whole(-1_000_000, 1_000_000),
}
"""What a prompt may hold: the check of each key returns the value in its type, or None where there is none."""
