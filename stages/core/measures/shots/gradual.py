"""What a gradual transition is, and from which evidence on it counts as one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GradualRules:
    """Thresholds of dissolves, wipes and fades. Each entry says what a higher value does: "more" means that more are
    found, false ones included; "fewer" means that some are missed.

    A dissolve is compared with a mixture of the last frame before it and the first one after it; in a wipe, every part
    of the picture switches from one to the other. What the comparison leaves unexplained is a share of the difference
    of the two shots.

    residual      the most that a dissolve may leave unexplained; higher: more dissolves
    switched      the most that a wipe may leave unexplained; higher: more wipes
    front         how ragged the moving border of a wipe may be and still count in its favour, as the share of
                  neighbouring cells that disagree: 0.03 for a straight edge, 0.3 for moving things; higher: more wipes
    novelty       minimum difference of the two shots, small motion forgiven, in grey levels; higher: fewer dissolves
                  and wipes
    full_novelty  difference of the two shots, in grey levels, from which on `residual` and `switched` hold in full;
                  below it less is allowed; higher: fewer dissolves and wipes
    unlike        how unrelated the brightness of the two shots must be, as 1 - correlation; higher: fewer
                  dissolves and wipes
    unchanged     the largest share of the picture that may be the same in both shots; higher: more dissolves
                  and wipes, and more overlays that pass for one
    strength      minimum root mean square difference of the two shots, in grey levels; higher: fewer dissolves and
                  wipes
    evenness      how evenly the change must cover the picture to be trusted in full (0 a few cells, 1 all alike);
                  higher: fewer dissolves and wipes
    drift         how far a transition may deviate from changing at a constant rate, as a root mean square; higher: more
                  dissolves and wipes
    moved         how well motion may explain the frames of a dissolve, as a correlation, before they count as motion.
                  The limit is `moved + 0.17 * (r - 0.5)`, where r is the error that motion leaves, divided by the error
                  that a mixture of frames leaves: 0.5 if motion explains them twice as well; higher: more dissolves,
                  and more camera moves that pass for one
    wipe_moved    likewise for a wipe, whose limit is this value itself; higher: more wipes, and more pans that pass for
                  one
    flat          spread of brightness, in grey levels, below which a frame counts as plain black or white; higher: more
                  fades
    max_s         longest transition that is looked for, in seconds; higher: longer ones are found, and the search is
                  slower
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
