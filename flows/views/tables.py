"""The tables that people see, by name. Each is a view: the latest run of its flow, read by its plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import shorten

import pyarrow as pa

from flows.curate.tables import curation_tables
from flows.render.costs import costs
from flows.render.qc import qc
from flows.words import counted
from stages.core.config import load_class
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog, connect
from stages.core.planning.plan import ROOT_UNITS, Phase
from stages.core.planning.survey import Survey
from stages.core.running.runs import RunRecord, find_run, runs_table

SHOWN_PROMPT = 40
UNFINISHED = ("text", "condition", "latent")
"""Kinds of rows that nobody can watch."""
OK = "'ok'"
View = Callable[[Survey], pa.Table]


def _artifact_sql(survey: Survey, name: str) -> str:
    """The rows of one stage per take, in the columns that all stages share."""
    have = {c for c, *_ in survey.sql.execute(f'DESCRIBE "l_{name}"').fetchall()}

    def column(column_name: str, empty: str) -> str:
        return f'coalesce("{name}".{column_name}, {empty})' if column_name in have else empty

    return f"""SELECT "{name}".id AS artifact_id, unit_id AS take_id, '{name}' AS stage,
        {column("uri", "''")} AS uri, {column("sha256", "''")} AS sha256,
        {column("width", "0")}::BIGINT AS width, {column("height", "0")}::BIGINT AS height,
        {column("n_frames", "0")}::BIGINT AS n_frames, {column("fps", "0")}::DOUBLE AS fps,
        {column("note", "''")} AS note,
        "{name}".worker AS worker, "{name}".setups AS setups, "{name}".started AS started, "{name}".ended AS ended,
        "{name}".core_seconds AS core_seconds, "{name}".gpu_seconds AS gpu_seconds,
        "{name}".peak_memory_mb AS peak_memory_mb, "{name}".status AS status, "{name}".error AS error,
        "{name}".attempt AS attempt, "{name}".run_id AS run_id, unit.position AS position
        FROM "p_{survey.plan.phase_of(name).name}" WHERE "{name}".id IS NOT NULL"""


def _phases(survey: Survey) -> list[Phase]:
    """The phases whose units are takes, as far as they are known."""
    return [p for p in survey.plan.phases if p.level == 0 and survey.units_known(p)]


def stages_of(survey: Survey) -> list[str]:
    """The nodes that make files out of takes; an evaluation has others behind them, which only look."""
    nodes = [n for p in _phases(survey) for n in p.steps]
    return [n.name for n in nodes if "uri" in load_class(n.use, n.name).writes.names]


def short_of_video(survey: Survey) -> str:
    """The last stage, where a run ends before there are videos (`--until base`); else ""."""
    last = stages_of(survey)[-1]
    return last if load_class(survey.plan.node(last).use, last).kind in UNFINISHED else ""


def artifacts(survey: Survey) -> pa.Table:
    """One row per take and stage: what was made, where, by which worker, when, at what cost."""
    names = stages_of(survey)
    union = " UNION ALL ".join(f"SELECT *, {i} AS nth FROM ({_artifact_sql(survey, n)})" for i, n in enumerate(names))
    return survey.query(f"SELECT * EXCLUDE (position, nth) FROM ({union}) ORDER BY position, nth")


def picture_notes(survey: Survey) -> list[str]:
    """What was cut off, added to or stretched of the pictures that takes begin with, each once: `a.png: ...`, with the
    prompt that it was done for, and how many others there are."""
    found: dict[str, list[str]] = {}
    for phase in _phases(survey):
        for n in (n for n in phase.steps if {"note", "uri"} <= set(load_class(n.use, n.name).writes.names)):
            rows = survey.query(
                f"""SELECT unit.media AS media, unit.prompt AS prompt, unit.seed AS seed, "{n.name}".note AS note
                FROM "p_{phase.name}"
                WHERE "{n.name}".status = 'ok' AND "{n.name}".note <> '' ORDER BY unit.position"""
            )
            for row in rows.to_pylist():
                names = ", ".join(str(m.get("name") or m["sha256"][:12]) for m in row["media"] or ())
                take = f'"{shorten(row["prompt"], SHOWN_PROMPT, placeholder="…")}", seed {row["seed"]}'
                found.setdefault(f"{names}: {row['note']}", []).append(take)
    return [f"{note} ({_and_others(named)})" for note, named in found.items()]


def _and_others(named: Sequence[str]) -> str:
    """The first of some takes, and how many others there are."""
    return named[0] + (f" and {counted(len(named) - 1, 'other take')}" if len(named) > 1 else "")


def takes(survey: Survey) -> pa.Table:
    """One row per take: `ok` once its video is there, `pending` before, else the status and reasons of what failed, or
    of the gate that did not let it pass, or where it is `waiting` for people. What failed and is tried again by the
    next run is pending, with its error."""
    phases, names = _phases(survey), stages_of(survey)
    source, cases, errors = 'FROM "p_roots" r', list[str](), list[str]()
    for phase in phases:
        here = "r" if phase.name == ROOT_UNITS else f'"h_{phase.name}"'
        if phase.name != ROOT_UNITS:
            source += f' LEFT JOIN "v_{phase.name}" "j_{phase.name}" ON "j_{phase.name}".id = r.unit_id'
            source += f' LEFT JOIN "p_{phase.name}" {here} ON {here}.unit_id = r.unit_id'
            job = f'"j_{phase.name}"'
            gate = survey.plan.node(phase.name)
            writes = load_class(gate.use, gate.name).writes.names
            reasons = f"{job}.reasons" if "reasons" in writes else "NULL"
            why = f"{job}.why" if "why" in writes else "'not promoted'"
            cases.append(
                f"WHEN {job}.status <> 'ok' THEN {{'status': {job}.status, 'reasons': {reasons}, "
                f"'error': '{phase.name}: ' || {why}}}"
            )
        for n in (n for n in names if survey.plan.phase_of(n).name == phase.name):
            errors.append(f"""CASE WHEN {here}."{n}".status = 'error' THEN '{n}: ' || {here}."{n}".error END""")
            cases.append(
                f"""WHEN {here}."set_{n}" AND NOT {here}."ok_{n}" THEN {{'status': {here}."{n}".status,
                'reasons': {here}."{n}".reasons, 'error': '{n}: ' || coalesce({here}."{n}".error, '')}}"""
            )
    last = names[-1]
    ends = "r" if survey.plan.phase_of(last).name == ROOT_UNITS else f'"h_{survey.plan.phase_of(last).name}"'
    whole = phases[-1].name == survey.plan.phases[-1].name
    done = f'{ends}."ok_{last}"' if whole else "false"
    done += "".join(f' AND "h_{p.name}".unit_id IS NOT NULL' for p in _behind(survey, last))
    empty = f'r."{names[0]}".reasons'
    applies = " OR ".join(f'r."applies_{n.name}"' for n in phases[0].steps)
    return survey.query(
        f"""SELECT unit_id AS take_id, campaign, prompt, negative_prompt, seed, tags, s.status AS status,
        coalesce(s.reasons, []) AS reasons, s.error AS error FROM (
          SELECT r.unit_id AS unit_id, r.unit.campaign AS campaign, r.unit.prompt AS prompt,
            r.unit.negative_prompt AS negative_prompt, r.unit.seed AS seed, r.unit.tags AS tags,
            r.unit.position AS position, CASE WHEN {done} THEN {{'status': 'ok', 'reasons': {empty}, 'error': ''}}
            {" ".join(cases)} ELSE {{'status': 'pending', 'reasons': {empty},
            'error': coalesce({", ".join(errors)}, '')}} END AS s
          {source} WHERE {applies})
        ORDER BY position"""
    )


def _behind(survey: Survey, stage: str) -> list[Phase]:
    """The phases behind the one of a stage, as far as they are known: gates choose among its takes."""
    phases = _phases(survey)
    return phases[[p.name for p in phases].index(survey.plan.phase_of(stage).name) + 1 :]


def videos(survey: Survey) -> pa.Table:
    """One row per take that reached the last stage; none where that stage makes no videos (`--until base`). Where gates
    stand behind it, its status is that of the first of them that does not let the take pass."""
    last = stages_of(survey)[-1]
    phase, shown = survey.plan.phase_of(last).name, str(not short_of_video(survey))
    gates = [f'"v_{p.name}"' for p in _behind(survey, last)]
    joins = " ".join(f"LEFT JOIN {g} ON {g}.id = a.take_id" for g in gates)
    cases = "".join(
        f" WHEN coalesce({g}.status, 'pending') <> 'ok' THEN coalesce({g}.status, 'pending')" for g in gates
    )
    status = f"CASE WHEN a.status <> 'ok' THEN a.status{cases} ELSE a.status END"
    return survey.query(
        f"""SELECT a.artifact_id AS video_id, a.take_id, unit.prompt AS prompt,
        unit.negative_prompt AS negative_prompt, unit.seed AS seed, a.uri, a.sha256, a.width, a.height, a.n_frames,
        a.fps, {status} AS status, a.error, unit.campaign AS campaign
        FROM ({_artifact_sql(survey, last)}) a JOIN "p_{phase}" p ON p.unit_id = a.take_id {joins}
        WHERE {shown} ORDER BY unit.position"""
    )


def _judgements(survey: Survey) -> pa.Table:
    from flows.evaluate.report import judgements

    return judgements(survey)


def _uncut(survey: Survey) -> pa.Table:
    from flows.publish.uncut import uncut

    return uncut(survey)


def _decisions(survey: Survey) -> pa.Table:
    from flows.render.decisions import decisions

    return decisions(survey)


def _reviews(catalog: Catalog) -> pa.Table:
    from flows.render.reviews import read_reviews
    from stages.core.reviews import REVIEW_SCHEMA

    return pa.Table.from_pylist(read_reviews(catalog), REVIEW_SCHEMA)


RENDER_TABLES: dict[str, View] = {
    "takes": takes,
    "artifacts": artifacts,
    "videos": videos,
    "costs": costs,
    "qc": qc,
    "decisions": _decisions,
}
TABLES: dict[str, tuple[str, View]] = {
    **{name: ("render", view) for name, view in RENDER_TABLES.items()},
    **{name: ("curate", view) for name, view in curation_tables.items()},
    "uncut": ("publish", _uncut),
    "judgements": ("evaluate", _judgements),
}


def read_table(catalog: Catalog, name: str, *, run_id: str = "", everything: bool = False) -> pa.Table:
    """A table by name: of the latest run of its flow, of one run, or every row of every run.

    Raises BadInput for a name that there is not, or where no such run exists.
    """
    if name == "runs":
        table = runs_table(catalog)
        return table.filter(pa.compute.starts_with(table["run_id"], run_id)) if run_id else table
    if name == "checkpoints":
        from flows.run.promoted import checkpoints

        return checkpoints(catalog)
    if name == "datasets":
        from flows.publish.publication import datasets

        return datasets(catalog)
    if name == "reviews":
        return _reviews(catalog)
    if name not in TABLES:
        known = [*TABLES, "runs", "checkpoints", "datasets", "reviews"]
        if not name:
            raise BadInput(f"name a table: {', '.join(known)}")
        raise BadInput(f"there is no table {name!r}; {nearest(name, known)}")
    flow, view = TABLES[name]
    if not everything:
        return view(_run(catalog, flow, run_id).survey(catalog))
    return _all_runs(catalog, flow, view)


def read_tables(catalog: Catalog, names: Sequence[str], *, run_id: str = "") -> dict[str, pa.Table]:
    """Several tables of one flow's latest run, or of one run, from one reading of the store.

    Raises BadInput as `read_table` does.
    """
    (flow,) = {TABLES[name][0] for name in names}
    survey = _run(catalog, flow, run_id).survey(catalog)
    return {name: TABLES[name][1](survey) for name in names}


def _run(catalog: Catalog, flow: str, run_id: str) -> RunRecord:
    """The latest run of a flow, or the one that is named: what an evaluation has rendered is shown by its run's id."""
    if run_id and flow == "render":
        record = find_run(catalog, "", run_id)
        if record.plan.flow == "evaluate":
            return record
    return find_run(catalog, flow, run_id)


def _all_runs(catalog: Catalog, flow: str, view: View) -> pa.Table:
    """The rows of every run of a flow, each row once."""
    rows = [r for r in runs_table(catalog).to_pylist() if r["flow"] == flow]
    plans = {r["plan"] + r["jobs"]: r["run_id"] for r in rows}
    if not plans:
        raise BadInput(f"there is no {flow} run in {catalog.storage.url} yet")
    sql = connect()
    tables = [view(find_run(catalog, flow, run_id).survey(catalog)) for run_id in plans.values()]
    sql.register("every", pa.concat_tables(tables, promote_options="permissive"))
    return sql.sql("SELECT DISTINCT * FROM every").to_arrow_table()
