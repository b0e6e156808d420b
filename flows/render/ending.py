"""What a person should know at the end of a render: how many takes have their video, and why the others have none."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

import pyarrow as pa

from flows.words import cause_text, command, counted, look
from stages.core.step import Row

MOST, PROMPT = 5, 60
STATES = (
    ("error", "failed"),
    ("rejected", "not promoted"),
    ("waiting", "waiting for a review"),
    ("skipped", "left out"),
    ("pending", "not finished"),
)


def ending(takes: pa.Table, store: str, pictures: Sequence[str] = (), last: str = "") -> list[str]:
    """Lines about the table `takes` of a render; none where it has no takes. store: its URL; pictures: how each was
    fitted, where it lost or gained something; last: the last stage, where it makes no videos."""
    rows = takes.select(["take_id", "prompt", "seed", "status", "reasons", "error"]).to_pylist()
    if not rows:
        return []
    done = sum(r["status"] == "ok" for r in rows)
    states = {name: [r for r in rows if r["status"] == state] for state, name in STATES}
    others = [f"{len(found):,} {name}" for name, found in states.items() if found]
    verb = ("has a video" if 1 in (done, len(rows)) else "have a video") if not last else f"finished {last}"
    lines = [", ".join([f"{done:,} of {counted(len(rows), 'take')} {verb}", *others])]
    failed = states["failed"]
    lines += [f"  failed: {_name(r)}: {cause_text(r)}" for r in failed[:MOST]]
    lines += [f"  and {len(failed) - MOST:,} more; {look('table takes', store)}"] if len(failed) > MOST else []
    return lines + [f"  {line}" for line in fitted(pictures, store)]


def fitted(pictures: Sequence[str], store: str) -> list[str]:
    """How the first pictures were fitted, how many more there are, and the setting that decides it."""
    if not pictures:
        return []
    left = len(pictures) - MOST
    more = [f"and {left:,} more: the column `note` of {command('table artifacts', store)}"] if left > 0 else []
    return [*pictures[:MOST], *more, "`fit` (crop, pad or stretch) decides how a picture fills the frame"]


def _name(take: Row) -> str:
    return f'"{shorten(take["prompt"], PROMPT, placeholder="…")}", seed {take["seed"]}'
