"""How long planning takes: 1M units through three nodes, a tenth of the last node's rows missing.

Prints one JSON line a figure: seconds (median), peak memory, and the ratio to a bare DuckDB scan of the same columns of
the same Parquet. Each measurement is a process of its own, so that peaks are its own too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stages.core.identity import depends_key
from stages.core.ledger.catalog import DISTINCT, LEDGER, Catalog, connect
from stages.core.ledger.storage import Storage
from stages.core.planning.plan import Binding, Node, Plan
from stages.core.planning.survey import Survey

NAMES = ("text", "base", "decode")
DEPENDS = {"text": ("prompt",), "base": ("seed", "width"), "decode": ()}
COLUMNS = ("id", "parents", "depends", "status", "error_kind", "attempt")


def plan() -> Plan:
    """Three steps, each after the one before; every take has its own rows."""
    nodes = [
        Node(
            name,
            f"stages.{name}:{name.title()}",
            f"{i:032x}",
            ports=(Binding("before", NAMES[i - 1 : i]),) if i else (),
            depends=DEPENDS[name],
        )
        for i, name in enumerate(NAMES)
    ]
    return Plan("render", "roots/bench.parquet", tuple(nodes))


def fill(root: Path, rows: int, parts: int) -> None:
    """Roots and ledger parts as runs would leave them, with the last tenth of the last node missing."""
    sql = connect()
    (root / "roots").mkdir(parents=True)
    distinct = json.dumps([depends_key(c) for c in DEPENDS.values() if c])  # as `put_roots` notes it
    note = f"FORMAT parquet, KV_METADATA {{'{DISTINCT.decode()}': '{distinct}'}}"
    keys = "".join(f", md5('{name}' || i) AS {depends_key(c)}" for name, c in DEPENDS.items() if c)
    ids = "md5('take' || i) AS id, i AS position, i % 4 AS seed, 128 AS width, 'a red ball rolls ' || i AS prompt"
    sql.execute(f"COPY (SELECT {ids}{keys} FROM range({rows}) t(i)) TO '{root}/roots/bench.parquet' ({note})")
    for number, node in enumerate(plan().nodes):
        folder = root / "tables" / node.name / node.fingerprint
        folder.mkdir(parents=True)
        before = NAMES[number - 1] if number else ""
        there = rows * 9 // 10 if number == len(NAMES) - 1 else rows
        size = -(-there // parts)
        for part in range(parts):
            path = folder / f"part-{part:032x}.parquet"
            _write_part(sql, path, node.name, before, part * size, min(there, part * size + size))


def _write_part(sql, path: Path, name: str, before: str, first: int, end: int) -> None:
    values = {
        "id": f"md5('{name}' || i)",
        "parents": f"md5('{before}' || i)" if before else "''",
        "depends": f"md5('{name}' || i)" if DEPENDS[name] else "''",
        "status": "'ok'",
        "attempt": "1::INTEGER",
        "run_id": "'20260101T000000-12345678'",
        "worker": "'host/1234'",
        "started": "TIMESTAMPTZ '2026-01-01' + to_seconds(i)",
        "ended": "TIMESTAMPTZ '2026-01-01' + to_seconds(i + 1)",
        "core_seconds": "random()",
        "gpu_seconds": "0.0::DOUBLE",
        "peak_memory_mb": "100 + random()",
        "reasons": '[]::STRUCT(step VARCHAR, metric VARCHAR, "value" VARCHAR, op VARCHAR, threshold VARCHAR)[]',
    }
    columns = ", ".join(f"{values.get(n, repr(''))} AS {n}" for n in LEDGER.names)
    own = f"'media/ab/' || md5('{name}file' || i) || '.mp4' AS uri, md5('{name}file' || i) AS sha256, i AS size"
    sql.execute(f"COPY (SELECT {columns}, {own} FROM range({first}, {end}) t(i)) TO '{path}' (COMPRESSION zstd)")


def measure(what: str, root: str) -> dict[str, float]:
    """One measurement in this process: seconds and peak memory."""
    catalog = Catalog(Storage(root))
    clock, cpu = time.perf_counter(), time.process_time()
    if what == "scan":
        sql = connect()
        for node in plan().nodes:
            source = catalog.scan(sql, catalog.parts(node.name, node.fingerprint))
            sql.execute(f"SELECT {', '.join(f'max({c})' for c in COLUMNS)} FROM {source}").fetchall()
    else:
        survey = Survey(catalog, plan())
        counts = survey.counts()
        if what == "items":
            assert len(survey.items(plan().phases[0])) == counts["decode"].todo
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Fill a store in a temporary folder, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=20, help="Parquet parts a node")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), options.rows, options.parts)
        found = {
            what: [_in_process(what, folder) for _ in range(options.repeat)] for what in ("scan", "counts", "items")
        }
    seconds = {what: statistics.median(m["seconds"] for m in runs) for what, runs in found.items()}
    for what, runs in found.items():
        figure = {
            "figure": f"plan_{what}",
            "units": options.rows,
            "nodes": len(NAMES),
            "parts": options.parts,
            "seconds": round(seconds[what], 3),
            "cpu_seconds": round(statistics.median(m["cpu_seconds"] for m in runs), 3),
            "peak_mb": round(max(m["peak_mb"] for m in runs)),
            "ratio_to_scan": round(seconds[what] / seconds["scan"], 2),
        }
        print(json.dumps(figure))


def _in_process(what: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_plan", "--measure", what, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
