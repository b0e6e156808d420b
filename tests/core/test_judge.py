"""The judge of the procedural world: right on truth, robust to what a decoder does, and refusing what is not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.world import Scene, default_world, render, sample_scene, scene_from_prompt
from stages.core.errors import BadInput
from stages.core.measures.world.judge import Verdict, accuracy, confusions, judge, quarter_spans
from stages.core.measures.world.words import ATTRIBUTES, Attributes, parse_prompt

Frames = NDArray[np.uint8]
Spoil = Callable[[Frames, np.random.Generator], Frames]
WORDS = default_world().vocabulary
SMALL, LARGE = (128, 128, 17, 8), (256, 256, 33, 16)


def to_bytes(frames: Any) -> Frames:
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def blurred(frames: Frames, rng: np.random.Generator, sigma: float = 2.5) -> Frames:
    return np.stack([cv2.GaussianBlur(f, (0, 0), sigma * frames.shape[1] / 128) for f in frames])


def noisy(frames: Frames, rng: np.random.Generator, spread: float = 18) -> Frames:
    return to_bytes(frames + rng.normal(0, spread, frames.shape))


def quantised(frames: Frames, rng: np.random.Generator, quality: int = 20) -> Frames:
    coded = (cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for f in frames)
    return np.stack([np.asarray(cv2.imdecode(c, cv2.IMREAD_COLOR)) for c in coded])


def cast(frames: Frames, rng: np.random.Generator) -> Frames:
    return to_bytes(frames * rng.uniform(0.88, 1.12, 3) + rng.uniform(-14, 14, 3))


def decoded(frames: Frames, rng: np.random.Generator) -> Frames:
    """All at once and smeared over time, as a mediocre video autoencoder does."""
    smeared = frames.astype(np.float32)
    smeared[1:-1] = (smeared[:-2] + 2 * smeared[1:-1] + smeared[2:]) / 4
    return quantised(noisy(blurred(cast(to_bytes(smeared), rng), rng, 1.5), rng, 10), rng, 40)


SPOILS: dict[str, Spoil] = {
    "blurred": blurred,
    "noisy": noisy,
    "quantised": quantised,
    "cast": cast,
    "decoded": decoded,
}


def judged(n: int, size: tuple[int, int, int, int], spoil: Spoil | None = None) -> list[tuple[Attributes, Verdict]]:
    """Verdicts on n scenes of any combination, each with its truth as the prompt."""
    pairs = []
    for seed in range(n):
        scene = sample_scene(seed + 10_000, split="any", two_objects=False)
        frames = render(scene, *size)
        frames = spoil(frames, np.random.default_rng(seed)) if spoil else frames
        pairs.append((scene.attributes, judge(frames, size[3], scene.attributes, WORDS)))
    return pairs


def assert_right(pairs: list[tuple[Attributes, Verdict]], least: float) -> None:
    """Every attribute right in at least this share of clips, and another word than the true one in at most 0.02."""
    shares = accuracy(verdict for _, verdict in pairs)
    assert all((shares[a] or 0) >= least for a in (*ATTRIBUTES, "all")), (shares, confusions(pairs))
    for a in ATTRIBUTES:
        wrong = sum(getattr(v.found, a) not in (None, getattr(truth, a)) for truth, v in pairs)
        assert wrong <= 0.02 * len(pairs), (a, wrong, confusions(pairs))


@pytest.mark.parametrize(("size", "n"), [(SMALL, 16), (LARGE, 4)])
def test_rendered_truth_is_found(size: tuple[int, int, int, int], n: int) -> None:
    pairs = judged(n, size)
    assert_right(pairs, 0.99)
    assert not [v.changes for _, v in pairs if v.changes]


@pytest.mark.parametrize("name", SPOILS)
def test_spoiled_renders_are_still_read(name: str) -> None:
    assert_right(judged(6, SMALL, SPOILS[name]), 0.8)


@pytest.mark.soak
@pytest.mark.parametrize(("size", "n"), [(SMALL, 600), (LARGE, 200)])
def test_rendered_truth_is_found_at_length(size: tuple[int, int, int, int], n: int) -> None:
    assert_right(judged(n, size), 0.99)


@pytest.mark.soak
@pytest.mark.parametrize(("size", "n"), [(SMALL, 200), (LARGE, 60)])
@pytest.mark.parametrize("name", SPOILS)
def test_spoiled_renders_are_still_read_at_length(name: str, size: tuple[int, int, int, int], n: int) -> None:
    assert_right(judged(n, size, SPOILS[name]), 0.97)


def upscaled(cells: NDArray[Any], side: int) -> Frames:
    size = (side, side)
    return np.stack([to_bytes(cv2.resize(c.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)) for c in cells])


def noises(rng: np.random.Generator) -> Iterator[tuple[str, Frames]]:
    """Noise of many kinds [17, H, W, 3]: white and coarse, moving and frozen, coloured and grey, hard and soft."""
    for side in (128, 256):
        yield f"white {side}", rng.integers(0, 256, (17, side, side, 3)).astype(np.uint8)
    yield "white, frozen", np.repeat(rng.integers(0, 256, (1, 128, 128, 3)).astype(np.uint8), 17, axis=0)
    yield "white, grey", np.repeat(rng.integers(0, 256, (17, 128, 128, 1)).astype(np.uint8), 3, axis=3)
    yield "normal", to_bytes(rng.normal(128, 45, (17, 128, 128, 3)))
    for cells in (4, 8, 32):
        moving = rng.integers(0, 256, (17, cells, cells, 3))
        yield f"{cells} cells", upscaled(moving, 128)
        yield f"{cells} cells, frozen", upscaled(np.repeat(moving[:1], 17, axis=0), 128)
        yield f"{cells} soft cells, frozen", upscaled(np.repeat(moving[:1] * 0.6 + 50, 17, axis=0), 128)


def accepted_on_noise(n: int) -> Counter[tuple[str, str]]:
    found = Counter[tuple[str, str]]()
    for seed in range(n):
        for name, frames in noises(np.random.default_rng(seed)):
            found.update((a, name) for a in judge(frames, 8, None, WORDS).found.named)
    return found


def test_noise_shows_nothing() -> None:
    assert not accepted_on_noise(1)


@pytest.mark.soak
def test_noise_shows_nothing_at_length() -> None:
    found = accepted_on_noise(50)
    assert all(count <= 0.02 * 50 for count in found.values()), found


@pytest.mark.parametrize("spread", [0, 8])
def test_plain_grey_shows_a_grey_background_and_no_object(spread: float) -> None:
    frames = noisy(np.full((17, 128, 128, 3), 128, np.uint8), np.random.default_rng(0), spread)
    wanted = Attributes("red", "circle", "staying still", "grey")
    verdict = judge(frames, 8, wanted, WORDS)
    assert verdict.found == Attributes(background="grey")
    assert verdict.right == {"colour": False, "shape": False, "motion": False, "background": True}
    assert not verdict.all


def frozen_motions(n: int, spread: float) -> list[tuple[str | None, Verdict]]:
    verdicts = []
    for seed in range(n):
        scene = sample_scene(seed + 20_000, split="any", two_objects=False)
        frames = np.repeat(render(scene, 128, 128, 1, 8, start_s=seed % 17 / 8), 17, axis=0)
        frames = noisy(frames, np.random.default_rng(seed), spread)
        verdicts.append((scene.attributes.motion, judge(frames, 8, scene.attributes, WORDS)))
    return verdicts


@pytest.mark.parametrize("spread", [0, 8])
def test_a_frozen_video_moves_only_where_stillness_is_asked(spread: float) -> None:
    for motion, verdict in frozen_motions(8, spread):
        assert verdict.right["motion"] == (motion == "staying still")


@pytest.mark.soak
def test_a_frozen_video_moves_only_where_stillness_is_asked_at_length() -> None:
    wrong = [m for m, v in frozen_motions(400, 10) if v.right["motion"] != (m == "staying still")]
    assert len(wrong) <= 0.02 * 400, wrong


def test_a_prompt_that_differs_in_one_attribute_is_right_in_the_others_only() -> None:
    truth = Attributes("red", "star", "moving left", "striped")
    frames = render(scene_from_prompt("a red star moving left on a striped background", 1), *SMALL)
    for a in ATTRIBUTES:
        for word in set(WORDS.words(a)) - {getattr(truth, a)}:
            verdict = judge(frames[::4], 2, replace(truth, **{a: word}), WORDS)
            assert verdict.right == {b: b != a for b in ATTRIBUTES}


RED = scene_from_prompt("a red circle staying still on a black background", 1)


def altered(scene: Scene = RED, **changes: Any) -> Frames:
    return render(replace(scene, things=(replace(scene.things[0], **changes),)), *SMALL)


def spliced(first: Frames, second: Frames, at: int = 9) -> Verdict:
    return judge(np.concatenate([first[:at], second[at:]]), 8, None, WORDS)


def test_an_object_that_changes_colour_or_shape_is_no_one_object() -> None:
    red = altered()
    blue = spliced(red, altered(rgb=WORDS.colours["blue"]))
    assert (blue.found.colour, blue.found.shape, blue.changes) == (None, "circle", ("colour",))
    assert [q.colour for q in blue.quarters] == ["red", "red", "blue", "blue"]
    star = spliced(red, altered(attributes=replace(RED.attributes, shape="star")))
    assert (star.found.colour, star.found.shape, star.changes) == ("red", None, ("shape",))
    assert not blue.same_object
    assert not star.same_object
    assert spliced(red, red).same_object


@pytest.mark.parametrize("at", [5, 9, 13])
def test_an_object_that_vanishes_or_comes_late_shows_as_such(at: int) -> None:
    empty = render(replace(RED, things=()), *SMALL)
    for verdict in (spliced(altered(), empty, at), spliced(empty, altered(), at)):
        assert verdict.changes == ("vanished",)
        assert verdict.found.motion is None
        assert verdict.found.background == "black"
        assert Attributes(background="black") in verdict.quarters


def against_the_border(shape: str, over: float) -> Verdict:
    """A shape at the left border, `over` of the frame's side beyond the place where a circle would touch it."""
    place = (-(0.5 - 0.15 + over), 0.0)
    attributes = replace(RED.attributes, shape=shape)
    return judge(altered(attributes=attributes, start=place, end=place, radius=(0.15, 0.15)), 8, None, WORDS)


