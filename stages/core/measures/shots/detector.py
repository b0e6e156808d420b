"""The detector: transitions within a stretch of signatures, without a file and without decoding.

    shots = find_in(signatures, picture_cells(signatures), fps, PRESETS["broadcast"])

Hard cuts come first (a peak of the cut signal), then fades (a flat black or white frame with a ramp beside it), then
dissolves and wipes in what lies between (two models of a mixture, see `stages.core.measures.mixing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from stages.core.measures.mixing import mixture, unlikeness
from stages.core.measures.registration import CHANGED, kept_share, light_likeness, motion_likeness, rank_likeness
from stages.core.measures.shots.dissolves import find_mixtures
from stages.core.measures.shots.fades import find_fades
from stages.core.measures.shots.gradual import GradualRules
from stages.core.measures.signature import F32, LUMA, U8, Novelty, cut_distance, pictures, plane_weights

_LIGHT = 0.93  # coloured light explains 0.97 of what it changes and more, the next shot 0.85 at the most
_LEFT = 0.25  # the most that motion may leave of the difference that it explains
_FULL_CONTRAST = 16.0  # spread of luma from which on a picture counts as lit


@dataclass(frozen=True, kw_only=True)
class ShotConfig:
    """Thresholds of the detector of cuts, dissolves, wipes and fades. Each entry gives the effect of a higher value:
    "more" means that more are found, false ones included; "fewer" means that some are missed.

    cut_floor  minimum cut signal of a hard cut, in grey levels; higher: fewer cuts (`rushes table frames` has the
               signal)
    cut_ratio  how many times the cut signal of a hard cut must exceed that of the frames around it, to which 2 grey
               levels are added; higher: fewer cuts
    flash_s    seconds within which the old picture must be back for a change to be a flash and no cut; higher: fewer
               false cuts at flashes, and very short shots are missed
    moved      how well motion may explain the new picture from the old one, as a correlation, before it is no cut;
               higher: more cuts
    relit      how well a change of light may explain the new picture, as a rank correlation, before it is no cut;
               higher: more cuts
    kept       share of the lines and edges in the picture that may stay the same before it is an overlay and no cut;
               higher: more cuts
    gradual    thresholds of dissolves, wipes and fades
    """

    cut_floor: float = 6.0
    cut_ratio: float = 2.5
    flash_s: float = 0.125
    moved: float = 0.93
    relit: float = 0.92
    kept: float = 0.58
    gradual: GradualRules = field(default_factory=GradualRules)


PRESETS = {
    "broadcast": ShotConfig(),
    "web": ShotConfig(cut_ratio=3.0, flash_s=0.2, gradual=GradualRules(residual=0.35, novelty=12.0, max_s=2.0)),
}
"""`broadcast` for edited film and television; `web` for hand-held and effect-laden clips: it needs clearer evidence."""


@dataclass(frozen=True)
class Transition:
    """From one shot to the next, in frames counted from 0 in presentation order.

    kind is cut, dissolve, fade or wipe. A cut has both frames at the first frame of the new shot; a gradual transition
    its first mixed frame and the first frame wholly of the new shot. score is the strength of evidence, 0.5 at the
    threshold and towards 1 above it.
    """

    kind: str
    first_frame: int
    last_frame: int
    score: float


@dataclass(frozen=True)
class Shots:
    """Transitions in order, and the picture proper: frames [first, end) with no fade-in or fade-out at the ends."""

    transitions: tuple[Transition, ...]
    first: int
    end: int


def cut_signals(signatures: U8, cells: np.ndarray, fps: float, config: ShotConfig) -> tuple[Novelty, np.ndarray, int]:
    """How new frames are, their cut signal [n], and how many frames a flash may take."""
    span = max(4, int(np.ceil(config.flash_s * fps)))
    novelty = Novelty(signatures, plane_weights(cells))
    return novelty, cut_distance(novelty, span) * dark_gain(signatures, cells), span


def find_in(signatures: U8, cells: np.ndarray, fps: float, config: ShotConfig) -> Shots:
    """The transitions within one stretch of signatures [n, 864]; `cells` says which cells are picture."""
    novelty, signal, span = cut_signals(signatures, cells, fps, config)
    gain = dark_gain(signatures, cells)
    cuts = find_cuts(signal, signatures, cells, config)
    cuts = {c: s for c, s in cuts.items() if not _stays(signatures, cells, c, float(gain[c]), config)}
    cuts = without_flashes(cuts, novelty, span, config)
    plain = find_fades(signatures, cells, sorted(cuts), fps, config.gradual)
    for at, score in plain.cuts.items():
        if not any(abs(at - c) <= 2 for c in cuts):
            cuts[at] = score
    bounds, spans = (plain.first, plain.end), [(f.first_frame, f.last_frame) for f in plain.fades]
    cuts = {c: s for c, s in cuts.items() if bounds[0] < c < bounds[1] and not any(a < c < b for a, b in spans)}
    transitions = [Transition("cut", c, c, s) for c, s in cuts.items()]
    transitions += [Transition("fade", f.first_frame, f.last_frame, f.score) for f in plain.fades]
    taken = sorted([(c, c) for c in cuts] + spans)
    for kind, mix in find_mixtures(signatures, cells, taken, bounds, fps, config.gradual):
        transitions.append(Transition(kind, mix.first_frame, mix.last_frame, mix.score))
    return Shots(tuple(sorted(transitions, key=lambda t: t.first_frame)), *bounds)


def find_cuts(signal: np.ndarray, signatures: U8, cells: np.ndarray, config: ShotConfig) -> dict[int, float]:
    """First frames of new shots by hard cut -> score, where the cut signal [n] stands alone above its surroundings."""
    cuts: dict[int, float] = {}
    for t in np.flatnonzero(signal >= config.cut_floor):
        if int(t) - 1 in cuts:
            continue
        ratio = prominence(signal, int(t), 1)
        if ratio < config.cut_ratio and _is_blended(signal, signatures[:, cells], int(t)):
            ratio = prominence(signal, int(t), 2)
        if ratio >= config.cut_ratio:
            cuts[int(t)] = round(ratio / (ratio + config.cut_ratio), 4)
    return cuts


def dark_gain(signatures: U8, cells: np.ndarray) -> np.ndarray:
    """By how much the cut signal of each frame is raised, 1 to 3: in low light everything differs by little."""
    contrast = signatures[:, :LUMA][:, cells[:LUMA]].std(1)
    reach = min(8, len(contrast) - 1)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(contrast, reach, mode="edge"), 2 * reach + 1)
    return np.asarray(np.clip(_FULL_CONTRAST / np.maximum(windows.max(1), 1e-3), 1.0, 3.0))


def _stays(signatures: U8, cells: np.ndarray, t: int, gain: float, config: ShotConfig) -> bool:
    """Whether frame t shows the same shot as the one before, whatever the cut signal says."""
    before, after = pictures(signatures, cells, [t - 1, t])
    light = light_likeness(signatures[t - 1], signatures[t], cells)
    return light > _LIGHT or is_same_shot(before, after, gain, config)


def is_same_shot(before: F32, after: F32, gain: float, config: ShotConfig) -> bool:
    """Whether two neighbouring pictures [rows, columns] differ by light, by an overlay or by motion alone.

    `gain` is that of `dark_gain`: in low light less counts as a change.
    """
    luma = before.reshape(1, -1), after.reshape(1, -1)
    if unlikeness(*luma)[0] < 0.03 or kept_share(before, after, CHANGED / min(gain, 1.5)) > config.kept:
        return True
    if rank_likeness(before, after) > config.relit:
        return True
    moved, still = motion_likeness(before, after)
    return moved > config.moved and 1 - moved < _LEFT * (1 - still)


def without_flashes(cuts: dict[int, float], novelty: Novelty, span: int, config: ShotConfig) -> dict[int, float]:
    """Drops pairs of cuts at most `span` frames apart where what follows is no newer than motion makes it."""
    kept, at = dict(cuts), sorted(cuts)
    for first, second in pairwise(at):
        lag, last = second - first + 1, len(novelty) - 1
        if lag > span + 1 or first not in kept:
            continue
        a = np.array([first - 1, max(0, first - 1 - lag), second])
        across, before, after = novelty(a, np.array([second, first - 1, min(last, second + lag)]))
        if across < config.cut_ratio * (2.0 + max(before, after)):
            kept.pop(first), kept.pop(second)
    return kept


def prominence(signal: np.ndarray, t: int, width: int) -> float:
    """How many times the peak at t (`width` frames wide) stands above its neighbours and its wider surroundings."""
    before, after = signal[max(0, t - 8) : t], signal[t + width : t + width + 8]
    around = np.concatenate([before, after])
    wide = np.quantile(around, 0.8) if len(around) else 0.0
    near = max(before[-2:].max(initial=0.0), after[:2].max(initial=0.0))
    return float(signal[t : t + width].max() / (2.0 + max(wide, near)))


def _is_blended(signal: np.ndarray, pictures: U8, t: int) -> bool:
    """Whether frame t is a mixture of its neighbours: a cut that a change of frame rate has blended."""
    if t < 1 or t + 1 >= len(signal) or signal[t + 1] < 0.4 * signal[t]:
        return False
    a, m, b = (pictures[i].astype(np.float32) for i in (t - 1, t, t + 1))
    mix = mixture(a, b, m[None])
    return bool(mix.residual[0] < 0.3 and 0.1 < mix.alpha[0] < 0.9)
