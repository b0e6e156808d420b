"""What a run came to, in words and pictures: the numbers, why the rest is missing, a contact sheet, and its page."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flows.prefect.contact_sheet import contact_sheet
from flows.run.session import Outcome, Prepared
from flows.words import COMPARED, cause_text, counted, error_text, told_apart
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.running.runs import find_run
from stages.core.step import Row

MOST_REASONS, MOST_PICTURES, MOST_ON_PAGE = 12, 20, 60


@dataclass
class Ending:
    """Sentences with the numbers; (how many, why) of what is missing; a JPEG; name -> place of what can be opened."""

    lines: list[str] = field(default_factory=list)
    reasons: list[tuple[int, str]] = field(default_factory=list)
    sheet: bytes = b""
    places: dict[str, str] = field(default_factory=dict)


def ending_of(prepared: Prepared, outcome: Outcome, checked: Any = None, page: bool = True) -> Ending:
    """What a run of a flow came to. Empty where it ended before there was anything to tell.

    checked: the checked config, where a flow needs it to tell; page: whether to write the page of what was made, too
    """
    survey = find_run(prepared.catalog, prepared.plan.flow, outcome.run_id).survey(prepared.catalog)
    try:
        ending = ENDINGS[prepared.plan.flow](prepared, outcome, survey, checked)
        if page and (pages := PAGES.get(prepared.plan.flow)):
            ending.places |= pages(prepared, outcome, survey)
    except BadInput:  # what is asked for was not made yet
        return Ending()
    return ending


def cause(row: Row) -> str:
    """Why a row is not ok, in one line: a typed reason, or its error without the names of the code."""
    if row.get("reasons"):
        return "; ".join(map(_threshold, row["reasons"]))
    return error_text((row.get("error") or "").partition("\n")[0]) or str(row["status"])


def tally(rows: Iterable[Row]) -> list[tuple[int, str]]:
    """(how many, why), the most frequent first."""
    counts = Counter(cause(row) for row in rows)
    return [(count, why) for why, count in counts.most_common(MOST_REASONS)]


# -- flow by flow ------------------------------------------------------------------------------------------------------


def _render(prepared: Prepared, outcome: Outcome, survey: Survey, checked: Any) -> Ending:
    from flows.render.decisions import gate_lines
    from flows.render.ending import fitted
    from flows.render.qc import qc, qc_lines
    from flows.views.tables import picture_notes, short_of_video, takes, videos

    asked, found = takes(survey).to_pylist(), [v for v in videos(survey).to_pylist() if v["status"] == "ok"]
    waiting = sum(t["status"] == "pending" for t in asked)
    lines = [f"{len(found)} of {counted(len(asked), 'video')} finished"]
    if last := short_of_video(survey):
        lines = [f"{sum(t['status'] == 'ok' for t in asked)} of {counted(len(asked), 'take')} finished {last}"]
    lines += [f"{waiting} still to do"] if waiting else []
    lines += gate_lines(survey, prepared.store)
    lines += qc_lines(qc(survey).to_pylist(), prepared.store)
    lines += [*fitted(picture_notes(survey), prepared.store), *(checked.remarks if checked else ())]
    missing = tally(t for t in asked if t["status"] not in ("ok", "pending", "waiting"))
    return Ending(lines, missing, _sheet_of_videos(prepared.catalog, found))


def _render_page(prepared: Prepared, outcome: Outcome, survey: Survey) -> dict[str, str]:
    """The page holds the videos themselves, so that one of very many would open nowhere."""
    from flows.views.page import write_page
    from flows.views.tables import videos

    if not 0 < videos(survey).num_rows <= MOST_ON_PAGE:
        return {}
    return {"page": write_page(prepared.catalog, "render.html")}


def _sheet_of_videos(catalog: Catalog, videos: Sequence[Row]) -> bytes:
    from stages.core.media import iter_frames

    def middle(video: Row) -> Any:
        return next(itertools.islice(iter_frames(catalog.storage.read(video["uri"])), video["n_frames"] // 2, None))

    return contact_sheet([(f"{v['prompt']} ({v['seed']})", partial(middle, v)) for v in videos[:MOST_PICTURES]])


def _curate(prepared: Prepared, outcome: Outcome, survey: Survey, checked: Any) -> Ending:
    from flows.curate.notes import not_used, source_counts, sources_without_clips
    from flows.curate.report_data import reasons_of
    from flows.curate.tables import clips, sources, verdicts

    files = sources(survey).to_pylist()
    bad = [file for group in not_used(files) for file in group]
    without = sources_without_clips(survey)
    ending = Ending([source_counts(files)])
    ending.lines += checked.remarks if checked else []
    called = told_apart(f["uri"] for f in files)
    ending.reasons = [(1, f"{called[f['uri']]}: {cause_text(f)}") for f in bad[:MOST_REASONS]]
    ending.reasons += [(1, f"{called[uri]}: no shot is long enough for a clip") for uri in without[:MOST_REASONS]]
    found, judged = clips(survey).to_pylist(), verdicts(survey).to_pylist()
    kept = {v["clip_id"] for v in judged if v["status"] == "kept"}
    ending.lines.append(f"{counted(len(found), 'clip')}, {len(kept)} of them kept")
    ending.reasons += [(r["clips"], _threshold(r)) for r in reasons_of(survey)[:MOST_REASONS]]
    ending.sheet = _sheet_of_clips(prepared.catalog, survey, [c for c in found if c["clip_id"] in kept])
    return ending


def _curate_page(prepared: Prepared, outcome: Outcome, survey: Survey) -> dict[str, str]:
    from flows.curate.report import build_report, write_report

    return {"report": write_report(prepared.catalog, build_report(prepared.catalog, outcome.run_id), None)}


def _threshold(reason: Row) -> str:
    if reason["metric"] == "duplicate":
        return "copy of a better clip"
    op = COMPARED.get(reason["op"], reason["op"])
    return f"{reason['metric']} {op} {reason['threshold']}"


def _sheet_of_clips(catalog: Catalog, survey: Survey, found: Sequence[Row]) -> bytes:
    from flows.views.page import thumbnails
    from stages.core.pictures import read_rgb

    def picture(uri: str) -> Any:
        return read_rgb(catalog.storage.read(uri))

    pictures = thumbnails(survey)
    shown = [(c, pictures[c["clip_id"]]) for c in found if pictures.get(c["clip_id"])][:MOST_PICTURES]
    called = told_apart(c["uri"] for c, _ in shown)
    names = [f"{called[c['uri']]} {c['start_s']:.1f} s" for c, _ in shown]
    return contact_sheet([(name, partial(picture, uri)) for name, (_, uri) in zip(names, shown, strict=True)])


def _publish(prepared: Prepared, outcome: Outcome, survey: Survey, checked: Any) -> Ending:
    from flows.publish.publication import datasets, published
    from flows.publish.uncut import uncut

    catalog = prepared.catalog
    row = published(catalog, prepared.plan, outcome.run_id)
    lines = [f"{row['name']} v{row['version']}: {counted(row['clips'], 'clip')}, {row['hours'] * 60:.1f} minutes"]
    for made in datasets(catalog).to_pylist():
        if (made["name"], made["version"]) == (row["name"], row["version"]):
            lines.append(f"{made['train']} to train with, {made['val']} to validate with")
    left = uncut(survey).to_pylist()
    called = told_apart(u["uri"] for u in left)
    missing = [(1, f"not cut: {called[u['uri']]}: {u['reason']}") for u in left]
    sheets = [s for n in survey.plan.of_kind("sheet") for s in survey.table(n.name).to_pylist() if s["status"] == "ok"]
    sheet = catalog.storage.read(sheets[0]["uri"]) if sheets else b""
    return Ending(lines, missing[:MOST_REASONS], sheet, {"dataset": catalog.storage.place(row["folder"])})


def _evaluate(prepared: Prepared, outcome: Outcome, survey: Survey, checked: Any) -> Ending:
    from flows.evaluate.report import judgements, make_report

    figures = make_report(prepared.catalog, outcome.run_id, checked)
    lines = [f"{counted(figures['n'], 'clip')} judged, {figures['failed']} failed"]
    lines += [f"{name}: {share:.3f} right" for name, share in figures["accuracy"].items() if share is not None]
    lines += [f"{name}: {figures[name]:.2f}" for name in figures.get("distances", {}) if figures[name] is not None]
    rows = judgements(survey).to_pylist()
    return Ending(lines, tally(r for r in rows if r["status"] not in ("ok", "pending")))


def _train(prepared: Prepared, outcome: Outcome, survey: Survey, checked: Any) -> Ending:
    from flows.train.training import checkpoint_lines

    return Ending([line.strip() for line in checkpoint_lines(prepared.catalog, outcome.run_id)])


ENDINGS: dict[str, Callable[[Prepared, Outcome, Survey, Any], Ending]] = {
    "render": _render,
    "curate": _curate,
    "publish": _publish,
    "evaluate": _evaluate,
    "train": _train,
}
PAGES: dict[str, Callable[[Prepared, Outcome, Survey], dict[str, str]]] = {
    "render": _render_page,
    "curate": _curate_page,
}
