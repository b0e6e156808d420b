"""One HTML file that shows a store: every finished video playing, with its prompt, seed and lineage, and every clip
with its scores and the reasons for its verdict. Everything is inside the file; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.display.html import data_uri, page_environment
from flows.views.tables import read_table, read_tables
from flows.words import reason_text
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.running.runs import RunRecord, find_run
from stages.core.step import Row

Rows = dict[str, Row]
VideoSource = Callable[[Row], str]
INSIDE_MB = 50


def build_page(catalog: Catalog, run_id: str = "", video_source: VideoSource | None = None) -> str:
    """The page of the latest render and the latest curation of a store, whichever there are; or of one run.

    video_source: what `src` of a row of the table `videos` is; by default the video itself. Raises BadInput where
    there is no such run.
    """
    flows = [find_run(catalog, "", run_id).plan.flow] if run_id else ["render", "curate"]
    records = {flow: _latest(catalog, flow, run_id) for flow in flows if flow in ("render", "curate")}
    if not any(records.values()):
        raise BadInput(f"there is no render and no curation in {catalog.storage.url} to show")
    render, curate = records.get("render"), records.get("curate")
    template = page_environment(Path(__file__).parent).get_template("page.html.j2")
    return template.render(
        render=_render_part(catalog, render, video_source or partial(_inside, catalog)) if render else None,
        curate=_curate_part(catalog, curate) if curate else None,
    )


def _inside(catalog: Catalog, video: Row) -> str:
    return data_uri(catalog, video["uri"], "video/mp4")


def _latest(catalog: Catalog, flow: str, run_id: str) -> RunRecord | None:
    try:
        return find_run(catalog, flow, run_id)
    except BadInput:
        return None


def _render_part(catalog: Catalog, record: RunRecord, video_source: VideoSource) -> dict[str, Any]:
    run_id = record.row["run_id"]
    chains: dict[str, list[Row]] = {}
    artifacts, videos, takes = _rows(catalog, ("artifacts", "videos", "takes"), run_id)
    for row in artifacts:
        chains.setdefault(row["take_id"], []).append(row)
    shown = [{**v, "src": video_source(v), "chain": chains[v["take_id"]]} for v in videos if v["uri"]]
    config = json.loads(record.row["config"])
    return {
        "run": record.row,
        "campaign": config.get("name", ""),
        "checkpoint": (config.get("model") or {}).get("checkpoint", ""),
        "marks": {n.name: n.fingerprint for n in record.plan.nodes},
        "videos": shown,
        "takes": len(takes),
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


def _curate_part(catalog: Catalog, record: RunRecord) -> dict[str, Any]:
    names = ("sources", "clips", "scores", "verdicts", "captions")
    sources, spans, *of_clips, texts = _rows(catalog, names, record.row["run_id"])
    scores, verdicts = ({r["clip_id"]: r for r in rows} for rows in of_clips)
    captions: dict[str, list[Row]] = {}
    for caption in texts:
        captions.setdefault(caption["clip_id"], []).append(caption)
    pictures = thumbnails(record.survey(catalog))
    clips = [_clip(catalog, {**c, "thumb": pictures.get(c["clip_id"], "")}, scores, verdicts, captions) for c in spans]
    return {"run": record.row, "clips": clips, "sources": [row for row in sources if row["status"] == "ok"]}


def _rows(catalog: Catalog, names: Sequence[str], run_id: str) -> list[list[Row]]:
    """Tables of one run, as rows, in the order of their names."""
    tables = read_tables(catalog, names, run_id=run_id)
    return [tables[name].to_pylist() for name in names]


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


def write_page(catalog: Catalog, name: str) -> str:
    """Keep the page in the store under this name. Returns where it lies: a path on local disk, else a URL."""
    catalog.storage.write(name, build_page(catalog).encode())
    return catalog.storage.place(name)


def export_page(catalog: Catalog, out: Path, run_id: str = "") -> str:
    """Write the page to a file. Videos are inside it up to INSIDE_MB together, else in a folder beside it.

    Raises BadInput where the file cannot be written, or where there is nothing to show.
    """
    files = Path(f"{out}.files")

    def beside(video: Row) -> str:
        files.mkdir(parents=True, exist_ok=True)
        name = f"{video['video_id']}.mp4"
        (files / name).write_bytes(catalog.storage.read(video["uri"]))
        return f"{quote(files.name)}/{name}"

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        heavy = _video_bytes(catalog, run_id) > INSIDE_MB * 1e6
        out.write_text(build_page(catalog, run_id, beside if heavy else None), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None
    return str(out)


def _video_bytes(catalog: Catalog, run_id: str) -> int:
    try:
        videos = read_table(catalog, "videos", run_id=run_id).to_pylist()
    except BadInput:
        return 0
    found = (catalog.storage.info(v["uri"]) for v in videos if v["uri"])
    return sum(info.size for info in found if info)
