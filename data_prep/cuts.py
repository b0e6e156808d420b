"""Where shots begin and end, from the stored signals: no frame is decoded for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages.core.config import nearest, structured
from stages.core.errors import BadInput
from stages.core.step import Row, Step

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
    """One row per transition of a source; see `data_prep.shots` for how they are found."""

    version = 1
    reads = ("analyse",)
    writes = CUTS
    fan_out = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """preset: broadcast or web. rules: single thresholds of `data_prep.shots.ShotConfig` that differ from it."""

        preset: str = "broadcast"
        rules: dict[str, Any] = field(default_factory=dict)

        def __post_init__(self) -> None:
            shot_config(self.preset, self.rules)

    def process(self, row: Row) -> Row:
        """The transitions of one source."""
        from data_prep.shots import find_shots
        from data_prep.signal_store import read_signals

        table = read_signals(self.workspace, row["analyse"], ("pts", "time_s", "signature"))
        shots = find_shots(table, shot_config(self.config.preset, self.config.rules))
        pts, seconds = table.column("pts"), table.column("time_s")
        return {
            "rows": [
                {
                    "source_id": row["id"],
                    "kind": t.kind,
                    "first_frame": t.first_frame,
                    "last_frame": t.last_frame,
                    "start_pts": pts[t.first_frame].as_py(),
                    "end_pts": pts[t.last_frame].as_py(),
                    "start_s": seconds[t.first_frame].as_py(),
                    "end_s": seconds[t.last_frame].as_py(),
                    "score": float(t.score),
                }
                for t in shots.transitions
            ]
        }


def shot_config(preset: str, rules: dict[str, Any]) -> Any:
    """A preset of the detector with single rules replaced. Raises BadInput for an unknown preset or rule."""
    from data_prep.shots import PRESETS, ShotConfig

    if preset not in PRESETS:
        raise BadInput(f"steps.cuts.preset: there is no preset {preset!r}; {nearest(preset, PRESETS)}")
    base = PRESETS[preset]
    import dataclasses

    plain = dataclasses.asdict(base)
    gradual = {**plain.pop("gradual"), **dict(rules.get("gradual") or {})}
    rest = {**plain, **{k: v for k, v in rules.items() if k != "gradual"}}
    return structured(ShotConfig, {**rest, "gradual": gradual}, "steps.cuts.rules")
