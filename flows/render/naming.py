"""Names of delivered files: a template with fields of the take, made safe for every file system, each name once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from string import Formatter
from typing import Any

from flows.words import counted
from stages.core.errors import BadInput
from stages.core.step import Row

LONGEST_WORDS = 60
"""Characters of a text where the template does not say how many."""
LONGEST_PART = 180
"""Bytes of one part of a path, which leaves room for a number and a suffix."""
MOST_SHOWN = 200
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
"""What a template may not hold beside its fields, since some file system does not take it."""
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that mean a device to Windows."""

FIELDS: dict[str, Callable[[Row, Mapping[str, str]], Any]] = {
    "campaign": lambda take, about: take.get("campaign") or "",
    "position": lambda take, about: int(take.get("position") or 0) + 1,
    "seed": lambda take, about: take["seed"],
    "prompt": lambda take, about: take["prompt"],
    "negative_prompt": lambda take, about: take.get("negative_prompt") or "",
    "take_id": lambda take, about: take.get("take_id") or take["id"],
    "tags": lambda take, about: "-".join(take.get("tags") or ()),
    "guidance": lambda take, about: f"{take['guidance']:g}" if take.get("guidance") is not None else "",
    "model": lambda take, about: about.get("model", ""),
    "cascade": lambda take, about: about.get("cascade", ""),
}
"""What a template may name. `position` is the place of the take in its campaign, counted from 1."""
SAMPLE: Row = {"campaign": "c", "seed": 1, "prompt": "p", "id": "0" * 32, "position": 0, "guidance": 1.0}


def export_name(take: Row, suffix: str = ".mp4") -> str:
    """The name where there is no template: words of the prompt, the seed, and the beginning of the take's id. No run,
    no time.

    take is a row of `videos`, or a take of a campaign (whose id is in `id`).
    """
    words = re.sub(r"[^a-z0-9]+", "-", take["prompt"].lower()).strip("-")[:60].strip("-")
    return f"{words or 'take'}-s{take['seed']}-{(take.get('take_id') or take['id'])[:8]}{suffix}"


def check_template(template: str) -> None:
    """Refuse a template that names what takes do not have, or whose files might lie outside the folder. Raises BadInput
    whose message begins with the setting."""
    parts = template.split("/")
    if template.startswith(("/", "~")) or any(part.strip(" .") == "" for part in parts):
        raise BadInput(f"name is {template!r}, and it must stay in the folder: no empty part, no `.`, no `..`, no root")
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise BadInput(f"name is {template!r}, and its braces do not fit: {error}") from None
    for literal, field, spec, conversion in pieces:
        if found := FORBIDDEN.search(literal):
            raise BadInput(f"name is {template!r}, and {found[0]!r} cannot be in the name of a file everywhere")
        if field is None:
            continue
        if field not in FIELDS:
            raise BadInput(f"name has the unknown field {field!r}; known: {', '.join(FIELDS)}")
        if conversion or "{" in (spec or ""):
            raise BadInput(f"name: {{{field}}} takes a width such as {{position:04}} or {{prompt:.20}}, nothing else")
        try:
            shown = format(FIELDS[field](SAMPLE, {}), spec or "")
        except (ValueError, OverflowError, MemoryError) as error:
            raise BadInput(f"name: {{{field}:{spec}}} cannot be written: {error}") from None
        if len(shown) > MOST_SHOWN:
            raise BadInput(f"name: {{{field}:{spec}}} has {len(shown)} characters; at most {MOST_SHOWN} fit")


def filled(template: str, take: Row, about: Mapping[str, str]) -> str:
    """The name of one take, without a suffix: every part of it is a safe name."""
    whole = ""
    for literal, field, spec, _ in Formatter().parse(template):
        whole += literal
        if field is not None:
            value = FIELDS[field](take, about)
            whole += _words(format(value, spec) if spec else str(value)[: LONGEST_WORDS * 4], bool(spec))
    return "/".join(map(_part, whole.split("/")))


def _words(text: str, whole: bool) -> str:
    """A value as words: letters and digits of any script, and few signs; everything else is a hyphen."""
    plain = re.sub(r"[^\w.+=,@-]+|_{2,}", "-", unicodedata.normalize("NFC", text)).strip("-.")
    return plain if whole else plain[:LONGEST_WORDS].strip("-.")


def _part(text: str) -> str:
    """One part of a path: not hidden, not empty, no name of a device, not too long."""
    cut = text.encode()[:LONGEST_PART].decode(errors="ignore").strip(" .") or "none"
    return f"{cut}_" if DEVICES.fullmatch(cut) else cut


def names_of(
    template: str,
    suffix: str,
    takes: Iterable[Row],
    about: Mapping[str, str],
    index: Mapping[str, Mapping[str, Any]],
    taken: Collection[str] = (),
) -> dict[str, str]:
    """Id of each take -> its name in the folder.

    Where a template gives a name twice, the later takes get `-2`, `-3` and so on. A name that the index has for another
    take is passed over likewise; a take that has a name there keeps it. Without a template names differ by themselves.
    """
    if not template:
        return {_id(take): export_name(take, suffix) for take in takes}
    stem = template.removesuffix(suffix) if suffix else template
    owners = {_same(name): str(entry.get("take_id", "")) for name, entry in index.items()}
    owners |= {_same(name): "" for name in taken}
    names: dict[str, str] = {}
    following: dict[str, int] = {}
    for take in takes:
        base, own = filled(stem, take, about), _id(take)
        number = following.get(_same(base), 1)
        while owners.get(_same(name := _numbered(base, number) + suffix), own) != own:
            number += 1
        following[_same(base)] = number
        owners[_same(name)] = own
        names[own] = name
    return names


def _numbered(base: str, number: int) -> str:
    return base if number == 1 else f"{base}-{number}"


def _id(take: Row) -> str:
    return str(take.get("take_id") or take["id"])


def _same(name: str) -> str:
    """What names have in common that are one to some file system."""
    return unicodedata.normalize("NFC", name).casefold()


def numbered_text(template: str, takes: Sequence[Row], about: Mapping[str, str]) -> str:
    """What is said where a template gives one name to several takes; "" where it does not."""
    if not template:
        return ""
    found: dict[str, list[str]] = {}
    for take in takes:
        name = filled(template, take, about)
        found.setdefault(_same(name), []).append(name)
    shared = [names for names in found.values() if len(names) > 1]
    if not shared:
        return ""
    many = sum(map(len, shared))
    return (
        f"deliver.name gives {counted(many, 'take')} a name that others have, such as {shared[0][0]!r}: they are "
        f"numbered, -2, -3 and so on; {{seed}} or {{take_id:.8}} in it tells them apart"
    )
