"""Find where shots begin and end, from the stored signals. Nothing is decoded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.core.config import structured
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.step import Inputs, Port, Row, Step

TRIM = "trim"
"""The kind of a row that is no transition: frames before a fade-in or after a fade-out, which no clip takes."""

CUTS = pa.schema(
    [
        ("source_id", pa.string()),
        ("kind", pa.string()),
        ("first_frame", pa.int64()),
        ("last_frame", pa.int64()),
        ("start_pts", pa.int64()),
        ("end_pts", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("score", pa.float64()),
    ]
)


class Cuts(Step):
    """One row per transition of a source; see `data_prep.shots.shots` for how they are found."""

    kind = "cuts"
    version = 3
    writes = CUTS
    fan_out = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What counts as a transition.

        preset  [broadcast, web] a set of thresholds; `web` is for hand-held footage
        rules   thresholds that replace those of the preset, by the keys of
                `stages.core.measures.shots.detector.ShotConfig`
        """

        preset: str = "broadcast"
        rules: dict[str, Any] = field(default_factory=dict)

        def __post_init__(self) -> None:
            shot_config(self.preset, self.rules)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The signals of a source."""
        return Inputs(ports={"signals": Port(kind="signals")}, depends=("source_id",))

    def process(self, row: Row) -> Row:
        """The transitions of one source."""
        from data_prep.shots.shots import find_shots
        from data_prep.signals.store import read_signals

        table = read_signals(self.workspace, row["signals"], ("pts", "time_s", "signature"))
        shots = find_shots(table, shot_config(self.config.preset, self.config.rules))
        return {"rows": cut_rows(row["source_id"], shots, table)}


def cut_rows(source_id: str, shots: Any, table: pa.Table) -> list[Row]:
    """The rows of a source's transitions, and of what is trimmed off its ends."""
    transitions = [(t.kind, t.first_frame, t.last_frame, float(t.score)) for t in shots.transitions]
    trims = [(TRIM, 0, shots.first, 1.0), (TRIM, shots.end, table.num_rows, 1.0)]
    times = frame_times(table)
    return [_row(source_id, times, *t) for t in [*transitions, *(t for t in trims if t[2] > t[1])]]


Times = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def frame_times(table: pa.Table) -> Times:
    """When each frame starts, in pts and in seconds [n + 1]; the last entry is when the last one ends."""
    pts, seconds = (np.asarray(table.column(name)) for name in ("pts", "time_s"))
    steps = (pts[-1] - pts[-2], seconds[-1] - seconds[-2]) if len(pts) > 1 else (1, 0.0)
    return np.append(pts, pts[-1] + steps[0]), np.append(seconds, seconds[-1] + steps[1])


def _row(source_id: str, times: Times, kind: str, first: int, last: int, score: float) -> Row:
    pts, seconds = times
    return {
        "source_id": source_id,
        "kind": kind,
        "first_frame": first,
        "last_frame": last,
        "start_pts": int(pts[first]),
        "end_pts": int(pts[last]),
        "start_s": float(seconds[first]),
        "end_s": float(seconds[last]),
        "score": score,
    }


def shot_config(preset: str, rules: dict[str, Any]) -> Any:
    """A preset of the detector with single rules replaced. Raises BadInput for an unknown preset or rule."""
    from stages.core.measures.shots.detector import PRESETS, ShotConfig

    if preset not in PRESETS:
        raise BadInput(f"preset: there is no preset {preset!r}; {nearest(preset, PRESETS)}")
    plain = dataclasses.asdict(PRESETS[preset])
    gradual = {**plain.pop("gradual"), **dict(rules.get("gradual") or {})}
    rest = {**plain, **{k: v for k, v in rules.items() if k != "gradual"}}
    return structured(ShotConfig, {**rest, "gradual": gradual}, "rules")
