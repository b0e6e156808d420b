"""The words of the procedural world, and what they look like: one shared vocabulary for the renderer and the judge.

`configs/world.yaml` holds the words and numbers; `Vocabulary.of` checks them. `parse_prompt` is the inverse of the
caption grammar: it reads the attributes back out of a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from stages.core.errors import BadInput

ATTRIBUTES = ("colour", "shape", "motion", "background")
PATTERNS = ("plain", "stripes", "gradient")


@dataclass(frozen=True)
class Attributes:
    """What a prompt names or a judge found. None: not named, or not decided."""

    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    background: str | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The attributes that have a value, in the order of ATTRIBUTES."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)


@dataclass(frozen=True)
class Look:
    """How a neutral background looks: grey levels 0..255, `periods` of stripes along the short side of the frame."""

    pattern: str = "plain"
    low: float = 0.0
    high: float = 0.0
    periods: float = 0.0


@dataclass(frozen=True)
class Vocabulary:
    """The words of the world: RGB 0..255 per colour, a look per background, further wordings per word."""

    colours: Mapping[str, tuple[int, int, int]]
    shapes: tuple[str, ...]
    motions: tuple[str, ...]
    backgrounds: Mapping[str, Look]
    wordings: Mapping[str, Mapping[str, tuple[str, ...]]]
    indistinct: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary of a plain mapping (configs/world.yaml, loaded). Raises BadInput naming the faulty key."""
        for key in ("colours", "shapes", "motions", "backgrounds", "rgb", "looks"):
            if key not in config:
                raise BadInput(f"the world has no key '{key}'; configs/world.yaml shows all of them")
        return cls(
            colours={c: _rgb(c, config["rgb"]) for c in config["colours"]},
            shapes=tuple(config["shapes"]),
            motions=tuple(config["motions"]),
            backgrounds={b: _look(b, config["looks"]) for b in config["backgrounds"]},
            wordings=_wordings(config),
            indistinct=tuple((shape, motion) for shape, motion in config.get("indistinct") or ()),
        )

    def words(self, attribute: str) -> tuple[str, ...]:
        """The words of one of ATTRIBUTES."""
        return tuple(getattr(self, attribute + "s"))

    def is_distinct(self, shape: str | None, motion: str | None) -> bool:
        """Whether pixels can show this motion of this shape (nobody sees a circle rotate)."""
        return (shape, motion) not in self.indistinct


def _rgb(colour: str, table: Mapping[str, Any]) -> tuple[int, int, int]:
    value = table.get(colour)
    if value is None or len(value) != 3 or not all(0 <= c <= 255 for c in value):
        raise BadInput(f"rgb.{colour} must be three numbers from 0 to 255, not {value!r}")
    return int(value[0]), int(value[1]), int(value[2])


def _look(background: str, table: Mapping[str, Any]) -> Look:
    value = dict(table.get(background) or {})
    if value.get("pattern") not in PATTERNS or set(value) - {f.name for f in fields(Look)}:
        raise BadInput(
            f"looks.{background} needs a pattern ({', '.join(PATTERNS)}) with low, high, periods; not {value}"
        )
    return Look(**value)


def _wordings(config: Mapping[str, Any]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Each word is its own first wording."""
    extra = config.get("wordings") or {}
    return {a: {w: (w, *(extra.get(a, {}).get(w) or ())) for w in config[a + "s"]} for a in ATTRIBUTES}


def parse_prompt(prompt: str, vocabulary: Vocabulary) -> Attributes:
    """The attributes that a prompt about one object names; words outside the world are passed over.

    Raises BadInput where it names two different words of one attribute (two objects), a background that the world
    does not have, or a motion that its shape cannot show.
    """
    found = Attributes(**{a: _one(prompt, a, vocabulary.wordings[a]) for a in ATTRIBUTES})
    if found.background is None and (stated := re.search(r"\b(\w+) background\b", prompt.lower())):
        known = ", ".join(vocabulary.words("background"))
        raise BadInput(f"'{prompt}': the world has no {stated[1]} background; it has {known}")
    if not vocabulary.is_distinct(found.shape, found.motion):
        raise BadInput(
            f"'{prompt}': a {found.shape} {found.motion} cannot be told apart by its pixels; use another motion"
        )
    return found


def _one(prompt: str, attribute: str, wordings: Mapping[str, tuple[str, ...]]) -> str | None:
    """The one word of an attribute in the prompt; longer wordings win over shorter ones that they contain."""
    meaning = {phrase: word for word, phrases in wordings.items() for phrase in phrases}
    longest_first = sorted(meaning, key=lambda p: (-len(p), p))
    pattern = r"\b(" + "|".join(re.escape(p) for p in longest_first) + r")\b"
    found = {meaning[m] for m in re.findall(pattern, " ".join(prompt.lower().split()))}
    if len(found) > 1:
        raise BadInput(f"'{prompt}' names {len(found)} {attribute}s ({', '.join(sorted(found))}); name one object")
    return found.pop() if found else None


def mirrored(text: str) -> str:
    """The caption of the horizontally flipped clip: left and right change places, in text or in a word of motion."""
    swap = {"left": "right", "right": "left", "leftwards": "rightwards", "rightwards": "leftwards"}
    return re.sub(r"\b(left|right)(wards)?\b", lambda m: swap[m[0]], text)


def without(attributes: Attributes, *names: str) -> Attributes:
    """The same attributes with some of them undecided."""
    return replace(attributes, **dict.fromkeys(names))
