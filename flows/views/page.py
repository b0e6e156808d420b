"""One HTML file that shows a store: every finished video playing, with its prompt, seed and lineage, and every clip
with its scores and the reasons for its verdict. Everything is inside the file; nothing is fetched."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.views.tables import read_table
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.running.runs import RunRecord, find_run
from stages.core.step import Row

Rows = dict[str, Row]


def page_environment(folder: Path) -> Environment:
    """The templates of a folder. Values are escaped; a missing one is an error."""
    loader = FileSystemLoader(folder)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def data_uri(catalog: Catalog, uri: str, kind: str) -> str:
    """A file of the store as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(catalog.storage.read(uri)).decode()}"


def build_page(catalog: Catalog) -> str:
    """The page of the latest render and the latest curation of a store, whichever there are."""
    template = page_environment(Path(__file__).parent).get_template("page.html.j2")
    return template.render(render=_render_part(catalog), curate=_curate_part(catalog))


def _latest(catalog: Catalog, flow: str) -> RunRecord | None:
    try:
        return find_run(catalog, flow)
    except BadInput:
        return None


def _render_part(catalog: Catalog) -> dict[str, Any] | None:
    if (record := _latest(catalog, "render")) is None:
        return None
    run_id = record.row["run_id"]
    chains: dict[str, list[Row]] = {}
    for row in read_table(catalog, "artifacts", run_id=run_id).to_pylist():
        chains.setdefault(row["take_id"], []).append(row)
    videos = read_table(catalog, "videos", run_id=run_id).to_pylist()
    shown = [
        {**v, "src": data_uri(catalog, v["uri"], "video/mp4"), "chain": chains[v["take_id"]]}
        for v in videos
        if v["uri"]
    ]
    takes = read_table(catalog, "takes", run_id=run_id).to_pylist()
    config = json.loads(record.row["config"])
    return {
        "run": record.row,
        "campaign": config.get("name", ""),
        "checkpoint": (config.get("model") or {}).get("checkpoint", ""),
        "marks": {n.name: n.fingerprint for n in record.plan.nodes},
        "videos": shown,
        "unfinished": [t for t in takes if t["status"] != "ok"],
        "stages": stage_costs(chains.values()),
    }


def stage_costs(chains: Any) -> list[Row]:
    """Per stage: rows, seconds a row, core-seconds and GPU-seconds, workers. Rows that takes share count once."""
    rows = {r["artifact_id"]: r for chain in chains for r in chain}
    costs = []
    for stage in dict.fromkeys(r["stage"] for r in rows.values()):
        mine = [r for r in rows.values() if r["stage"] == stage]
        seconds = sum((r["ended"] - r["started"]).total_seconds() for r in mine)
        costs.append(
            {
                "stage": stage,
                "rows": len(mine),
                "seconds": seconds / len(mine),
                "core_seconds": sum(r["core_seconds"] for r in mine),
                "gpu_seconds": sum(r["gpu_seconds"] for r in mine),
                "workers": len({r["worker"] for r in mine}),
            }
        )
    return costs


def _curate_part(catalog: Catalog) -> dict[str, Any] | None:
    if (record := _latest(catalog, "curate")) is None:
        return None
    run_id = record.row["run_id"]

    def rows(name: str) -> list[Row]:
        table: list[Row] = read_table(catalog, name, run_id=run_id).to_pylist()
        return table

    scores, verdicts = ({r["clip_id"]: r for r in rows(name)} for name in ("scores", "verdicts"))
    captions: dict[str, list[Row]] = {}
    for caption in rows("captions"):
        captions.setdefault(caption["clip_id"], []).append(caption)
    pictures = thumbnails(record.survey(catalog))
    clips = [
        _clip(catalog, {**c, "thumb": pictures.get(c["clip_id"], "")}, scores, verdicts, captions)
        for c in rows("clips")
    ]
    return {"run": record.row, "clips": clips, "sources": rows("sources")}


def thumbnails(survey: Survey) -> dict[str, str]:
    """The uri of each clip's picture; none where no step makes them."""
    nodes = survey.plan.of_kind("thumbs")
    return {r["clip_id"]: r["uri"] for n in nodes for r in survey.table(n.name).to_pylist()}


def _clip(catalog: Catalog, clip: Row, scores: Rows, verdicts: Rows, captions: dict[str, list[Row]]) -> Row:
    mine = scores.get(clip["clip_id"], {})
    verdict = verdicts.get(clip["clip_id"], {"status": "", "reasons": []})
    return {
        **clip,
        "src": data_uri(catalog, clip["thumb"], "image/jpeg") if clip["thumb"] else "",
        "scores": [(name, value) for name, value in mine.items() if name != "clip_id" and _is_shown(value)],
        "status": verdict["status"],
        "reasons": [reason_text(r) for r in verdict["reasons"]],
        "captions": _merged_captions(captions.get(clip["clip_id"], [])),
    }


def _is_shown(value: Any) -> bool:
    """Numbers and words; lists (colours, features) and what was not measured are left out."""
    return isinstance(value, int | float | str) and value != ""


def _merged_captions(captions: list[Row]) -> list[Row]:
    """Captions of equal text as one, with all their kinds."""
    kinds: dict[str, list[str]] = {}
    for caption in captions:
        kinds.setdefault(caption["text"], []).append(caption["kind"])
    return [{"text": text, "kinds": ", ".join(names)} for text, names in kinds.items()]


def reason_text(reason: Row) -> str:
    """A typed reason as a sentence."""
    return f"{reason['metric']} is {reason['value']}, required {reason['op']} {reason['threshold']}"


def write_page(catalog: Catalog, name: str) -> str:
    """Keep the page in the store under this name. Returns where it lies: a path on local disk, else a URL."""
    catalog.storage.write(name, build_page(catalog).encode())
    local = catalog.storage.local_path(name)
    return str(local) if local else f"{catalog.storage.url}/{name}"
