"""The figures of a report: what survived, why the rest did not, how every score is spread, and examples.

All of it is asked of DuckDB over the scores of one run, so that a million clips take seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from data_prep.select import CLIP_METRICS, SOURCE_METRICS
from flows.curate.curation import LIMITS
from flows.curate.tables import (
    captions_sql,
    is_known,
    join_scores,
    one_of,
    score_columns,
    scorers,
    sources_sql,
    units_of,
    verdicts_sql,
)
from stages.core.errors import BadInput
from stages.core.ledger.catalog import connect
from stages.core.planning.survey import Survey
from stages.core.step import Row

BINS = 100
NO_SOURCE = {
    "suffix": "not a video file",
    "duplicate_of": "same content as another file",
    "video_streams": "no video in it",
    "frames": "fewer than two frames",
}
"""What is said of files that are no sources, by the metric of the reason."""
NUMBERS = ("DOUBLE", "FLOAT", "BIGINT", "INTEGER", "UBIGINT", "UINTEGER", "SMALLINT", "DECIMAL", "BOOLEAN")


@dataclass(frozen=True)
class Scored:
    """The clips of a run in a database of their own: table `scored`, a row per clip.

    metrics     columns of `scored` with numbers, in order; labels: those with text
    thresholds  metric -> {min, max, exclude} as the run had them
    `failing` names the one metric that a clip fails, "" where it fails none, NULL where it fails several.
    """

    sql: duckdb.DuckDBPyConnection
    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    thresholds: Mapping[str, Mapping[str, Any]]

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """The answer to a question."""
        found: list[Row] = self.sql.sql(query, params=list(values)).to_arrow_table().to_pylist()
        return found


def read_scored(survey: Survey) -> Scored:
    """Read what a run scored and judged. Raises BadInput where it did not come so far."""
    judges = survey.plan.of_kind("verdicts")
    if not judges:
        raise BadInput("this run has no verdicts: it stopped before the selection; run curate without --until")
    clips = one_of(survey, "clips", "verdicts")
    columns, joins = _score_columns(survey)
    metrics = {**columns, **CLIP_METRICS}
    chosen = ", ".join(f'{expression} AS "{name}"' for name, expression in metrics.items())
    per_source = ", ".join(f"{e} AS m_{n}" for n, e in SOURCE_METRICS.items())
    from_source = ", ".join(f's.m_{n} AS "{n}"' for n in SOURCE_METRICS)
    table = survey.query(
        f"""SELECT c.clip_id, c.source_id, c.start_s, c.end_s, v.status, len(v.reasons) AS n_reasons,
        CASE len(v.reasons) WHEN 0 THEN '' WHEN 1 THEN v.reasons[1].metric ELSE
            CASE WHEN len(list_distinct(v.reasons.list_transform(lambda r: r.metric))) = 1
            THEN v.reasons[1].metric END END AS failing,
        {chosen}, {from_source} FROM {survey.view(clips.name)} c JOIN {verdicts_sql(survey)} v ON v.id = c.clip_id
        JOIN (SELECT id, {per_source} FROM {units_of(survey, clips)}) s ON s.id = c.unit_id {joins}"""
    )
    sql = connect()
    sql.register("arrived", table)
    sql.execute("CREATE TEMP TABLE scored AS SELECT * FROM arrived")
    kinds = {name: kind for name, kind, *_ in sql.execute("DESCRIBE scored").fetchall()}
    names = [n for n in (*metrics, *SOURCE_METRICS) if n in kinds]
    limits = json.loads(judges[-1].config).get(LIMITS) or {}
    return Scored(
        sql,
        tuple(n for n in names if _is_number(kinds[n])),
        tuple(n for n in names if kinds[n] == "VARCHAR"),
        {metric: values for metric, values in limits.items() if values},
    )


def _is_number(kind: str) -> bool:
    return kind.split("(")[0] in NUMBERS and "[" not in kind


def _score_columns(survey: Survey) -> tuple[dict[str, str], str]:
    """Metric -> SQL, and the joins that bring the tables of scores."""
    columns, joins = dict[str, str](), ""
    for node in scorers(survey.plan, ("scores",)):
        for column, kind in score_columns(survey, node):
            if _is_number(kind) or kind == "VARCHAR":
                columns.setdefault(column, f'"t_{node.name}"."{column}"')
        joins += join_scores(survey, node)
    return columns, joins


def funnel(survey: Survey, scored: Scored) -> Row:
    """Counts along the way, with the reasons of each loss."""
    sources = sources_sql(survey)
    states = survey.query(f"SELECT status, count(*) AS n FROM {sources} GROUP BY status ORDER BY n DESC").to_pylist()
    why = survey.query(
        f"""SELECT coalesce(reasons[1].metric, split_part(regexp_replace(error, '^[a-z_-]+: ', ''), ':', 1)) AS what,
        status, count(*) AS n
        FROM {sources} WHERE status <> 'ok' GROUP BY ALL ORDER BY n DESC, what LIMIT 20"""
    ).to_pylist()
    (total,) = scored.rows(
        """SELECT count(*) AS clips, count(*) FILTER (status = 'kept') AS kept,
        count(*) FILTER (failing IN ('', 'duplicate')) AS passed, coalesce(sum(end_s - start_s), 0) / 3600 AS hours,
        coalesce(sum(end_s - start_s) FILTER (failing IN ('', 'duplicate')), 0) / 3600 AS passed_hours,
        coalesce(sum(end_s - start_s) FILTER (status = 'kept'), 0) / 3600 AS kept_hours FROM scored"""
    )
    why = [{**r, "what": NO_SOURCE.get(r["what"], r["what"])} for r in why]
    seconds = survey.query(f"SELECT coalesce(sum(duration_s), 0) AS s FROM {sources} WHERE status = 'ok'")["s"][0]
    return {
        "sources": sum(s["n"] for s in states),
        "sound": sum(s["n"] for s in states if s["status"] == "ok"),
        "source_hours": seconds.as_py() / 3600,
        "source_reasons": why,
        **total,
        "reasons": reasons_of(survey),
    }


def reasons_of(survey: Survey) -> list[Row]:
    """Per metric and threshold: how many clips fail it, and how many fail nothing else. A clip may fail several."""
    rows: list[Row] = survey.query(
        f"""SELECT metric, op, threshold, count(*) AS clips, count(*) FILTER (n = 1) AS alone FROM
        (SELECT len(reasons) AS n, unnest(reasons, max_depth := 2) FROM {verdicts_sql(survey)}
            WHERE status = 'rejected')
        GROUP BY ALL ORDER BY clips DESC, metric, op"""
    ).to_pylist()
    return rows


def spreads(scored: Scored) -> list[Row]:
    """Of every metric that varies: its bins, thresholds first."""
    names = sorted(scored.metrics, key=lambda n: (n not in scored.thresholds, scored.metrics.index(n)))
    found = (spread(scored, name) for name in names)
    return [f for f in found if f]


def spread(scored: Scored, metric: str) -> Row | None:
    """One metric in bins. None where it was never measured, or is the same everywhere and has no threshold.

    edges      BINS + 1 values; a threshold lies on one of them, values beyond the ends count in the outer bins
    shown_from the lower end of the axis as it is written: 0 where no value is below it
    shown_to   the upper end, as it is written: 1 where no value is above it, as of a share
    every      clips in each bin
    from_edge  clips that fail nothing else, binned with their lower edge in (for `min`); hours_from the same in hours
    to_edge    the same, binned with their upper edge in (for `max`)
    """
    limits = {
        k: float(v) for k, v in scored.thresholds.get(metric, {}).items() if k in ("min", "max") and v is not None
    }
    value = f'"{metric}"::DOUBLE'
    (low, high, measured) = scored.sql.execute(
        f"SELECT approx_quantile({value}, 0.005), approx_quantile({value}, 0.995), count({value}) "
        f"FROM scored WHERE NOT isnan({value})"
    ).fetchall()[0]
    if not measured or (_is_one(low, high) and not limits):
        return None
    start, step = grid(low, high, sorted(set(limits.values())))
    end = _tidy(start + BINS * step, step)
    rows = _binned(scored, metric, start, step)
    (rest,) = scored.rows(
        f"""SELECT count(*) AS n, coalesce(sum(end_s - start_s), 0) / 3600 AS hours FROM scored
        WHERE ({value} IS NULL OR isnan({value})) AND failing IN ('', ?)""",
        [metric],
    )
    return {
        "metric": metric,
        "limits": limits,
        "edges": [_tidy(start + i * step, step) for i in range(BINS + 1)],
        "measured": measured,
        "shown_from": 0.0 if low >= -1e-9 > start else start,
        "shown_to": 1.0 if high <= 1 + 1e-9 < end else end,
        "free": rest["n"],
        "free_hours": rest["hours"],
        **rows,
    }


def grid(low: float, high: float, limits: Sequence[float]) -> tuple[float, float]:
    """Start and width of BINS bins over [low, high] and the limits, with every limit (two at the most) on an edge.

    Limits that lie closer together than a bin make narrow bins, and the limits stand in the middle of them.
    """
    low, high = min(low, *limits) if limits else low, max(high, *limits) if limits else high
    span, most = high - low, max(abs(low), abs(high))
    if _is_one(low, high):
        span = most if most > 1e-6 else 1.0
    low, high = low - 0.04 * span, high + 0.04 * span
    step = (high - low) / (BINS - 2)
    if len(limits) == 2:
        step = (limits[1] - limits[0]) / max(1, math.floor((limits[1] - limits[0]) / step))
    if not limits:
        return low, step
    below, across = math.ceil((limits[0] - low) / step), round((limits[-1] - limits[0]) / step)
    if below + across > BINS:
        below = (BINS - across) // 2
    return limits[0] - below * step, step


def _is_one(low: float, high: float) -> bool:
    """Whether all values are one, but for rounding: approximate quantiles of zeros are not quite 0."""
    return high - low <= max(1e-6 * max(abs(low), abs(high)), 1e-9)


def _tidy(value: float, step: float) -> float:
    """As many digits as the width of a bin deserves."""
    return round(value, max(0, 3 - math.floor(math.log10(step))))


def _binned(scored: Scored, metric: str, start: float, step: float) -> Row:
    """Counts and hours per bin. A value within a billionth of a bin from an edge counts as on it."""
    place = f'(("{metric}"::DOUBLE - {start!r}) / {step!r})'
    rows = scored.sql.execute(
        f"""SELECT greatest(0, least({BINS - 1}, floor({place} + 1e-9)))::INTEGER AS lower,
        greatest(0, least({BINS - 1}, ceil({place} - 1e-9) - 1))::INTEGER AS upper,
        count(*), count(*) FILTER (failing IN ('', ?)),
        coalesce(sum(end_s - start_s) FILTER (failing IN ('', ?)), 0) / 3600
        FROM scored WHERE "{metric}" IS NOT NULL AND NOT isnan("{metric}"::DOUBLE) GROUP BY ALL""",
        [metric, metric],
    ).fetchall()
    empty: Row = {k: [0] * BINS for k in ("every", "from_edge", "to_edge", "hours_from", "hours_to")}
    for lower, upper, n, left, hours in rows:
        empty["every"][lower] += n
        empty["from_edge"][lower] += left
        empty["to_edge"][upper] += left
        empty["hours_from"][lower] += hours
        empty["hours_to"][upper] += hours
    return {k: [round(v, 6) for v in values] for k, values in empty.items()}


def label_counts(scored: Scored, most: int = 20) -> list[Row]:
    """Of every metric that is a word: how many clips have which, and how many of those are kept."""
    found = []
    for name in scored.labels:
        rows = scored.rows(
            f"""SELECT coalesce("{name}", 'not measured') AS value, count(*) AS n,
            count(*) FILTER (status = 'kept') AS kept FROM scored GROUP BY ALL ORDER BY n DESC, value LIMIT {most}"""
        )
        if len(rows) > 1:
            excluded = [str(v) for v in scored.thresholds.get(name, {}).get("exclude") or []]
            found.append({"metric": name, "rows": rows, "excluded": excluded})
    return found


def near_threshold(scored: Scored, metric: str, key: str, limit: float, most: int = 4) -> tuple[list[str], list[str]]:
    """Clips that fail nothing else: the nearest that are just out, and the nearest that are just in."""
    inside = ">=" if key == "min" else "<="
    found = []
    for condition in (f'NOT ("{metric}" {inside} {limit!r})', f'"{metric}" {inside} {limit!r}'):
        rows = scored.rows(
            f"""SELECT clip_id FROM scored WHERE failing IN ('', ?) AND {condition}
            ORDER BY abs("{metric}" - {limit!r}), clip_id LIMIT {most}""",
            [metric],
        )
        found.append([r["clip_id"] for r in rows])
    return found[0], found[1]


def failing_more(scored: Scored, metric: str, key: str, limit: float) -> int:
    """How many clips fail this threshold and others too: no picture near it shows them."""
    inside = ">=" if key == "min" else "<="
    (row,) = scored.rows(
        f"""SELECT count(*) AS n FROM scored WHERE NOT (failing IS NOT NULL AND failing IN ('', ?))
        AND NOT ("{metric}" {inside} {limit!r})""",
        [metric],
    )
    return int(row["n"])


def samples(scored: Scored, kept: int, per_reason: int, reasons: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ids of kept clips, and of rejected ones: some of each reason that stands alone, then of those that fail more."""
    drawn = "ORDER BY md5(clip_id) LIMIT"
    good = scored.rows(f"SELECT clip_id FROM scored WHERE status = 'kept' {drawn} {kept}")
    bad: dict[str, None] = {}
    for reason in [*reasons, None]:
        rows = scored.rows(
            f"SELECT clip_id FROM scored WHERE status = 'rejected' AND failing IS NOT DISTINCT FROM ? "
            f"{drawn} {per_reason}",
            [reason],
        )
        bad |= {r["clip_id"]: None for r in rows}
    return [r["clip_id"] for r in good], list(bad)


