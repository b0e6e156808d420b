"""The procedural world: moving shapes with captions, drawn from a seed, so that what a clip shows is known.

    scene = sample_scene(seed)                       # or scene_from_prompt("a red circle moving left", seed)
    frames = render(scene, 256, 256, 33, 16)         # uint8 [33, 256, 256, 3]
    text = caption(scene, numpy.random.default_rng(seed))

The grammar is in configs/world.yaml; `stages.core.measures.world.judge` finds the attributes in pixels again.
"""

from data_prep.world.captions import caption, plain_caption, scene_from_prompt
from data_prep.world.footage import Shot, write_footage
from data_prep.world.rendering import render
from data_prep.world.scene import Scene, Thing, World, default_world, load_world, sample_scene
from stages.core.measures.world.words import Attributes, Vocabulary, mirrored, parse_prompt

__all__ = [
    "Attributes",
    "Scene",
    "Shot",
    "Thing",
    "Vocabulary",
    "World",
    "caption",
    "default_world",
    "load_world",
    "mirrored",
    "parse_prompt",
    "plain_caption",
    "render",
    "sample_scene",
    "scene_from_prompt",
    "write_footage",
]
