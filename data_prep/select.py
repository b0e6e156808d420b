"""Decide which clips pass: stored scores are compared with every threshold, and every failure is recorded.

A threshold is `{min:, max:, exclude: [...]}` under the metric's name. A score that was not measured fails nothing.
Nothing is measured here, so another threshold costs this job alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.step import REASON, Inputs, Job, Port

SOURCE_METRICS = {
    "width": "display_width",
    "height": "display_height",
    "short_side": "least(display_width, display_height)",
    "aspect": "display_width / nullif(display_height, 0)",
    "bitrate": "nullif(bitrate, 0)",
    "bits_per_pixel": "bitrate / nullif(width * height * fps, 0)",
    "fps": "nullif(fps, 0)",
    "interlaced": "interlaced::INTEGER",
    "vfr": "is_vfr::INTEGER",
    "has_audio": "has_audio::INTEGER",
}
"""Metrics of the whole source, and what they are made of, as SQL over its columns."""
SOURCE_COLUMNS = (
    "display_width", "display_height", "width", "height", "bitrate", "fps", "interlaced", "is_vfr", "has_audio",
)  # fmt: skip
CLIP_METRICS = {"duration_s": "c.end_s - c.start_s", "n_frames": "c.n_frames"}
"""Likewise of the clip `c` itself."""
OPERATORS = {"min": ">=", "max": "<=", "exclude": "not in"}


def check_thresholds(thresholds: Mapping[str, Any], known: Iterable[str], where: str = "select") -> None:
    """Raises BadInput for a metric that nothing measures, a key that is no limit, or an invalid value."""
    names = set(known) | set(SOURCE_METRICS) | set(CLIP_METRICS)
    for metric, limits in thresholds.items():
        if metric not in names:
            raise BadInput(f"{where}.{metric}: no step measures {metric!r}; {nearest(metric, names)}")
        if limits is None:
            continue
        if not isinstance(limits, Mapping):
            raise BadInput(f"{where}.{metric} must hold min, max or exclude, not {limits!r}")
        for key, value in limits.items():
            if key not in OPERATORS:
                raise BadInput(f"{where}.{metric}: unknown key {key!r}; {nearest(str(key), OPERATORS)}")
            if value is not None and not _fits(key, value):
                kind = "a list" if key == "exclude" else "a number"
                raise BadInput(f"{where}.{metric}.{key} must be {kind} or null, not {value!r}")


def _fits(key: str, value: Any) -> bool:
    if key == "exclude":
        return isinstance(value, list | tuple)
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def limited(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that have a limit."""
    return {m: limits for m, limits in thresholds.items() if limits}


def source_columns(metrics: Iterable[str]) -> tuple[str, ...]:
    """The columns of a source that these metrics are made of."""
    words = {w for m in metrics if m in SOURCE_METRICS for w in re.findall(r"\w+", SOURCE_METRICS[m])}
    return tuple(c for c in SOURCE_COLUMNS if c in words)


