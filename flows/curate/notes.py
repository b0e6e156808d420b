"""What a person should know at the end of a curation: what became of the sources and the clips, what is odd about
them, and what is kept now that was not kept before."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from flows.curate.tables import clips, is_known, sources, verdicts
from flows.words import cause_text, counted, listed, look, span_text, told_apart
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog, connect
from stages.core.planning.survey import Survey
from stages.core.running.runs import find_run, runs_table
from stages.core.step import Row

MOST = 5


def notes(catalog: Catalog, survey: Survey, run_id: str) -> list[str]:
    """Sentences about a curation, as far as it came; survey: of the run, as it stands at its end."""
    lines = list[str]()
    for part in (_source_lines, _shot_lists, _no_clips, _clip_lines):
        try:
            lines += part(survey)
        except BadInput:  # the run ended before there was anything to say
            return lines
    return lines + _changes(catalog, survey, run_id)


def _source_lines(survey: Survey) -> list[str]:
    rows, more = sources(survey).to_pylist(), look("table sources", survey.catalog.storage.url)
    names = told_apart(r["uri"] for r in rows)
    bad, copies = not_used(rows)
    lines = [source_counts(rows)]
    lines += [f"  not read: {names[r['uri']]}: {cause_text(r)}" for r in bad[:MOST]]
    lines += [f"  and {len(bad) - MOST} more; {more}"] if len(bad) > MOST else []
    told = [f"{names[r['uri']]} (same content as {names[_original(r)]})" for r in copies]
    lines += [f"  not used: {listed(told, MOST)}"] if copies else []
    others = [names[r["uri"]] for r in rows if _is_other(r)]
    lines += [f"  skipped, not a video file: {listed(others, MOST)}"] if others else []
    lines += _other_labels({r["uri"]: r for r in rows}, copies, names)
    odd = [r for r in rows if r["note"] and r["status"] == "ok"]
    lines += [f"  {names[r['uri']]}: {r['note']}" for r in odd[:MOST]]
    return lines + ([f"  and {len(odd) - MOST} more; {more}"] if len(odd) > MOST else [])


def not_used(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Of the table `sources`: the files that cannot be read as video, and those with the content of another. What is no
    video file by its suffix, such as a README beside the footage, is in neither."""
    left = [r for r in rows if r["status"] not in ("ok", "pending") and not _is_other(r)]
    return [r for r in left if not _original(r)], [r for r in left if _original(r)]


def source_counts(rows: list[Row]) -> str:
    """How many files of the table `sources` are sources, and what became of the others."""
    bad, copies = not_used(rows)
    waiting, others = sum(r["status"] == "pending" for r in rows), sum(map(_is_other, rows))
    counts = [f"{counted(len(bad), 'file')} not read"] if bad else []
    counts += [f"{len(copies):,} with the content of another"] if copies else []
    counts += [f"{waiting:,} not looked at yet"] if waiting else []
    counts += [counted(others, "other file")] if others else []
    return ", ".join([counted(len(rows) - len(bad) - len(copies) - waiting - others, "source"), *counts])


def _is_other(source: Row) -> bool:
    """Whether a file is no video file by its suffix."""
    return any(r["metric"] == "suffix" for r in source["reasons"])


def _original(source: Row) -> str:
    """The uri of the file whose content a file has, too; "" where there is none."""
    return next((str(r["value"]) for r in source["reasons"] if r["metric"] == "duplicate_of"), "")


def _other_labels(rows: Mapping[str, Row], copies: list[Row], names: Mapping[str, str]) -> list[str]:
    """The files with the content of another that have another label: only that of the source is used."""
    pairs = [(r, rows[_original(r)]) for r in copies]
    other = [
        f"{r['label']} in {names[r['uri']]}, {source['label'] or 'none'} in {names[source['uri']]}, which is used"
        for r, source in pairs
        if r["label"] and r["label"] != source["label"]
    ]
    return [f"  two labels for the same content: {listed(other, MOST)}"] if other else []


def _shot_lists(survey: Survey) -> list[str]:
    """How many sources have their shots from a list, so that a list that no source took is not passed over."""
    nodes = [n for n in survey.plan.of_kind("cuts") if "shots" in n.when]
    count = sum(len(survey.query(f'SELECT unit_id FROM "v_{n.name}"')) for n in nodes if is_known(survey, n))
    return [f"shot lists: {count} {'source has' if count == 1 else 'sources have'} one"] if count else []