def details(survey: Survey, scored: Scored, ids: Sequence[str]) -> dict[str, Row]:
    """What a report shows of these clips: source, span, picture, verdict, scores, captions; of copies `copy_of`, and
    source and span of that clip as `copy_uri`, `copy_start_s`, `copy_end_s`."""
    if not ids:
        return {}
    listed = ", ".join(f"'{i}'" for i in ids if i.isalnum())
    thumbs = next((survey.view(n.name) for n in survey.plan.of_kind("thumbs")), "")
    pictures = thumbs or "(SELECT NULL::VARCHAR AS clip_id, NULL::VARCHAR AS uri WHERE false)"
    clips, copied, better = one_of(survey, "clips", "verdicts"), "", ""
    if survey.plan.of_kind("duplicates"):
        copied = ", o.clip_id AS copy_of, so.uri AS copy_uri, o.start_s AS copy_start_s, o.end_s AS copy_end_s"
        better = f""" LEFT JOIN {survey.view(clips.name)} o ON o.clip_id = v.duplicate_of
            LEFT JOIN {units_of(survey, clips)} so ON so.id = o.unit_id"""
    rows = survey.query(
        f"""SELECT c.clip_id, s.uri, c.start_s, c.end_s, v.status, v.reasons, t.uri AS thumb{copied}
        FROM (SELECT * FROM {survey.view(clips.name)} WHERE clip_id IN ({listed})) c
        JOIN {verdicts_sql(survey)} v ON v.id = c.clip_id JOIN {units_of(survey, clips)} s ON s.id = c.unit_id
        LEFT JOIN {pictures} t ON t.clip_id = c.clip_id{better}"""
    ).to_pylist()
    values = {r["clip_id"]: r for r in scored.rows(f"SELECT * FROM scored WHERE clip_id IN ({listed})")}
    texts = _captions(survey, listed)
    return {r["clip_id"]: {**r, "values": values[r["clip_id"]], "caption": texts.get(r["clip_id"], "")} for r in rows}


def _captions(survey: Survey, listed: str) -> dict[str, str]:
    captioners = survey.plan.of_kind("captions")
    if not captioners or not all(is_known(survey, n) for n in captioners):
        return {}
    rows = survey.query(
        f"SELECT clip_id, kind, text FROM {captions_sql(survey)} WHERE clip_id IN ({listed}) AND status = 'ok' "
        "ORDER BY clip_id, kind DESC"
    ).to_pylist()
    return {r["clip_id"]: r["text"] for r in rows if r["kind"] in ("medium", "long")}