TOUCHING = {"circle": 0.0, "square": 0.02, "triangle": -0.02, "star": -0.01, "cross": -0.02}


@pytest.mark.parametrize(("shape", "over"), TOUCHING.items())
def test_an_object_that_leans_on_the_border_is_seen_and_a_cut_one_is_never_another(shape: str, over: float) -> None:
    verdict = against_the_border(shape, over)
    assert (verdict.found, verdict.same_object) == (Attributes("red", shape, "staying still", "black"), True)
    assert {against_the_border(shape, over).found.shape for over in (0.03, 0.06, 0.1, 0.2)} <= {shape, None}
    assert against_the_border(shape, 0.2).found.shape is None


def test_a_size_that_changes_unasked_shows_as_such() -> None:
    grows = altered(start=(-0.2, 0.0), end=(0.2, 0.0), radius=(0.15, 0.22))
    verdict = judge(grows, 8, Attributes("red", "circle", "moving right"), WORDS)
    assert verdict.changes == ("resized",)
    assert verdict.right == {"colour": True, "shape": True, "motion": False}
    asked = judge(altered(radius=(0.12, 0.22)), 8, Attributes(motion="growing"), WORDS)
    assert (asked.all, asked.changes) == (True, ())


def test_a_motion_that_is_left_behind_shows_in_the_quarters() -> None:
    moving = render(scene_from_prompt("a red square moving left on a white background", 2), *SMALL)
    stops = spliced(moving, np.repeat(moving[8:9], 17, axis=0))
    assert [q.motion for q in stops.quarters] == ["moving left"] * 2 + ["staying still"] * 2
    turns = spliced(moving, moving[::-1])
    assert [q.motion for q in turns.quarters] == ["moving left"] * 2 + ["moving right"] * 2
    assert stops.found.motion is turns.found.motion is None


