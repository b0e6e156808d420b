"""Captions of scenes in varied wording, and scenes of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.world.scene import Scene, Thing, World, default_world, sample_scene
from stages.core.measures.world.words import parse_prompt

_VOWELS = tuple(f"a {vowel}" for vowel in "aeiou")


def caption(scene: Scene, rng: np.random.Generator, world: World | None = None) -> str:
    """One sentence that is true of the scene, its wording drawn from the world's templates."""
    world = world or default_world()
    plain = rng.random() < world.captions["plain"]
    objects = " and ".join(_object(thing, rng, world, plain) for thing in scene.things)
    background = _word(rng, world.vocabulary.wordings["background"][scene.background], plain)
    return _word(rng, world.captions["scenes"], plain).format(objects=objects, background=background)


def plain_caption(scene: Scene) -> str:
    """'a {colour} {shape} {motion} on a {background} background', for one object or two."""
    things = (t.attributes for t in scene.things)
    objects = " and ".join(f"a {a.colour} {a.shape} {a.motion}" for a in things)
    return f"{objects} on a {scene.background} background"


def scene_from_prompt(
    prompt: str, seed: int, world: World | None = None, *, aspect: float = 1.0, duration_s: float | None = None
) -> Scene:
    """A scene with one object that shows what a prompt says; what it leaves open comes from the seed.

    Raises BadInput for a prompt that names two objects or what the world cannot show.
    """
    world = world or default_world()
    attributes = parse_prompt(prompt, world.vocabulary)
    return sample_scene(
        seed, world, split="any", fixed=attributes, aspect=aspect, duration_s=duration_s, two_objects=False
    )


def _object(thing: Thing, rng: np.random.Generator, world: World, plain: bool) -> str:
    words, what = world.vocabulary.wordings, thing.attributes
    values = {
        "colour": _word(rng, words["colour"][str(what.colour)], plain),
        "shape": _word(rng, words["shape"][str(what.shape)], plain),
        "motion": _word(rng, words["motion"][str(what.motion)], plain),
        "size": thing.size,
        "pace": world.captions["paces"].get(thing.pace),
    }
    unknown = [f"{{{key}}}" for key, value in values.items() if value is None]
    fitting = [t for t in world.captions["objects"] if not any(field in t for field in unknown)]
    article = _word(rng, world.captions["articles"], plain)
    text = _word(rng, fitting, plain).format(a=article, **values)
    return f"an{text[1:]}" if not plain and text[:3] in _VOWELS else text


def _word(rng: np.random.Generator, choices: Sequence[Any], plain: bool) -> str:
    """The first choice where the caption is plain, else any."""
    return str(choices[0] if plain else choices[int(rng.integers(len(choices)))])
