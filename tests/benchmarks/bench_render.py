"""A campaign through all stages on Ray against one warm plain diffusers script making the same calls, in turn.

Prints wall ratios, warm and with start-up, and what is not model compute item by item (measured in-process, where every
second belongs to one thing). python -m tests.benchmarks.bench_render [TAKES] [ROUNDS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.cli.telemetry import be_quiet
from flows.render.campaign import load_campaign
from flows.run.schedule import ThreadSubmit, run_plan
from flows.run.session import open_catalog
from infra.settings import make_executor
from stages.core.config_files import ROOT
from stages.core.ledger.catalog import Catalog
from stages.core.running.run import Run
from stages.core.step import Workspace
from tests.benchmarks.plain_script import PROMPTS

CORES = os.cpu_count() or 1
EMBEDDED = ROOT / "stages" / "pretrained" / "world"


def campaign(name: str, seeds: list[int], executor: str) -> Any:
    """The demo's cascade over the script's prompts."""
    values = {"name": name, "prompts": list(PROMPTS), "seeds": seeds, "infra": {"executor": executor}}
    return load_campaign([], values, [])


def render(catalog: Catalog, asked: Any, executor: Any) -> float:
    """Seconds of one run, planning and commits and all."""
    began = time.perf_counter()
    run = Run(catalog, executor, asked.plan(catalog))
    run.begin()
    submit = ThreadSubmit()
    run_plan(run, submit, retry="transient")
    submit.close()
    run.finish("done")
    return time.perf_counter() - began


def ours(folder: Path, takes: int) -> dict[str, float]:
    """Start-up (Ray, weights, one take of each prompt) and the warm campaign, on one set of workers."""
    began = time.perf_counter()
    catalog = open_catalog(str(folder))
    first, second = campaign("warm-up", [10**6], "ray"), campaign("bench", list(range(takes // 2)), "ray")
    executor = make_executor(second.config.infra, catalog.storage)
    render(catalog, first, executor)
    startup = time.perf_counter() - began
    warm = render(catalog, second, executor)
    executor.close()
    return {"startup": startup, "warm": warm}


def plain(folder: Path, takes: int) -> dict[str, float]:
    """The same by the script, with as many threads as there are cores."""
    folder.mkdir()
    words = [sys.executable, "-m", "tests.benchmarks.plain_script", str(EMBEDDED), str(folder), str(takes), str(CORES)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES)}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


class Stopwatch:
    """Adds up the seconds spent in some functions."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def watch(self, owner: Any, attribute: str, label: str) -> None:
        """Count the time in `owner.attribute` under this label from now on."""
        inner: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.spent[label] = self.spent.get(label, 0.0) + time.perf_counter() - began

        setattr(owner, attribute, timed)


def overhead(folder: Path, takes: int) -> dict[str, float]:
    """Shares of the wall time of a warm in-process run, by what it went to."""
    import flows.run.schedule
    from stages.core.running.executor import Worker

    catalog = open_catalog(str(folder))
    second = campaign("bench", list(range(takes // 2)), "local")
    executor = make_executor(second.config.infra, catalog.storage)
    render(catalog, campaign("warm-up", [10**6], "local"), executor)
    watch = Stopwatch()
    watch.watch(Worker, "run_one", "rows")
    watch.watch(Workspace, "put", "write media")
    watch.watch(Workspace, "read", "read media")
    watch.watch(Catalog, "commit", "commit rows")
    watch.watch(flows.run.schedule, "Survey", "survey what is done")
    wall = render(catalog, second, executor)
    spent = watch.spent
    inside = spent.pop("rows")
    model = inside - spent["write media"] - spent["read media"]
    rest = wall - inside - spent["commit rows"] - spent["survey what is done"]
    items = {"model compute and encoding": model, **spent, "hand over rows": rest}
    return {name: seconds / wall for name, seconds in items.items()}


def say(figure: str, value: float, unit: str, **more: Any) -> None:
    """One JSON line."""
    print(json.dumps({"figure": f"render.{figure}", "value": round(value, 3), "unit": unit, **more}), flush=True)


def main() -> None:
    """Rounds in turn, medians of the ratios."""
    given = [int(word) for word in sys.argv[1:3]]
    takes, rounds = [*given, *(32, 3)[len(given) :]]
    be_quiet()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        pairs = [(ours(root / f"ours{i}", takes), plain(root / f"plain{i}", takes)) for i in range(rounds)]
        shares = overhead(root / "overhead", min(takes, 8))
    warm = statistics.median(a["warm"] / b["warm"] for a, b in pairs)
    whole = statistics.median((a["startup"] + a["warm"]) / (b["startup"] + b["warm"]) for a, b in pairs)
    say("warm_wall_ratio_to_plain_script", warm, "ratio", takes=takes, rounds=rounds)
    say("whole_wall_ratio_to_plain_script", whole, "ratio", takes=takes, rounds=rounds)
    for who, index in (("ours", 0), ("plain", 1)):
        for part in ("startup", "warm"):
            say(f"{who}_{part}", statistics.median(p[index][part] for p in pairs), "s")
    for item, share in shares.items():
        say(f"share.{item}", share, "of the wall time")
    say("share.not_model", 1 - shares["model compute and encoding"], "of the wall time", limit=0.1)


if __name__ == "__main__":
    main()