@pytest.mark.parametrize(
    "changes",
    [
        {"start": (-0.2, -0.2), "end": (0.2, 0.2)},
        {"start": (-0.2, 0.0), "end": (0.2, 0.0), "radius": (0.1, 0.2)},
        {"start": (-0.02, 0.0), "end": (0.04, 0.0)},
    ],
    ids=["diagonal", "moving and growing", "barely moving"],
)
def test_motions_outside_the_world_are_refused(changes: dict[str, Any]) -> None:
    assert judge(altered(**changes), 8, None, WORDS).found.motion is None


def test_a_shape_and_a_background_outside_the_world_are_refused() -> None:
    frames = np.full((17, 128, 128, 3), (20, 40, 150), np.uint8)
    for frame in frames:
        cv2.rectangle(frame, (20, 55), (105, 72), WORDS.colours["red"], -1)
    assert judge(frames, 8, None, WORDS).found == Attributes()
    for frame in frames:
        cv2.circle(frame, (64, 64), 40, WORDS.colours["red"], -1, cv2.LINE_AA)
    assert judge(frames, 8, None, WORDS).found == Attributes("red", "circle", "staying still")


@pytest.mark.parametrize(("width", "height"), [(192, 96), (96, 160), (64, 64)])
def test_other_sizes_and_rates_are_judged_alike(width: int, height: int) -> None:
    prompt = "a blue triangle moving up on a striped background"
    frames = render(scene_from_prompt(prompt, 5, aspect=width / height), width, height, 25, 12)
    assert judge(frames, 12, parse_prompt(prompt, WORDS), WORDS).all


def test_only_named_attributes_count() -> None:
    asked = [parse_prompt(p, WORDS) for p in ("a red circle", "a blue circle", "a bird")]
    verdicts = [judge(altered(), 8, wanted, WORDS) for wanted in asked]
    assert [v.all for v in verdicts] == [True, False, False]
    assert accuracy(verdicts) == {"colour": 0.5, "shape": 1.0, "motion": None, "background": None, "all": 0.5}
    table = confusions(zip(asked, verdicts, strict=True))
    assert table["colour"] == {"red": {"red": 1}, "blue": {"red": 1}}


def test_two_objects_are_counted() -> None:
    scene = next(s for s in (sample_scene(i, two_objects=True) for i in range(9)) if len(s.things) == 2)
    assert judge(render(scene, *SMALL), 8, None, WORDS).objects == 2


def test_quarters_cover_every_frame() -> None:
    assert quarter_spans(17) == [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert [quarter_spans(n)[-1][1] for n in range(4, 50)] == [n - 1 for n in range(4, 50)]


@pytest.mark.parametrize("shape", [(17, 128, 128), (3, 128, 128, 3), (17, 8, 128, 3)])
def test_what_is_no_clip_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="the judge needs"):
        judge(np.zeros(shape, np.uint8), 8, None, WORDS)
