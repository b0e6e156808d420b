"""One HTML file that shows a store: every finished video playing, with its prompt, seed and lineage, and every clip
with its scores and the reasons for its verdict; clips that are published play, of others there is a still. Everything
is inside the file, or heavy videos in a folder beside it; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.curate.clip_text import NO_SCORES
from flows.display.html import data_uri, page_environment
from flows.render.qc import marks
from flows.views.clip_files import published_clips
from flows.views.tables import read_table, read_tables
from flows.words import reason_text, span_text, told_apart
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.running.runs import RunRecord, find_run
from stages.core.step import Row

Rows = dict[str, Row]
VideoSource = Callable[[Row], str]
"""What `src` of a video is: of a row with `uri`, its file in the store, and `video_id`."""
INSIDE_MB = 50


def build_page(catalog: Catalog, run_id: str = "", video_source: VideoSource | None = None) -> str:
    """The page of the latest render and the latest curation of a store, whichever there are; or of one run.

    video_source: what `src` of a video is; by default the video itself. Raises BadInput where there is no such run.
    """
    video_source = video_source or partial(_inside, catalog)
    flows = [find_run(catalog, "", run_id).plan.flow] if run_id else ["render", "curate"]
    records = {flow: _latest(catalog, flow, run_id) for flow in flows if flow in ("render", "curate")}
    if not any(records.values()):
        raise BadInput(f"there is no render and no curation in {catalog.storage.url} to show")
    render, curate = records.get("render"), records.get("curate")
    template = page_environment(Path(__file__).parent).get_template("page.html.j2")
    return template.render(
        render=_render_part(catalog, render, video_source) if render else None,
        curate=_curate_part(catalog, curate, video_source) if curate else None,
    )


def _inside(catalog: Catalog, video: Row) -> str:
    return data_uri(catalog, video["uri"], "video/mp4")


def _in_store(video: Row) -> str:
    return quote(video["uri"])


def _latest(catalog: Catalog, flow: str, run_id: str) -> RunRecord | None:
    try:
        return find_run(catalog, flow, run_id)
    except BadInput:
        return None


def _render_part(catalog: Catalog, record: RunRecord, video_source: VideoSource) -> dict[str, Any]:
    run_id = record.row["run_id"]
    chains: dict[str, list[Row]] = {}
    artifacts, videos, takes, looked_at = _rows(catalog, ("artifacts", "videos", "takes", "qc"), run_id)
    for row in artifacts:
        chains.setdefault(row["take_id"], []).append(row)
    asked, faults = {t["take_id"]: t for t in takes}, marks(looked_at)
    shown = [
        {
            **v,
            "src": video_source(v),
            "chain": chains[v["take_id"]],
            "tags": asked[v["take_id"]]["tags"],
            "faults": faults.get(v["take_id"], []),
        }
        for v in videos
        if v["uri"]
    ]
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


def _curate_part(catalog: Catalog, record: RunRecord, video_source: VideoSource) -> dict[str, Any]:
    names = ("sources", "clips", "scores", "verdicts", "captions")
    sources, spans, *of_clips, texts = _rows(catalog, names, record.row["run_id"])
    scores, verdicts = ({r["clip_id"]: r for r in rows} for rows in of_clips)
    captions: dict[str, list[Row]] = {}
    for caption in texts:
        captions.setdefault(caption["clip_id"], []).append(caption)
    pictures = thumbnails(record.survey(catalog))
    files = published_clips(catalog, [c["clip_id"] for c in spans])
    titles = told_apart(r["uri"] for r in sources)
    called = {c["clip_id"]: f"{titles[c['uri']]}, {span_text(c['start_s'], c['end_s'])}" for c in spans}
    clips = []
    for clip in spans:
        clip_id, uri = clip["clip_id"], files.get(clip["clip_id"], "")
        more = {
            "name": called[clip_id],
            "thumb": pictures.get(clip_id, ""),
            "video": video_source({"video_id": clip_id, "uri": uri}) if uri else "",
        }
        clips.append(_clip(catalog, {**clip, **more}, scores, verdicts, captions, called))
    used = [row for row in sources if row["status"] == "ok"]
    return {"run": record.row, "clips": clips, "sources": used, "files": len(sources)}


def _rows(catalog: Catalog, names: Sequence[str], run_id: str) -> list[list[Row]]:
    """Tables of one run, as rows, in the order of their names."""
    tables = read_tables(catalog, names, run_id=run_id)
    return [tables[name].to_pylist() for name in names]


def thumbnails(survey: Survey) -> dict[str, str]:
    """The uri of each clip's picture; none where no step makes them."""
    nodes = survey.plan.of_kind("thumbs")
    return {r["clip_id"]: r["uri"] for n in nodes for r in survey.table(n.name).to_pylist()}


def _clip(
    catalog: Catalog,
    clip: Row,
    scores: Rows,
    verdicts: Rows,
    captions: dict[str, list[Row]],
    called: Mapping[str, str],
) -> Row:
    mine = scores.get(clip["clip_id"], {})
    verdict = verdicts.get(clip["clip_id"], {"status": "", "reasons": []})
    return {
        **clip,
        "src": data_uri(catalog, clip["thumb"], "image/jpeg") if clip["thumb"] else "",
        "scores": [(name, value) for name, value in mine.items() if name not in NO_SCORES and _is_shown(value)],
        "status": verdict["status"],
        "reasons": [reason_text(r, called) for r in verdict["reasons"]],
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
    """Keep the page in the store under this name. Videos are inside it up to INSIDE_MB together, else it plays the
    store's own files. Returns where it lies: a path on local disk, else a URL."""
    heavy = _video_bytes(catalog, "") > INSIDE_MB * 1e6
    page = build_page(catalog, video_source=_in_store if heavy else None)
    catalog.storage.write(name, page.encode())
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
    """What the videos and the published clips of a page take together."""
    uris = list[str]()
    with suppress(BadInput):  # there is no render
        uris += [v["uri"] for v in read_table(catalog, "videos", run_id=run_id).to_pylist() if v["uri"]]
    with suppress(BadInput):  # there is no curation, or it has no clips
        clips = read_table(catalog, "clips", run_id=run_id)["clip_id"].to_pylist()
        uris += published_clips(catalog, clips).values()
    found = (catalog.storage.info(uri) for uri in uris)
    return sum(info.size for info in found if info)
