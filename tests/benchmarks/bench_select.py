"""How long another threshold takes: 1M clips with 12 scores each, from the stored scores to committed verdicts.

A store is filled as a curation of 10,000 sources would leave it, then curated again with other thresholds. Prints one
JSON line a figure: `reselect` (from the stored scores read to the verdicts of `select` and of `dedup` committed),
`reselect_whole` (the same with the plan looked at before), `report` (the whole page).
Each measurement is a process of its own; importing and the listing of the sources are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.sources.listing import ROOTS
from flows.curate.curation import load_curation
from flows.run.session import open_catalog
from stages.core.config import load_class
from stages.core.identity import depends_key
from stages.core.ledger.catalog import ROOTS as ROOTS_FOLDER
from stages.core.ledger.catalog import Catalog, connect, ledger_schema, with_depends
from stages.core.planning.plan import Node, Plan
from stages.core.running.executor import LocalExecutor
from stages.core.running.run import Run

PER_SOURCE, SECONDS = 100, 4
BEFORE = ["select.motion.min=0.001"]
AFTER = ["select.motion.min=0.01", "select.sharpness.min=40"]
STEPS = ("ingest", "analyse", "cuts", "clips", "scores", "prints", "thumbs")
SHARE = "(md5_number_lower('{}/' || {})::HUGEINT % 1000000) / 1000000.0"
"""SQL: an even number from 0 to 1 that a name and a row decide."""

LEDGER_VALUES = {
    "status": "'ok'",
    "reasons": "[]",
    "attempt": "1",
    "run_id": "'before'",
    "worker": "'bench/1'",
    "setups": "1",
    "started": "now()",
    "ended": "now()",
}
SOURCE_ID = "left(sha256(sha256('source' || i) || '/' || 0), 32)"
SOURCE_VALUES = {
    "sha256": "sha256('source' || i)",
    "display_width": "1280",
    "display_height": "720",
    "width": "1280",
    "height": "720",
    "fps": "25.0",
    "duration_s": f"{PER_SOURCE * SECONDS}.0",
    "n_frames": f"{PER_SOURCE * SECONDS * 25}",
    "time_base_num": "1",
    "time_base_den": "25",
    "bitrate": "2000000 + i * 100",
    "codec": "'h264'",
    "container": "'mp4'",
}
CLIP_VALUES = {
    "id": "md5('clip' || n)",
    "clip_id": "md5('clip' || n)",
    "source_id": SOURCE_ID.replace("i)", "(n // 100))", 1),
    "start_frame": "(n % 100) * 100",
    "end_frame": "(n % 100) * 100 + 100",
    "n_frames": "100",
    "start_pts": "(n % 100) * 100",
    "end_pts": "(n % 100) * 100 + 100",
    "start_s": "(n % 100) * 4.0",
    "end_s": "(n % 100) * 4.0 + 4.0",
    "camera_motion": "['static', 'pan', 'tilt', 'zoom', 'handheld'][1 + n % 5]",
    "colours": "['grey']",
    "hashes": "[n, n, n, n, n, n, n, n]::UBIGINT[]",
    "tiny": "repeat('x', 496)::BLOB",
    "motion": SHARE.format("motion", "n") + " ** 4",
    "luma": "255 * " + SHARE.format("luma", "n"),
    "sharpness": "1000 * " + SHARE.format("sharpness", "n") + " ** 2",
    "contrast": "90 * " + SHARE.format("contrast", "n"),
    "uri": "'media/aa/' || md5('thumb' || n) || '.jpg'",
    "sha256": "md5('thumb' || n)",
}


def planned(catalog: Catalog, folder: Path, words: list[str]) -> Plan:
    """The plan of a curation up to its kept clips, over sources that are only listed."""
    draft = load_curation([str(folder / "list.txt")], "curate", {"until": "dedup"}, words).draft
    return replace(draft, roots=next((f.uri for f in catalog.storage.files(ROOTS_FOLDER)), ""))


def fill(folder: Path, clips: int) -> None:
    """A listing, the rows of every step, and the jobs of a run with the first thresholds."""
    (folder / "list.txt").write_text("nothing\n")
    catalog = open_catalog(str(folder / "store"))
    sources = clips // PER_SOURCE
    plan = planned(catalog, folder, BEFORE)
    sql = connect()
    roots = {"id": "'r' || i", "position": "i", "uri": "'/footage/' || i || '.mp4'", "size": "1"}
    columns = ", ".join(_column(f, roots) for f in ROOTS)
    listing = sql.sql(f"SELECT {columns} FROM range({sources}) t(i)").to_arrow_table()
    catalog.put_roots(listing, ROOTS, "bench", plan.phases[0].depends)
    plan = planned(catalog, folder, BEFORE)
    known = sql.sql(f"SELECT i, {SOURCE_ID} AS source_id FROM range({sources}) t(i)").to_arrow_table()
    given = with_depends(listing, plan.phases[0].depends).append_column("source_id", known.column("source_id"))
    marks = with_depends(given, plan.phases[1].depends)
    sql.register("marks", marks.append_column("i", known.column("i")))
    for name in STEPS:
        _write_step(sql, folder / "store", plan.node(name), sources)
    put_copies(catalog, plan)
    jobs(catalog, plan)


def _column(field: pa.Field, values: dict[str, str]) -> str:
    """A column of the right type: what is given, else an empty or an even value."""
    kind = _sql_type(field.type)
    if field.name in values:
        return f"({values[field.name]})::{kind} AS {field.name}"
    empty = SHARE.format(field.name, "n") if kind == "DOUBLE" and "clip_id" in values else "NULL"
    fallback = {"VARCHAR": "''", "BIGINT": "0", "INTEGER": "0", "BOOLEAN": "false"}.get(kind, empty)
    return f"({fallback})::{kind} AS {field.name}"


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"STRUCT({', '.join(f'{f.name} {_sql_type(f.type)}' for f in kind)})"
    names = {"string": "VARCHAR", "int64": "BIGINT", "int32": "INTEGER", "double": "DOUBLE", "bool": "BOOLEAN"}
    return {**names, "uint64": "UBIGINT", "binary": "BLOB"}.get(str(kind), "TIMESTAMPTZ")


def _write_step(sql: Any, store: Path, node: Node, sources: int, parts: int = 8) -> None:
    """The ledger rows of one step, in some parts."""
    cls = load_class(node.use, node.name)
    schema = ledger_schema(cls.writes, node.fan_out)  # type: ignore[union-attr]
    values = {
        **LEDGER_VALUES,
        **SOURCE_VALUES,
        "id": f"md5('{node.name}' || i)",
        "parents": " || '/' || ".join(f"md5('{b.nodes[0]}' || i)" for b in node.ports) or "''",
        "depends": depends_key(node.depends) if node.depends else "''",
    }
    folder = store / "tables" / node.name / node.fingerprint
    folder.mkdir(parents=True)
    size = -(-sources // parts)
    for part in range(parts):
        first, end = part * size, min(sources, (part + 1) * size)
        own = [_column(f, values) for f in schema if f.name != "rows"]
        units = f"(FROM marks WHERE i >= {first} AND i < {end}) t"
        query = f"SELECT {', '.join(own)} FROM {units}"
        if node.fan_out:
            child = schema.field("rows").type.value_type
            fields = [_column(f, CLIP_VALUES).rsplit(" AS ", 1) for f in child]
            struct = ", ".join(f"'{name}': {expression}" for expression, name in fields)
            empty = "false" if node.name == "cuts" else "true"
            span = f"range({first * PER_SOURCE}, {end * PER_SOURCE}) c(n)"
            query = f"""SELECT {", ".join(own)}, coalesce(r.rows, []) AS rows
                FROM {units} LEFT JOIN (
                SELECT n // {PER_SOURCE} AS i, list({{{struct}}} ORDER BY n) AS rows
                FROM {span} WHERE {empty} GROUP BY 1) r USING (i)"""
        sql.execute(f"COPY ({query}) TO '{folder}/part-{part:032x}.parquet' (COMPRESSION zstd)")


def jobs(catalog: Catalog, plan: Plan) -> tuple[Run, dict[str, float]]:
    """Do the jobs of a plan that are still to do; the seconds of each."""
    run = Run(catalog, LocalExecutor(catalog.storage), plan)
    spent = {}
    for node in (n for n in plan.nodes if n.job):
        clock = time.perf_counter()
        run.do_job(node)
        spent[node.name] = time.perf_counter() - clock
    return run, spent


def put_copies(catalog: Catalog, plan: Plan) -> None:
    """Pairs that a search would have found, one clip in a hundred: the search itself is not measured here."""
    run, node = Run(catalog, LocalExecutor(catalog.storage), plan), plan.node("copies")
    run.do_job(plan.node("sources"))
    survey = run.look()
    pairs = survey.query(
        f"""SELECT md5(a.clip_id) AS id, a.clip_id AS clip_a, b.clip_id AS clip_b, 'perceptual' AS kind,
        1.0 AS distance FROM {survey.view("clips")} a JOIN {survey.view("clips")} b
        ON b.source_id = a.source_id AND b.start_frame = a.start_frame + 100 WHERE a.start_frame = 5000"""
    )
    catalog.commit_table(node.name, node.fingerprint, pairs, f"job-{survey.job_digest(node)}")


def measure(what: str, folder: str) -> dict[str, Any]:
    """One measurement in this process: seconds and peak memory."""
    root = Path(folder)
    catalog = open_catalog(str(root / "store"))
    words = [AFTER[0], f"select.sharpness.min={40 + os.getpid() % 1000 / 1000}"]
    extra: dict[str, Any] = {}
    if what == "report":
        from flows.curate.report import build_report

        run, _ = jobs(catalog, planned(catalog, root, BEFORE))
        run.finish("done")
        clock, cpu = time.perf_counter(), time.process_time()
        extra["page_mb"] = round(len(build_report(catalog)) / 1e6, 2)
        seconds = time.perf_counter() - clock
    else:
        import data_prep.dedup.dedup
        import data_prep.select  # noqa: F401

        plan = planned(catalog, root, words)
        clock, cpu = time.perf_counter(), time.process_time()
        _, spent = jobs(catalog, plan)
        seconds = spent["select"] + spent["dedup"]
        if what == "reselect_whole":
            seconds = time.perf_counter() - clock
        extra["select_seconds"] = round(spent["select"], 3)
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **extra,
    }


def main() -> None:
    """Fill a store in a temporary folder, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--fill", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    if options.fill:
        fill(Path(options.fill), options.clips)
        return
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), options.clips)
        for what, limit in (("reselect", 5.0), ("reselect_whole", None), ("report", 30.0)):
            runs = [_in_process(what, folder) for _ in range(options.repeat)]
            figure = {
                "figure": what,
                "clips": options.clips,
                "scores": 12,
                "seconds": round(statistics.median(r["seconds"] for r in runs), 3),
                "cpu_seconds": round(statistics.median(r["cpu_seconds"] for r in runs), 3),
                "peak_mb": round(max(r["peak_mb"] for r in runs)),
                "load": round(os.getloadavg()[0], 1),
                **({"select_seconds": runs[0]["select_seconds"]} if "select_seconds" in runs[0] else {}),
                **({"limit_seconds": limit} if limit else {}),
            }
            print(json.dumps(figure), flush=True)


def _in_process(what: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_select", "--measure", what, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
