"""Scenes of the procedural world: which object does what, where and how fast, drawn from a seed.

Places and radii are in short sides of the frame, from its centre, y down; times are in seconds. So one scene renders at
any size, frame rate and length, and agrees with itself: frame k at 8 fps is frame 2k at 16 fps.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from stages.core.errors import BadInput
from stages.core.measures.world.looks import reach
from stages.core.measures.world.words import ATTRIBUTES, Attributes, Look, Vocabulary

WORLD_FILE = Path(__file__).resolve().parents[2] / "configs" / "world.yaml"
DIRECTIONS = {"moving left": (-1, 0), "moving right": (1, 0), "moving up": (0, -1), "moving down": (0, 1)}
Range = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """The numbers that scenes are drawn from; configs/world.yaml says what each means."""

    duration_s: float
    two_objects: float
    colour_jitter: int
    margin: float
    off_centre: float
    sizes: Mapping[str, Range]
    grown: Range
    growth: Range
    speeds: Mapping[str, Range]
    spins: Mapping[str, Range]


@dataclass(frozen=True)
class World:
    """The grammar: vocabulary, ranges, caption templates, and the combinations held out from training."""

    vocabulary: Vocabulary
    ranges: Ranges
    captions: Mapping[str, Any]
    heldout: tuple[Attributes, ...]

    @cached_property
    def combinations(self) -> tuple[Attributes, ...]:
        """Every valid combination of the four attributes."""
        product = itertools.product(*(self.vocabulary.words(a) for a in ATTRIBUTES))
        return tuple(Attributes(*c) for c in product if self.vocabulary.is_distinct(c[1], c[2]))

    @cached_property
    def train(self) -> tuple[Attributes, ...]:
        """The combinations that training may see."""
        held = set(self.heldout)
        return tuple(c for c in self.combinations if c not in held)

    def split(self, name: str) -> tuple[Attributes, ...]:
        """The combinations of 'train', 'heldout' or 'any'."""
        splits = {"train": self.train, "heldout": self.heldout, "any": self.combinations}
        if name not in splits:
            raise BadInput(f"the world has no split '{name}'; it has {', '.join(splits)}")
        return splits[name]


@dataclass(frozen=True)
class Thing:
    """One object. Its motion takes it from start to end within the scene's duration; spin is in degrees a second."""

    attributes: Attributes
    rgb: tuple[int, int, int]
    start: tuple[float, float]
    end: tuple[float, float]
    radius: tuple[float, float]
    spin: float
    size: str | None
    pace: str | None


@dataclass(frozen=True)
class Scene:
    """One or two things before a background, for as long as anybody renders it."""

    things: tuple[Thing, ...]
    background: str
    background_look: Look
    phase: float
    duration_s: float

    @property
    def attributes(self) -> Attributes:
        """The attributes of the first thing."""
        return self.things[0].attributes


def load_world(path: Path | str = WORLD_FILE) -> World:
    """The world that a YAML file describes. Raises BadInput naming the key that is missing or wrong."""
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError:
        raise BadInput(f"there is no world file {path}") from None
    vocabulary = Vocabulary.of(config)
    scene = config.get("scene") or {}
    if missing := [f.name for f in fields(Ranges) if f.name not in scene]:
        raise BadInput(f"{path}: scene.{missing[0]} is missing")
    heldout = tuple(_held_out(path, row, vocabulary) for row in config.get("heldout") or ())
    return World(vocabulary, Ranges(**scene), config.get("captions") or {}, heldout)


@cache
def default_world() -> World:
    """The world of configs/world.yaml."""
    return load_world()


def _held_out(path: Path | str, row: list[str], vocabulary: Vocabulary) -> Attributes:
    known = len(row) == len(ATTRIBUTES) and all(
        word in vocabulary.words(a) for a, word in zip(ATTRIBUTES, row, strict=True)
    )
    if not known or not vocabulary.is_distinct(row[1], row[2]):
        raise BadInput(f"{path}: heldout row {row} is not a valid [colour, shape, motion, background]")
    return Attributes(*row)


def sample_scene(
    seed: int,
    world: World | None = None,
    *,
    split: str = "train",
    fixed: Attributes | None = None,
    aspect: float = 1.0,
    duration_s: float | None = None,
    two_objects: bool | None = None,
) -> Scene:
    """The scene of a seed; equal arguments give an equal scene.

    split: 'train' (held-out combinations never appear, not as a second object either), 'heldout' or 'any'. fixed:
    sets some attributes of the first object. aspect: width over height that objects may use. duration_s: seconds that
    motions fill (default: the world's). two_objects: None draws it with the world's share. Raises BadInput where the
    split has no combination with these attributes.
    """
    world = world or default_world()
    rng = np.random.default_rng([seed, 0x0C0DE])
    seconds = world.ranges.duration_s if duration_s is None else duration_s
    attributes = _choose(rng, world, split, fixed or Attributes())
    pair = rng.random() < world.ranges.two_objects if two_objects is None else two_objects
    things = _pair(rng, world, split, attributes, aspect, seconds) if pair else ()
    things = things or (_thing(rng, world, attributes, aspect, seconds),)
    background = str(attributes.background)
    return Scene(things, background, world.vocabulary.backgrounds[background], float(rng.random()), seconds)


