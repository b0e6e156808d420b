"""Seconds per stage for one warm take of the embedded cascade, one thread, and the size of the checkpoint.

python -m tests.benchmarks.bench_stages [CHECKPOINT]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from flows.render.campaign import load_campaign
from stages.core.config import load_class
from stages.core.config_files import ROOT
from stages.core.ledger.storage import Storage
from stages.core.step import Row, Workspace

TAKES = 3
EMBEDDED = ROOT / "stages" / "pretrained" / "world"


def seconds(checkpoint: Path, store: Path) -> dict[str, float]:
    """The fastest of some takes, stage by stage, after one that is not counted."""
    steps = load_campaign(["demo"], {}, [f"model.checkpoint={checkpoint}"]).steps
    workers = {name: load_class(ref.use)(ref.config, Workspace(Storage(str(store)))) for name, ref in steps.items()}
    for worker in workers.values():
        worker.setup()
    found: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(TAKES + 1):
        take: Row = {"prompt": "a red circle growing", "negative_prompt": "", "seed": number}
        done: Row = {}
        for name, worker in workers.items():
            started = time.perf_counter()
            done[name] = worker.process({**take, **dict(list(done.items())[-1:]), **done_text(done)})
            found[name].append(time.perf_counter() - started)
    return {name: min(times[1:]) for name, times in found.items()}


def done_text(done: Row) -> Row:
    """The embeddings, once they are there."""
    return {"text": done["text"]} if "text" in done else {}


def main() -> None:
    """Print one JSON line a figure."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else EMBEDDED
        each = seconds(checkpoint, Path(folder) / "store")
        size = sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file())
    for name, value in each.items():
        print(json.dumps({"figure": f"stage_seconds.{name}", "value": round(value, 3), "unit": "s"}))
    print(json.dumps({"figure": "stage_seconds.take", "value": round(sum(each.values()), 3), "unit": "s", "limit": 8}))
    print(json.dumps({"figure": "checkpoint.size", "value": round(size / 1e6, 2), "unit": "MB", "limit": 24}))


if __name__ == "__main__":
    main()