class Select(Job):
    """A verdict for every clip, with every failing (metric, value, op, threshold)."""

    kind = "verdicts"
    version = 1
    passes = True
    units = "clips"
    writes = pa.schema([("id", pa.string()), ("status", pa.string()), ("reasons", pa.list_(REASON))])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Which clips pass.

        thresholds  limits by metric. Write `select.METRIC.min`, `.max` or `.exclude` (a list of values), without the
                    word `thresholds`; null lifts a limit
        """

        thresholds: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips, and of their scores and sources what has a threshold: another score changes no verdict."""
        wanted = tuple(sorted(limited(config.thresholds)))
        ports = {"clips": Port(kind="clips")}
        if wanted:
            ports["scores"] = Port(kind="scores", columns=wanted, many=True, required=False)
        return Inputs(ports=ports, units=source_columns(wanted))

    def columns(self, table: str) -> tuple[str, ...]:
        """What identifies a clip, and the metrics that have a threshold."""
        wanted = limited(self.config.thresholds)
        if table != "clips":
            return ("clip_id", *wanted)
        return ("clip_id", "unit_id", "n_frames", *(("start_s", "end_s") if "duration_s" in wanted else ()))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`clips`, their sources as `units`, and any number of tables with a clip_id and a column per metric."""
        thresholds = limited(self.config.thresholds)
        check_thresholds(thresholds, metric_columns(tables))
        table = metrics_table(tables, thresholds)
        ids = table.column("clip_id").combine_chunks()
        failures = [f for m, limits in thresholds.items() for f in failing(table.column(m), m, limits)]
        reasons, failed = gather(failures, len(ids), self.name)
        status = pc.if_else(pa.array(failed), "rejected", "ok")
        return pa.table({"id": ids, "status": status, "reasons": reasons}).cast(self.writes)


NOT_SCORES = ("clips", "units")


def metric_columns(tables: Mapping[str, pa.Table]) -> set[str]:
    """Every column of the score tables."""
    return {c for name, t in tables.items() if name not in NOT_SCORES for c in t.column_names}


def metrics_table(tables: Mapping[str, pa.Table], wanted: Iterable[str]) -> pa.Table:
    """One row per clip: clip_id and the wanted metrics, null where not measured."""
    from stages.core.ledger.catalog import connect

    sql = connect()
    for name, table in tables.items():
        sql.register(name, table)
    scores = [n for n in tables if n not in NOT_SCORES]
    columns, holders = ["c.clip_id"], list[str]()
    for metric in wanted:
        if holder := next((n for n in scores if metric in tables[n].column_names), None):
            holders.append(holder)
            columns.append(f'"t_{holder}"."{metric}"')
        else:
            columns.append(f'{CLIP_METRICS.get(metric) or f"u.m_{metric}"} AS "{metric}"')
    joins = "".join(f' LEFT JOIN "{n}" "t_{n}" ON "t_{n}".clip_id = c.clip_id' for n in dict.fromkeys(holders))
    if "units" in tables:
        made = {m: expression for m, expression in SOURCE_METRICS.items() if m in set(wanted)}
        per_source = "".join(f", {expression} AS m_{m}" for m, expression in made.items())
        joins += f" JOIN (SELECT id AS unit_id{per_source} FROM units) u ON u.unit_id = c.unit_id"
    return sql.sql(f"SELECT {', '.join(columns)} FROM clips c{joins}").to_arrow_table()


@dataclass(frozen=True)
class Failure:
    """The rows that fail one threshold, and the values that fail it."""

    rows: np.ndarray
    values: pa.Array
    metric: str
    op: str
    threshold: str


def failing(column: pa.ChunkedArray, metric: str, limits: Mapping[str, Any]) -> Iterable[Failure]:
    """Which rows of one metric fail its limits; null and nan fail none."""
    column = column.combine_chunks()
    for key, limit in limits.items():
        if limit is None:
            continue
        if key == "exclude":
            mask = pc.is_in(pc.cast(column, pa.string()), pa.array([str(v) for v in limit], pa.string()))
        else:
            mask = pc.less(column, limit) if key == "min" else pc.greater(column, limit)
        rows = np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))
        if len(rows):
            text = ", ".join(map(str, limit)) if key == "exclude" else f"{limit:g}"
            values = pc.cast(rounded(column.take(pa.array(rows))), pa.string())
            yield Failure(rows, values, metric, OPERATORS[key], text)


def rounded(values: pa.Array) -> pa.Array:
    """Values as they are shown: six significant places after the point at most."""
    return pc.round(values, 6) if pa.types.is_floating(values.type) else values


def gather(failures: list[Failure], n: int, name: str) -> tuple[pa.Array, np.ndarray]:
    """The list of reasons of each of n rows, and whether it has any; name: of the step. No Python loop over rows."""
    rows = np.concatenate([f.rows for f in failures]) if failures else np.zeros(0, np.int64)
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=n) if n else np.zeros(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    which = pa.array(np.repeat(np.arange(len(failures), dtype=np.int16), [len(f.rows) for f in failures])[order])

    def picked(name: str) -> pa.Array:
        words = pa.array([getattr(f, name) for f in failures], pa.string())
        return pa.DictionaryArray.from_arrays(which, words).cast(pa.string())  # quicker than taking text by its place

    values = pa.concat_arrays([f.values for f in failures]) if failures else pa.array([], pa.string())
    step = pa.repeat(pa.scalar(name), len(rows))
    struct = pa.StructArray.from_arrays(
        [step, picked("metric"), values.take(pa.array(order)), picked("op"), picked("threshold")],
        fields=[REASON.field(i) for i in range(REASON.num_fields)],
    )
    return pa.ListArray.from_arrays(offsets, struct), counts > 0