def _no_clips(survey: Survey) -> list[str]:
    if not survey.plan.of_kind("clips"):
        return []
    phase = survey.plan.phase_of(survey.plan.of_kind("clips")[-1].name)
    if not survey.units_complete(phase) or clips(survey).num_rows:
        return []
    counts = survey.counts()
    if any(counts[n.name].todo or counts[n.name].waiting for n in phase.nodes if n.name in counts):
        return []
    readable = sum(r["status"] == "ok" for r in sources(survey).to_pylist())
    if not readable:
        return [
            f"there are no clips: no source can be read as video; {look('table sources', survey.catalog.storage.url)}"
        ]
    return ["there are no clips: no shot of any source is as long as clips.min_s"]


def sources_without_clips(survey: Survey) -> list[str]:
    """The uris of sources that were read and of which no clip was made."""
    have = set(clips(survey)["source_id"].unique().to_pylist())
    return [r["uri"] for r in sources(survey).to_pylist() if r["status"] == "ok" and r["source_id"] not in have]


def _clip_lines(survey: Survey) -> list[str]:
    if not clips(survey).num_rows:
        return []
    names = told_apart(sources(survey)["uri"].to_pylist())
    without = [names[uri] for uri in sources_without_clips(survey)]
    lines = [f"  no shot is long enough for a clip: {listed(without, MOST)}"] if without else []
    judged = verdicts(survey)
    copied = "duplicate_of <> ''" if "duplicate_of" in judged.column_names else "false"
    (count,) = _asked(
        f"""SELECT count(*) AS n, count(*) FILTER (status = 'kept') AS kept, count(*) FILTER ({copied}) AS copies
        FROM judged""",
        judged=judged,
    )
    metrics = _asked(
        """SELECT r.metric AS metric, count(DISTINCT clip_id) AS n
        FROM (SELECT clip_id, unnest(reasons) AS r FROM judged) WHERE r.metric <> 'duplicate'
        GROUP BY ALL ORDER BY n DESC, metric""",
        judged=judged,
    )
    rejected = count["n"] - count["kept"] - count["copies"]
    if rejected == 1:
        failed = " and ".join(r["metric"] for r in metrics)
    else:
        failed = ", ".join(f"{r['metric']} {r['n']:,}" for r in metrics)
        failed += "; some for several reasons" if sum(r["n"] for r in metrics) > rejected else ""
    counts = [f"{rejected:,} rejected ({failed})" if failed else f"{rejected:,} rejected"] if rejected else []
    counts += [counted(count["copies"], "copy of a better clip", "copies of better clips")] if count["copies"] else []
    return [*lines, ", ".join([f"{counted(count['n'], 'clip')}: {count['kept']:,} kept", *counts])]


def _changes(catalog: Catalog, survey: Survey, run_id: str) -> list[str]:
    """What differs from the curation before, where that had other settings or other footage."""
    earlier = [r for r in runs_table(catalog).to_pylist() if r["flow"] == "curate" and r["run_id"] < run_id]
    if not earlier or earlier[-1]["plan"] == survey.plan.to_json():
        return []
    try:
        before = verdicts(find_run(catalog, "curate", earlier[-1]["run_id"]).survey(catalog))
    except BadInput:
        return []
    tables = {"now": verdicts(survey), "before": before, "given": sources(survey).select(["uri"])}
    lines = list[str]()
    if not any("kept" in tables[name]["status"].to_pylist() for name in ("now", "before")):
        return []
    names = told_apart(uri for table in tables.values() for uri in table["uri"].to_pylist())
    for one, other in (("now", "before"), ("before", "now")):
        # Footage that was not given to this run is not judged by it.
        judged = "true" if one == "now" else "(uri IN (FROM given) OR clip_id IN (SELECT clip_id FROM now))"
        rows = _asked(
            f"""SELECT uri, start_s, end_s, count(*) OVER () AS n FROM {one} WHERE status = 'kept' AND clip_id NOT IN
            (SELECT clip_id FROM {other} WHERE status = 'kept') AND {judged} ORDER BY uri, start_s LIMIT {MOST}""",
            **tables,
        )
        if rows:
            spans = ", ".join(f"{names[r['uri']]} {span_text(r['start_s'], r['end_s'])}" for r in rows)
            more = f" and {rows[0]['n'] - MOST:,} more" if rows[0]["n"] > MOST else ""
            lines.append(f"  kept {one}, not {other}: {counted(rows[0]['n'], 'clip')}: {spans}{more}")
    return [f"since run {earlier[-1]['run_id']}:", *(lines or ["  the same clips are kept"])]


def _asked(query: str, **tables: pa.Table) -> list[Row]:
    """The answer to a question about tables: there may be a million clips."""
    sql = connect()
    for name, table in tables.items():
        sql.register(name, table)
    rows: list[Row] = sql.sql(query).to_arrow_table().to_pylist()
    return rows