def _choose(rng: np.random.Generator, world: World, split: str, fixed: Attributes) -> Attributes:
    candidates = world.split(split)
    for a in fixed.named:
        candidates = tuple(c for c in candidates if getattr(c, a) == getattr(fixed, a))
    if not candidates:
        raise BadInput(f"the {split} part of the world has no {' '.join(filter(None, astuple(fixed)))}")
    return candidates[int(rng.integers(len(candidates)))]


def _pair(rng: np.random.Generator, world: World, split: str, first: Attributes, aspect: float, seconds: float) -> Any:
    """Two small things of different colours that never touch; nothing where none fitted in a few tries."""
    for _ in range(40):
        second = _choose(rng, world, split, Attributes(background=first.background))
        if second.colour == first.colour:
            continue
        both = tuple(_thing(rng, world, a, aspect, seconds, small=True) for a in (first, second))
        if _gap(*both) > world.ranges.margin * 2:
            return both
    return ()


def _gap(one: Thing, other: Thing) -> float:
    """The least free space between two things at any time, in short sides."""
    s = np.linspace(0, 1, 21)[:, None]
    between = (1 - s) * np.subtract(one.start, other.start) + s * np.subtract(one.end, other.end)
    extents = sum(_extent(t) for t in (one, other))
    return float(np.linalg.norm(between, axis=1).min() - extents)


def _extent(thing: Thing) -> float:
    return max(thing.radius) * reach(str(thing.attributes.shape))


def _thing(
    rng: np.random.Generator, world: World, what: Attributes, aspect: float, seconds: float, small: bool = False
) -> Thing:
    """An object with these attributes that stays within the frame while it moves."""
    ranges, motion = world.ranges, str(what.motion)
    size = "small" if small else _pick(rng, ranges.sizes)
    pace = _pick(rng, ranges.speeds)
    radius = _radii(rng, ranges, motion, _within(rng, ranges.sizes[size]), small)
    room = _room(aspect, max(radius) * reach(str(what.shape)) + ranges.margin)
    astray = max(room) if small else ranges.off_centre
    start, end, capped = _path(rng, motion, room, _within(rng, ranges.speeds[pace]) * seconds, astray)
    jitter = rng.integers(-ranges.colour_jitter, ranges.colour_jitter + 1, 3)
    rgb = np.clip(np.add(world.vocabulary.colours[str(what.colour)], jitter), 0, 255)
    spin = _within(rng, ranges.spins[pace])
    thing = Thing(what, _ints(rgb), start, end, radius, spin, size, None if capped else pace)
    return _without_unseen_words(replace(thing, spin=spin if motion == "rotating" else 0.0), motion)


def _without_unseen_words(thing: Thing, motion: str) -> Thing:
    """Size and pace words stay only where a viewer could tell them."""
    if motion in ("growing", "shrinking"):
        return replace(thing, size=None, pace=None)
    return replace(thing, pace=None) if motion == "staying still" else thing


def _radii(rng: np.random.Generator, ranges: Ranges, motion: str, radius: float, small: bool) -> tuple[float, float]:
    """The radius at the start and at the end of the motion."""
    if motion not in ("growing", "shrinking"):
        return radius, radius
    low, high = ranges.grown
    growth = _within(rng, ranges.growth)
    least = low if small else _within(rng, (low, high / growth))
    return (least, least * growth) if motion == "growing" else (least * growth, least)


def _room(aspect: float, keep: float) -> tuple[float, float]:
    """How far from the centre an object's centre may be, along x and y."""
    return max(0.0, max(aspect, 1.0) / 2 - keep), max(0.0, max(1 / aspect, 1.0) / 2 - keep)


def _path(
    rng: np.random.Generator, motion: str, room: tuple[float, float], distance: float, astray: float
) -> tuple[tuple[float, float], tuple[float, float], bool]:
    """Start and end of the way, and whether the frame made it shorter than asked. Its middle is at most `astray` from
    the centre along x and y."""
    step = np.array(DIRECTIONS.get(motion, (0, 0)), float)
    free = float(2 * np.abs(step) @ room)
    travel = min(distance, free)
    half = step * travel / 2
    slack = np.clip(np.array(room) - np.abs(half), 0.0, astray)
    middle = rng.uniform(-1, 1, 2) * slack
    return _pair_of(middle - half), _pair_of(middle + half), bool(step.any() and travel < distance)


def _pick(rng: np.random.Generator, words: Mapping[str, Any]) -> str:
    names = list(words)
    return names[int(rng.integers(len(names)))]


def _within(rng: np.random.Generator, limits: Range) -> float:
    return float(rng.uniform(*limits))


def _pair_of(point: Any) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _ints(rgb: Any) -> tuple[int, int, int]:
    return int(rgb[0]), int(rgb[1]), int(rgb[2])
