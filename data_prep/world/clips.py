"""The procedural world as a source of training clips, drawn afresh for every step and never stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.world.captions import caption
from data_prep.world.rendering import corners_at, render
from data_prep.world.scene import Scene, World, load_world, sample_scene
from stages.core.config_files import CONFIGS, nearest
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.measures.world.words import Attributes


@dataclass(frozen=True)
class WorldClip:
    """Frames [F, H, W, 3] uint8 RGB, a caption that is true of them, and the window that shows most of what moves."""

    frames: NDArray[np.uint8]
    caption: str


class WorldClips:
    """Clips by seed. Combinations held out in configs/world.yaml never appear, unless another split is asked for.

    world    file that describes the world
    split    [train, heldout, any] which combinations are drawn
    motions  how often a motion is drawn, such as `{rotating: 5}` for a hard one; those not named have 1

    Raises BadInput for a motion that the world does not have, or a weight below 0.
    """

    def __init__(
        self,
        world: str = str(CONFIGS / "world.yaml"),
        split: str = "train",
        motions: Mapping[str, float] | None = None,
    ) -> None:
        self.world: World = load_world(world)
        self.split = split
        self.weights = _weights(self.world, motions or {})
        weighed = f":{digest(self.weights)[:16]}" if motions else ""
        self.identity = f"world:{split}:{hash_of(self.world)}{weighed}"
        self.length = 0  # without end

    def scene(self, seed: int, bucket: Any) -> Scene:
        """The scene of a seed. It does not depend on size or frame rate, so that sizes of it are pairs."""
        aspect = bucket.width / bucket.height
        return sample_scene(seed, self.world, split=self.split, fixed=self._drawn_motion(seed), aspect=aspect)

    def _drawn_motion(self, seed: int) -> Attributes | None:
        """The motion of a seed, where they are weighed."""
        if not self.weights:
            return None
        shares = np.array([*self.weights.values()])
        drawn = np.random.default_rng([seed, 0x307E]).choice(len(shares), p=shares / shares.sum())
        return Attributes(motion=[*self.weights][drawn])

    def clip(self, seed: int, bucket: Any) -> WorldClip:
        """The clip of a seed in a bucket's size and length, cropped where the bucket says so."""
        scene = self.scene(seed, bucket)
        rng = np.random.default_rng([seed, 0xC11B])
        frames = bucket.crop_frames or bucket.frames
        spare = (bucket.frames - frames) / bucket.fps + bucket.lead_s
        start = float(rng.uniform(0, spare)) if spare else 0.0
        picture = render(scene, bucket.width, bucket.height, frames, bucket.fps, start)
        if bucket.crop:
            x, y = self._window(scene, bucket, rng, start)
            picture = picture[:, y : y + bucket.crop, x : x + bucket.crop]
        return WorldClip(np.ascontiguousarray(picture), caption(scene, rng, self.world))

    def caption(self, seed: int, bucket: Any, rng: np.random.Generator) -> str:
        """Another wording of a clip's caption."""
        return caption(self.scene(seed, bucket), rng, self.world)

    def _window(self, scene: Scene, bucket: Any, rng: np.random.Generator, start_s: float) -> tuple[int, int]:
        """The corner of a window near an edge of the first object, or anywhere in one case of eight."""
        free = np.array([bucket.width, bucket.height]) - bucket.crop
        if rng.random() < 1 / 8:
            corner = rng.integers(0, free + 1)
        else:
            outline = corners_at(scene.things[0], start_s, scene.duration_s)
            point = outline[int(rng.integers(len(outline)))] * min(bucket.width, bucket.height)
            middle = point + np.array([bucket.width, bucket.height]) / 2
            corner = np.clip(middle - bucket.crop * rng.uniform(0.2, 0.8, 2), 0, free).astype(int)
        return int(corner[0]), int(corner[1])


def hash_of(world: World) -> str:
    """A digest of the whole grammar, so that clips encoded from another one are not taken for these."""
    return digest(repr(world))[:16]


def _weights(world: World, motions: Mapping[str, float]) -> dict[str, float]:
    """The weight of every motion; empty without weights: every combination is equally likely then."""
    known = world.vocabulary.words("motion")
    for word, weight in motions.items():
        if word not in known:
            raise BadInput(f"data.args.motions: {word!r} is not a motion of the world; {nearest(word, known)}")
        if not weight >= 0:
            raise BadInput(f"data.args.motions.{word} is {weight}; a weight must be 0 or more")
    weights = {word: float(motions.get(word, 1.0)) for word in known} if motions else {}
    total = sum(weights.values())
    if motions and not 0 < total < math.inf:
        raise BadInput(f"the weights of data.args.motions sum to {total}, which leaves nothing to draw")
    return weights
