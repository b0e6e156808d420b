"""What a person should know at the end of a curation: sources that are not whole, and that there are no clips."""

from __future__ import annotations

from flows.curate.tables import clips, is_known, sources
from stages.core.errors import BadInput
from stages.core.planning.survey import Survey

MOST = 5


def notes(survey: Survey) -> list[str]:
    """Sentences, none where nothing is odd."""
    try:
        return [*_odd_sources(survey), *_listed(survey), *_no_clips(survey)]
    except BadInput:  # the run ended before there was anything to say
        return []


def _odd_sources(survey: Survey) -> list[str]:
    rows = [r for r in sources(survey).to_pylist() if r["note"] and r["status"] == "ok"]
    said = [f"{r['uri'].rsplit('/', 1)[-1]}: {r['note']}" for r in rows[:MOST]]
    return said + ([f"and {len(rows) - MOST} more; see `rushes table sources`"] if len(rows) > MOST else [])


def _listed(survey: Survey) -> list[str]:
    """How many sources have their shots from a list, so that a list that no source took is not passed over."""
    listed = [n for n in survey.plan.of_kind("cuts") if "shots" in n.when]
    count = sum(len(survey.query(f'SELECT unit_id FROM "v_{n.name}"')) for n in listed if is_known(survey, n))
    return [f"shot lists: {count} {'source has' if count == 1 else 'sources have'} one"] if count else []


def _no_clips(survey: Survey) -> list[str]:
    if not survey.plan.of_kind("clips"):
        return []
    phase = survey.plan.phase_of(survey.plan.of_kind("clips")[-1].name)
    if not survey.units_complete(phase) or clips(survey).num_rows:
        return []
    counts = survey.counts()
    if any(counts[n.name].todo or counts[n.name].waiting for n in phase.nodes if n.name in counts):
        return []
    readable = sum(r["status"] == "ok" for r in sources(survey).to_pylist())
    if not readable:
        return ["there are no clips: no source can be read as video; see `rushes table sources`"]
    return ["there are no clips: no shot of any source is as long as clips.min_s"]
