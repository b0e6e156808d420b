"""What the pass over each source measured on every frame, from the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from data_prep.shots.cuts import shot_config
from data_prep.signals.store import read_signals
from stages.core.planning.survey import Survey
from stages.core.step import Row, Workspace

SIGNALS = ("frame", "pts", "time_s", "keyframe", "luma", "contrast", "black", "change")
MORE = ("speed", "static", "pan", "tilt", "zoom", "roll", "sharpness", "blockiness")
BARS = ("bar_top", "bar_bottom", "bar_left", "bar_right")


def signals_of(survey: Survey, row: Row, columns: tuple[str, ...]) -> Any:
    """Columns of the signals of a source; row: its `signals_uri`."""
    return read_signals(Workspace(survey.catalog.storage), {"uri": row["signals_uri"]}, columns)


def frames_of_sources(survey: Survey, sources: Iterable[Row]) -> Iterator[tuple[str, str, pa.Table]]:
    """(source_id, uri, a row per frame) of sources (`source_id`, `uri`, `signals_uri`).

    Columns are those of `data_prep.signals.frames.FRAMES`; `cut_signal` is what cuts are found by, in grey levels.
    """
    from data_prep.shots.shots import cut_signal

    config = _detector(survey)
    for row in sources:
        table = signals_of(survey, row, (*SIGNALS, *MORE, *BARS, "signature"))
        signal = pa.array(cut_signal(table, config))
        table = table.drop_columns(["signature"]).append_column("cut_signal", signal)
        for name in ("uri", "source_id"):
            table = table.add_column(0, name, pa.array([row[name]] * table.num_rows, pa.string()))
        yield row["source_id"], row["uri"], table


def _detector(survey: Survey) -> Any:
    """The settings by which this run looked for cuts."""
    for node in survey.plan.of_kind("cuts"):
        config = json.loads(node.config)
        if "preset" in config:
            return shot_config(config["preset"], config.get("rules") or {})
    return None
