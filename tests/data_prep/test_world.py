"""The procedural world: its grammar, its pictures, its captions, and its way into files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from data_prep.world import (
    Attributes,
    caption,
    default_world,
    load_world,
    mirrored,
    parse_prompt,
    plain_caption,
    render,
    sample_scene,
    scene_from_prompt,
    write_footage,
)
from data_prep.world.scene import WORLD_FILE
from stages.core.errors import BadInput
from stages.core.measures.world.words import ATTRIBUTES
from stages.core.media import read_frames

WORLD = default_world()
WORDS = WORLD.vocabulary
seeds = st.integers(0, 2**63 - 1)


def values(combos: tuple[Attributes, ...], names: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(getattr(c, n) for n in names) for c in combos)


def test_the_vocabulary_is_as_large_as_promised() -> None:
    config: Any = OmegaConf.load(WORLD_FILE)
    for key, least in {"colours": 8, "shapes": 5, "motions": 8, "backgrounds": 5}.items():
        assert len(set(config[key])) == len(config[key]) >= least
    assert {"red", "green", "blue"} <= set(WORDS.colours)
    assert {"circle", "square", "star"} <= set(WORDS.shapes)
    assert {"moving left", "moving right", "growing", "shrinking", "rotating", "staying still"} <= set(WORDS.motions)
    assert all(len(row) == 4 for row in config.heldout)


def test_held_out_combinations_are_a_tenth_and_leave_every_value_to_training() -> None:
    assert len(set(WORLD.heldout)) == len(WORLD.heldout) >= 200
    assert len(WORLD.heldout) >= 0.1 * len(WORLD.combinations)
    assert set(WORLD.heldout).isdisjoint(WORLD.train)
    for name in ATTRIBUTES:
        assert set(values(WORLD.heldout, (name,))) == {(w,) for w in WORDS.words(name)}
    for pair in combinations(ATTRIBUTES, 2):
        left, whole = values(WORLD.train, pair), values(WORLD.combinations, pair)
        assert all(left[key] >= 0.8 * whole[key] for key in whole), pair


def test_nobody_is_asked_to_see_a_circle_rotate() -> None:
    assert not any(c.shape == "circle" and c.motion == "rotating" for c in WORLD.combinations)
    with pytest.raises(BadInput, match="circle rotating"):
        scene_from_prompt("a red circle rotating on a black background", 0)


def test_training_scenes_never_show_a_held_out_combination() -> None:
    held = set(WORLD.heldout)
    things = [t for seed in range(1000) for t in sample_scene(seed).things]
    assert len(things) > 1000 + 600 * WORLD.ranges.two_objects, "two objects appear too seldom"
    assert not [t for t in things if t.attributes in held]
    assert {t.attributes.motion for t in things} == set(WORDS.motions)
    assert all(sample_scene(seed, split="heldout").attributes in held for seed in range(100))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_every_caption_says_what_its_scene_shows(seed: int) -> None:
    scene = sample_scene(seed, two_objects=False)
    found = parse_prompt(caption(scene, np.random.default_rng(seed)), WORDS)
    assert {"colour", "shape", "motion"} <= set(found.named)
    assert all(getattr(found, a) == getattr(scene.attributes, a) for a in found.named)


def test_every_combination_has_its_plain_prompt_with_and_without_background() -> None:
    for c in WORLD.combinations:
        prompt = f"a {c.colour} {c.shape} {c.motion}"
        assert parse_prompt(f"{prompt} on a {c.background} background", WORDS) == c
        assert parse_prompt(prompt, WORDS) == Attributes(c.colour, c.shape, c.motion)


def test_captions_vary_and_an_open_background_comes_from_the_seed() -> None:
    scene = sample_scene(3, two_objects=False)
    assert len({caption(scene, np.random.default_rng(i)) for i in range(60)}) >= 25
    assert parse_prompt(plain_caption(scene), WORDS) == scene.attributes
    scenes = [scene_from_prompt("A red circle, moving to the LEFT", seed) for seed in range(40)]
    assert {s.background for s in scenes} == set(WORDS.backgrounds)
    assert {(s.attributes.colour, s.attributes.motion, len(s.things)) for s in scenes} == {("red", "moving left", 1)}


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("a red circle and a blue square on a black background", "names 2 colours"),
        ("a red circle moving left and moving right", "names 2 motions"),
        ("a red circle growing on a tartan background", "no tartan background; it has black"),
    ],
)
def test_prompts_that_no_single_object_can_meet_are_refused(prompt: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        scene_from_prompt(prompt, 0)


def test_flipped_captions_swap_left_and_right() -> None:
    assert mirrored("a red star moving left, leftover") == "a red star moving right, leftover"
    for motion in WORDS.motions:
        assert mirrored(mirrored(motion)) == motion


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (render(sample_scene(s), 96, 64, 5, 8) for s in (11, 11, 12))
    assert first.shape == (5, 64, 96, 3)
    assert first.dtype == np.uint8
    assert first.tobytes() == again.tobytes() != other.tobytes()


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_a_scene_agrees_with_itself_at_another_rate_size_and_start(seed: int) -> None:
    scene = sample_scene(seed)
    slow, fast = render(scene, 64, 64, 5, 8), render(scene, 64, 64, 9, 16)
    assert np.array_equal(slow, fast[::2])
    assert np.array_equal(slow[2:], render(scene, 64, 64, 3, 8, start_s=0.25))
    large = render(scene, 128, 128, 5, 8)
    shrunk = np.stack([cv2.resize(f, (64, 64), interpolation=cv2.INTER_AREA) for f in large])
    assert np.abs(shrunk.astype(int) - slow).mean() < 1.0


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([0.5, 1.0, 16 / 9]))
def test_objects_stay_within_the_frame(seed: int, aspect: float) -> None:
    """The border of every frame shows background alone, which is grey."""
    scene = sample_scene(seed, aspect=aspect, duration_s=2.0)
    width, height = (round(80 * aspect), 80) if aspect > 1 else (80, round(80 / aspect))
    for frame in render(scene, width, height, 6, 2.5).astype(int):
        border = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
        assert np.ptp(border, axis=1).max() == 0


@given(seed=seeds)
def test_a_single_object_comes_through_the_middle(seed: int) -> None:
    for thing in sample_scene(seed, two_objects=False).things:
        middle = np.add(thing.start, thing.end) / 2
        assert np.abs(middle).max() <= WORLD.ranges.off_centre + 1e-9


def test_motions_fill_the_duration_and_rest_afterwards() -> None:
    scene = scene_from_prompt("a red square moving left on a white background", 4)
    frames = render(scene, 64, 64, 30, 8)
    assert all((frames[k] != frames[k + 1]).any() for k in range(16))
    assert all((frames[k] == frames[k + 1]).all() for k in range(16, 29))


def test_edges_are_anti_aliased() -> None:
    scene = scene_from_prompt("a red circle staying still on a black background", 4)
    reds = np.unique(render(scene, 64, 64, 1, 8)[0, ..., 0])
    assert len(reds) >= 10, "an edge without steps between black and red"


def test_two_objects_differ_in_colour_and_never_touch() -> None:
    pairs = [s for s in (sample_scene(i, two_objects=True) for i in range(40)) if len(s.things) == 2]
    assert len(pairs) >= 25
    for scene in pairs:
        assert len({t.attributes.colour for t in scene.things}) == 2
        for frame in render(scene, 64, 64, 3, 1).astype(np.int16):
            coloured = (np.ptp(frame, axis=2) > 20).astype(np.uint8)
            assert cv2.connectedComponents(coloured)[0] == 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"colours": ["red", "mauve"]}, "rgb.mauve"),
        ({"looks": {"black": {"pattern": "tartan"}}}, "looks.black"),
        ({"heldout": [["red", "circle", "rotating", "black"]]}, "heldout row"),
        ({"heldout": [["red", "circle"]]}, "heldout row"),
        ({"scene": {"duration_s": 2}}, r"scene\.two_objects is missing"),
    ],
)
def test_a_broken_world_file_is_refused_by_name(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(WORLD_FILE))
    assert isinstance(config, dict)
    OmegaConf.save(OmegaConf.create(config | change), tmp_path / "world.yaml")
    with pytest.raises(BadInput, match=complaint):
        load_world(tmp_path / "world.yaml")


def test_footage_is_video_with_cuts_where_its_tables_say(tmp_path: Path) -> None:
    shots = write_footage(tmp_path / "a", 1, 3, 5, size=(96, 64), fps=12, seconds=(0.5, 0.9))
    frames = read_frames(tmp_path / "a" / shots[0].uri).astype(int)
    assert len(frames) == shots[-1].end_frame
    jumps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert set(np.flatnonzero(jumps > 15) + 1) == {s.start_frame for s in shots[1:]}
    rows = list(csv.DictReader((tmp_path / "a" / "manifest.csv").open()))
    assert [c["text"] for c in json.loads(rows[0]["captions"])] == [s.caption for s in shots]
    write_footage(tmp_path / "b", 1, 3, 5, size=(96, 64), fps=12, seconds=(0.5, 0.9))
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_footage_with_odd_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="even sizes"):
        write_footage(tmp_path, 1, 1, 0, size=(97, 64))
