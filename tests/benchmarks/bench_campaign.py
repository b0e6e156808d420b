"""How long a campaign of many rows takes before anything runs: read and validated, and planned into an empty store.

Prints one JSON line a figure, in seconds of this process on its core, without what it takes to import and to plan one
row, which is measured first. The rows are text: prompt, negative prompt, seed, guidance and tags.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import tempfile
import time
from pathlib import Path

from flows.render.campaign import load_campaign
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from stages.core.planning.survey import Survey


def write_rows(path: Path, rows: int, template: bool) -> None:
    """A csv of distinct prompts, with a column put into each where they are templates."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "negative_prompt", "seed", "guidance", "tags", *(["number"] if template else [])])
        for i in range(rows):
            named = "{{number}}" if template else str(i)
            prompt = f"a red ball number {named} rolls over a wooden table, evening light, shallow depth of field"
            writer.writerow([prompt, "blurry", i, 3, "hero,wide", *([i] if template else [])])


def measure(folder: Path, rows: int, template: bool) -> dict[str, float]:
    """Seconds on the core of one campaign."""
    path = folder / f"{rows}-{template}.csv"
    write_rows(path, rows, template)
    begun = time.process_time()
    campaign = load_campaign([], {"prompts_file": str(path), "name": "bench"}, [])
    validated = time.process_time()
    catalog = Catalog(Storage(str(folder / f"store-{rows}-{template}")))
    plan = campaign.plan(catalog)
    survey = Survey(catalog, plan)
    assert survey.counts()["text"].todo == rows
    return {"validate": validated - begun, "plan": time.process_time() - validated}


def main() -> None:
    """Measure in a temporary folder, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), 1, False)
        for template in (False, True):
            for what, seconds in measure(Path(place), options.rows, template).items():
                figure = {"figure": f"campaign_{what}", "rows": options.rows, "templates": template}
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(json.dumps({**figure, "cpu_seconds": round(seconds, 2), "peak_mb": round(peak)}))


if __name__ == "__main__":
    main()
