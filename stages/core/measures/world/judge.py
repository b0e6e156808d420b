"""The judge of the procedural world: what a clip shows, found in its pixels, and how often prompts were met.

It refuses (None) rather than guesses: where no compact object of one colour stands out, where quarters of the clip
contradict each other, where no template, background or single motion fits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import BadInput
from stages.core.measures.world.background import MAX_NOISE, grain, name_background
from stages.core.measures.world.motion import GROWTH, Track, name_motion
from stages.core.measures.world.object import Floats, Sighting, find_object, working_frames
from stages.core.measures.world.shape import MIN_OBJECT, name_shape, shape_scores, steady_colour, turned
from stages.core.measures.world.words import ATTRIBUTES, Attributes, Vocabulary

QUARTERS = 4
MIN_PRESENT = 0.6  # share of frames in which an object must be seen
WHOLE_AT_BORDER = 0.98  # likeness from which an object that touches the border is not cut by it: a corner's circle .972
RESIZED = float(np.log(1.3))  # of the radius between the first and the last quarter
REFUSED = "none"


@dataclass(frozen=True)
class Verdict:
    """What a clip shows. None means refused: not there, not of this world, or not decided.

    quarters: the same for each quarter of the clip by itself. changes: of 'colour', 'shape', 'vanished', 'resized'
    (the object's size changed although no growing or shrinking is wanted, or found where nothing is wanted). objects:
    how many there are. right: for each attribute that the prompt names whether it was found; empty without a prompt.
    """

    found: Attributes
    quarters: tuple[Attributes, ...]
    changes: tuple[str, ...]
    objects: int
    right: dict[str, bool]

    @property
    def all(self) -> bool:
        """Whether every attribute that the prompt names is right; False where it names none."""
        return bool(self.right) and all(self.right.values())

    @property
    def same_object(self) -> bool:
        """Whether every quarter shows an object of the one colour and shape."""
        pairs = {(q.colour, q.shape) for q in self.quarters}
        return len(pairs) == 1 and None not in next(iter(pairs))


def judge(frames: NDArray[np.uint8], fps: float, wanted: Attributes | None, vocabulary: Vocabulary) -> Verdict:
    """What a clip shows, and whether that is what was wanted. What is found does not depend on what is wanted.

    frames: uint8 RGB [F, H, W, 3]. Raises BadInput for another form, fewer than 4 frames, or no positive rate.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise BadInput(f"the judge needs uint8 frames [F, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    if len(frames) < QUARTERS or min(frames.shape[1:3]) < 16 or fps <= 0:
        raise BadInput(f"the judge needs 4 frames of 16x16 or more, fps above 0; not {list(frames.shape)} at {fps}")
    clip = _look_at(frames, fps, vocabulary)
    quarters = tuple(_judge_part(clip, *span, vocabulary, 1 / QUARTERS) for span in quarter_spans(len(frames)))
    found = _agreed(_judge_part(clip, 0, len(frames) - 1, vocabulary, 1.0), quarters)
    wanted = wanted or Attributes()
    return Verdict(
        found=found,
        quarters=quarters,
        changes=_changes(clip, quarters, wanted.motion or found.motion),
        objects=_count(clip),
        right={a: getattr(found, a) == getattr(wanted, a) for a in wanted.named},
    )


def quarter_spans(n_frames: int) -> list[tuple[int, int]]:
    """First and last frame of each quarter, both included; neighbours share a frame."""
    ends = [round(i * (n_frames - 1) / QUARTERS) for i in range(QUARTERS + 1)]
    return list(pairwise(ends))


@dataclass(frozen=True)
class _Clip:
    """Everything measured on single frames."""

    seen: list[Sighting | None]
    scores: Floats  # [F, shapes], nan where nothing is seen whole
    backgrounds: list[str | None]
    track: Track


def _look_at(frames: NDArray[np.uint8], fps: float, vocabulary: Vocabulary) -> _Clip:
    seen: list[Sighting | None] = []
    backgrounds: list[str | None] = []
    last: Sighting | None = None
    for raw, frame in zip(frames, working_frames(frames), strict=True):
        clean = grain(raw) <= MAX_NOISE
        sighting = find_object(frame, last) if clean else None
        hidden = np.zeros(frame.shape[:2], bool) if sighting is None else sighting.region
        backgrounds.append(name_background(frame, hidden, vocabulary) if clean else None)
        seen.append(sighting)
        last = sighting or last
    scores = _scores(seen, vocabulary.shapes)
    return _Clip(seen, scores, backgrounds, _track(seen, scores, fps, vocabulary.shapes))


def _scores(seen: Sequence[Sighting | None], shapes: tuple[str, ...]) -> Floats:
    scores = np.full((len(seen), len(shapes)), np.nan, np.float32)
    found = [i for i, s in enumerate(seen) if s is not None]
    if found:
        scores[found] = shape_scores(np.stack([s.patch for s in seen if s is not None]), shapes)
    cut = [s is not None and s.clipped and score.max() < WHOLE_AT_BORDER for s, score in zip(seen, scores, strict=True)]
    scores[cut] = np.nan
    return scores


def _track(seen: Sequence[Sighting | None], scores: Floats, fps: float, shapes: tuple[str, ...]) -> Track:
    def series(of: Any) -> NDArray[np.float64]:
        return np.array([np.nan if s is None else of(s) for s in seen], np.float64)

    turn = np.full(len(seen), np.nan)
    whole = np.asarray(np.isfinite(scores).all(axis=1))
    if whole.any():
        shape = shapes[int(scores[whole].mean(axis=0).argmax())]
        patches = np.stack([s.patch for s, w in zip(seen, whole, strict=True) if s is not None and w])
        turn[whole] = turned(patches, shape)
    radius = np.where(whole, series(lambda s: np.log(s.area) / 2), np.nan)
    return Track(np.arange(len(seen)) / fps, series(lambda s: s.x), series(lambda s: s.y), radius, turn)


def _judge_part(clip: _Clip, first: int, last: int, vocabulary: Vocabulary, share: float) -> Attributes:
    """The attributes of the frames first..last by themselves."""
    part = slice(first, last + 1)
    scores = clip.scores[part]
    scores = scores[np.isfinite(scores).all(axis=1)]
    seen = [s for s in clip.seen[part] if s is not None]
    background = _common(clip.backgrounds[part], 0.75)
    formless = not len(scores) or scores.max(axis=1).mean() < MIN_OBJECT
    if len(seen) < MIN_PRESENT * (last + 1 - first) or formless:
        return Attributes(background=background)
    return Attributes(
        colour=steady_colour(seen, vocabulary),
        shape=name_shape(scores, vocabulary.shapes),
        motion=name_motion(clip.track.part(first, last), share),
        background=background,
    )


def _common(words: Sequence[str | None], share: float) -> str | None:
    """The word that at least this share of the frames agree on."""
    word, count = Counter(words).most_common(1)[0]
    return word if count >= share * len(words) else None


def _agreed(whole: Attributes, quarters: Sequence[Attributes]) -> Attributes:
    """The clip's attributes where its quarters bear them out.

    Colour, shape and background hold if no quarter shows another and three show them; a motion holds if at most one
    quarter shows another; an object that is gone for a quarter has no motion.
    """
    kept = {a: getattr(whole, a) for a in ATTRIBUTES}
    for a in ("colour", "shape", "background"):
        others = [getattr(q, a) for q in quarters]
        if any(o not in (None, kept[a]) for o in others) or others.count(kept[a]) < QUARTERS - 1:
            kept[a] = None
    at_odds = sum(q.motion not in (None, whole.motion) for q in quarters)
    if at_odds > 1 or any(q.colour is None and q.shape is None for q in quarters):
        kept["motion"] = None
    return Attributes(**kept)


def _changes(clip: _Clip, quarters: Sequence[Attributes], motion: str | None) -> tuple[str, ...]:
    """What happened to the object's identity over the clip."""
    changes = [a for a in ("colour", "shape") if len({getattr(q, a) for q in quarters} - {None}) > 1]
    spans = quarter_spans(len(clip.seen))
    present = [any(s is not None for s in clip.seen[a : b + 1]) for a, b in spans]
    visible = [_visible(clip, a, b) for a, b in spans]
    if any(present) and min(visible) < MIN_PRESENT:
        changes.append("vanished")
    sizes = [np.nanmedian(r) for a, b in spans if np.isfinite(r := clip.track.log_radius[a : b + 1]).any()]
    if motion not in ("growing", "shrinking") and sizes and max(sizes) - min(sizes) > max(RESIZED, GROWTH):
        changes.append("resized")
    return tuple(changes)


def _visible(clip: _Clip, first: int, last: int) -> float:
    return sum(s is not None for s in clip.seen[first : last + 1]) / (last + 1 - first)


def _count(clip: _Clip) -> int:
    """The usual number of objects in a frame."""
    return int(np.median([0 if s is None else 1 + s.others for s in clip.seen]))


def accuracy(verdicts: Iterable[Verdict]) -> dict[str, float | None]:
    """Shares of clips with each attribute right, of those whose prompt names it, and `all`; None without any."""
    verdicts = list(verdicts)
    shares: dict[str, float | None] = {}
    for a in ATTRIBUTES:
        asked = [v.right[a] for v in verdicts if a in v.right]
        shares[a] = sum(asked) / len(asked) if asked else None
    named = [v.all for v in verdicts if v.right]
    return shares | {"all": sum(named) / len(named) if named else None}


def confusions(pairs: Iterable[tuple[Attributes, Verdict]]) -> dict[str, dict[str, dict[str, int]]]:
    """Per attribute and wanted word how often each word was found ('none': refused). pairs: wanted, verdict."""
    table: dict[str, dict[str, dict[str, int]]] = {a: {} for a in ATTRIBUTES}
    for wanted, verdict in pairs:
        for a in wanted.named:
            row = table[a].setdefault(getattr(wanted, a), {})
            found = getattr(verdict.found, a) or REFUSED
            row[found] = row.get(found, 0) + 1
    return table
