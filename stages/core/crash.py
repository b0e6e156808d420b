"""Named points at which a fault test kills the process. Without RUSHES_CRASH in the environment they do nothing.

RUSHES_CRASH="before_commit:3" sends SIGKILL to the process when it reaches that point for the third time.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

POINTS = ("before_move", "mid_move", "after_move", "before_commit", "after_commit", "before_delete")

_reached: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get("RUSHES_CRASH")
    if not wanted:
        return
    point, _, times = wanted.partition(":")
    if point == name:
        _reached[name] += 1
        if _reached[name] >= int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)
