"""What came of an evaluation: the judge's figures, distances of sets, and a row per clip."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.evaluate.evaluation import FLOW, Evaluation
from flows.render.qc import KIND
from stages.core.config import load_class
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.running.runs import find_run


def check_out(out: str) -> Path:
    """Where the figures go. Raises BadInput for a place that cannot be written to."""
    path = Path(out).expanduser()
    if path.suffix != ".json":
        raise BadInput(f"--out {out}: the name must end in .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK) and not path.is_dir()
    except OSError as error:
        raise BadInput(f"--out {out} cannot be written: {error.strerror}") from None
    if not writable:
        raise BadInput(f"--out {out} cannot be written")
    return path


def write_report(catalog: Catalog, run_id: str, evaluation: Evaluation, out: Path) -> dict[str, Any]:
    """Write what a run found as JSON, whole or not at all, and return it. Raises BadInput where that cannot be."""
    found = make_report(catalog, run_id, evaluation)
    building = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        building.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(building, out)
    except OSError as error:
        building.unlink(missing_ok=True)
        raise BadInput(f"--out {out} cannot be written: {error.strerror}; run the same command again") from None
    return found


def make_report(catalog: Catalog, run_id: str, evaluation: Evaluation) -> dict[str, Any]:
    """The judge's figures over every judged clip of a run, and what they are figures of."""
    from stages.core.measures.world.figures import report

    record = find_run(catalog, FLOW, run_id)
    rows = judgements(record.survey(catalog)).to_pylist()
    judged = [r for r in rows if r["status"] == "ok"]
    weights = {n.name: dict(n.weights) for n in record.plan.nodes if n.weights}
    return {
        **report(judged),
        **distances(record.survey(catalog)),
        "clips": len(rows),
        "failed": sum(r["status"] not in ("ok", "pending") for r in rows),
        "name": evaluation.config.name,
        "seeds": sorted({r["seed"] for r in rows}),
        "weights": weights,
    }


def distances(survey: Any) -> dict[str, Any]:
    """`fvd` and `fid` (None where refused), and `distances`: between how many vectors, by which method, why refused."""
    compared = [n.name for n in survey.plan.of_kind("distances") if n.name in survey.jobs]
    if not compared:
        return {}
    rows = {r["distance"]: r for r in survey.table(compared[0]).to_pylist()}
    known = {name: None if r["refused"] else r["value"] for name, r in rows.items()}
    kept = ("judged", "reference", "refused", "source")
    return {**known, "distances": {name: {k: r[k] for k in kept} for name, r in rows.items()}}


def judgements(survey: Any) -> pa.Table:
    """One row per clip: what was asked, what was found in it whole and in each quarter, and what of it is right."""
    names = [n.name for n in survey.plan.phases[0].steps if n.kind != KIND]  # what fails QC is judged all the same
    node = survey.plan.of_kind("judgement")[0]
    judge, columns = node.name, load_class(node.use, node.name).writes.names
    bad = " ".join(f"""WHEN "set_{n}" AND NOT "ok_{n}" THEN '{n}: ' || coalesce("{n}".error, '')""" for n in names)
    wanted = ", ".join(f'"{judge}".{c}' for c in columns)
    state = " ".join(f"""WHEN "set_{n}" AND NOT "ok_{n}" THEN "{n}".status""" for n in names)
    return survey.query(
        f"""SELECT unit_id AS take_id, unit.prompt AS prompt, unit.seed AS seed, unit.path AS path,
        CASE WHEN "ok_{judge}" THEN 'ok' {state} ELSE 'pending' END AS status, {wanted},
        CASE WHEN "ok_{judge}" THEN '' {bad} ELSE '' END AS error
        FROM "p_roots" WHERE "applies_{judge}" ORDER BY unit.position"""
    )
