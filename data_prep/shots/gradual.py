"""What a gradual transition is, and from which evidence on it counts as one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GradualRules:
    """Thresholds of gradual transitions; residuals are relative to the difference of the two shots.

    residual      the most that a dissolve may leave unexplained, where the shots differ by `full_novelty` or more
    switched      the most that a wipe may leave unexplained, where the shots differ by `full_novelty` or more
    front         raggedness of a border (share of neighbouring cells that disagree) that speaks neither for nor against
                  a wipe
    novelty       least difference of the two shots, small motion forgiven, in grey levels
    full_novelty  difference from which on the residuals are allowed in full; below it proportionally less
    unlike        how unrelated the luma of both sides must be (1 - correlation)
    unchanged     largest share of the picture that may be the same on both sides
    strength      least root mean square difference of both sides, in grey levels
    evenness      how evenly the change must cover the picture for full trust (0 a few cells, 1 all alike)
    drift         largest root mean square deviation of the mixture's course from a straight line
    moved         how well, as a correlation, motion may lead through a dissolve that it explains half as badly as a
                  mixture does; 0.17 more where it explains it one and a half times as badly, and so on
    wipe_moved    how well motion may lead through a wipe
    flat          spread of luma, in grey levels, below which a frame counts as plain black or white
    max_s         longest transition that is searched for, in seconds
    """

    residual: float = 0.5
    switched: float = 0.25
    front: float = 0.12
    novelty: float = 8.0
    full_novelty: float = 25.0
    unlike: float = 0.25
    unchanged: float = 0.3
    strength: float = 10.0
    evenness: float = 0.35
    drift: float = 0.16
    moved: float = 0.78
    wipe_moved: float = 0.83
    flat: float = 2.5
    max_s: float = 4.0


@dataclass(frozen=True)
class Gradual:
    """First mixed frame, first frame wholly of the new shot, and the strength of evidence (0.5 at the threshold)."""

    first_frame: int
    last_frame: int
    score: float
