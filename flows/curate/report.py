"""`rushes report`: one HTML page about a curation, to see what survived and to find better thresholds. Everything is
inside the file; nothing is fetched, and every text that came with the footage is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from flows.curate.notes import sources_without_clips
from flows.curate.report_data import (
    Scored,
    details,
    failing_more,
    funnel,
    label_counts,
    near_threshold,
    read_scored,
    samples,
    spreads,
)
from flows.curate.tables import captions_sql, is_known, sources
from flows.display.html import data_uri, page_environment
from flows.display.terminal import console as plain_console
from flows.run.session import existing_catalog
from flows.words import cause_text, clip_name, copy_text, look, reason_text, told_apart
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.running.runs import find_run
from stages.core.step import Row

NAME = "report.html"
KEPT, PER_REASON, NEAR, LOST = 24, 6, 4, 200
LONGEST_LABEL = 40

console = plain_console()


def report_command(store: str, run_id: str, out: Path | None, options: Mapping[str, Any] | None = None) -> int:
    """Write the report of the latest curation, or of one run. options: of the store's file system."""
    catalog = existing_catalog(store, options)
    page = build_report(catalog, run_id)
    console.print(write_report(catalog, page, out), soft_wrap=True, markup=False)
    return 0


def write_report(catalog: Catalog, page: str, out: Path | None) -> str:
    """Put the page into a file, or into the store. Returns where it is. Raises BadInput where that cannot be."""
    if out is None:
        catalog.storage.write(NAME, page.encode())
        return catalog.storage.place(NAME)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None
    return str(out)


def build_report(catalog: Catalog, run_id: str = "") -> str:
    """The page. Raises BadInput where there is no curation that came to verdicts."""
    record = find_run(catalog, "curate", run_id)
    survey = record.survey(catalog)
    scored = read_scored(survey)
    counts = funnel(survey, scored)
    metrics = spreads(scored)
    near = {m["metric"]: _near(scored, m) for m in metrics if m["limits"]}
    alone = [r["metric"] for r in counts["reasons"]]
    good, bad = samples(scored, KEPT, PER_REASON, list(dict.fromkeys(alone)))
    shown = {*good, *bad, *(i for sides in near.values() for side in sides for i in side["out"] + side["in"])}
    said = (*scored.thresholds, *scored.labels)
    rows = details(survey, scored, sorted(shown))
    names = told_apart(u for r in rows.values() for u in (r["uri"], r.get("copy_uri")) if u)
    cards = {i: _card(catalog, row, said, names) for i, row in rows.items()}
    return (
        page_environment(Path(__file__).parent)
        .get_template("report.html.j2")
        .render(
            run=record.row,
            made=datetime.now(UTC),
            stages=_stages(survey, counts),
            funnel=counts,
            sources=_lost_sources(survey),
            metrics=metrics,
            labels=label_counts(scored),
            near=near,
            short=_short,
            cards=cards,
            kept=[cards[i] for i in good],
            rejected=[cards[i] for i in bad],
            data={"metrics": metrics, "clips": counts["clips"], "kept": counts["kept"], "hours": counts["kept_hours"]},
        )
    )


def _near(scored: Scored, metric: Row) -> list[Row]:
    found = []
    for key, limit in metric["limits"].items():
        out, inside = near_threshold(scored, metric["metric"], key, limit, NEAR)
        failing = failing_more(scored, metric["metric"], key, limit)
        found.append({"key": key, "limit": limit, "out": out, "in": inside, "failing": failing})
    return found


def _stages(survey: Survey, counts: Row) -> list[Row]:
    """The bars of the funnel. Each has its share of what it started from: sources of sources, clips of clips."""
    stages = [
        {"name": "sources listed", "n": counts["sources"], "of": counts["sources"], "hours": None},
        {"name": "readable sources", "n": counts["sound"], "of": counts["sources"], "hours": counts["source_hours"]},
        {"name": "clips", "n": counts["clips"], "of": counts["clips"], "hours": counts["hours"]},
        {"name": "pass every threshold", "n": counts["passed"], "of": counts["clips"], "hours": counts["passed_hours"]},
        {"name": "kept (without copies)", "n": counts["kept"], "of": counts["clips"], "hours": counts["kept_hours"]},
    ]
    captioners = survey.plan.of_kind("captions")
    if not captioners or not all(is_known(survey, n) for n in captioners):
        return stages
    said = survey.query(f"SELECT count(DISTINCT clip_id) AS n FROM {captions_sql(survey)}")["n"][0].as_py()
    return [*stages, {"name": "captioned", "n": said, "of": counts["clips"], "hours": None}]


def _lost_sources(survey: Survey) -> list[Row]:
    """The sources that gave no clip, by name, with the reason; the first of many."""
    lost = [r for r in sources(survey).to_pylist() if r["status"] not in ("ok", "pending")]
    rows = [{"uri": r["uri"], "why": cause_text(r)} for r in lost]
    rows += [{"uri": uri, "why": "no shot is long enough for a clip"} for uri in sources_without_clips(survey)]
    more = len(rows) - LOST
    last = (
        [
            {
                "uri": "",
                "why": f"and {more:,} more; {look('table sources --out sources.csv', survey.catalog.storage.url)}",
            }
        ]
        if more > 0
        else []
    )
    return rows[:LOST] + last


def _card(catalog: Catalog, row: Row, said: Sequence[str], names: Mapping[str, str]) -> Row:
    """What is shown of a clip; said: the scores that are, those that have a threshold or are words; names: what each
    source is called."""
    values = row["values"]
    return {
        "id": row["clip_id"],
        "src": _picture(catalog, row["thumb"]),
        "name": names[row["uri"]],
        "start": row["start_s"],
        "end": row["end_s"],
        "status": row["status"],
        "reasons": [_reason(r, row, names) for r in row["reasons"]],
        "values": values,
        "scores": [(n, _short(values[n])) for n in said if values.get(n) is not None],
        "caption": row["caption"],
    }


def _reason(reason: Row, row: Row, names: Mapping[str, str]) -> str:
    """A reason in words; of a copy, what it is a copy of."""
    if row.get("copy_of") is None or reason["value"] != row["copy_of"]:
        return reason_text(reason)
    return copy_text(clip_name(names[row["copy_uri"]], row["copy_start_s"], row["copy_end_s"]))


def _picture(catalog: Catalog, uri: str | None) -> str:
    """The thumbnail inside the page; none where it is gone from the store."""
    try:
        return data_uri(catalog, uri, "image/jpeg") if uri else ""
    except FileNotFoundError:
        return ""


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return shorten(str(value), LONGEST_LABEL, placeholder="…")
