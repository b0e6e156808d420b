"""`rushes render --wait` and `--redecide`: between people and gates."""

from __future__ import annotations

import time
from typing import Any

from flows.display.terminal import say
from flows.render.campaign import Campaign
from flows.render.decisions import redecide, waiting_text
from flows.render.gates import gates_of
from flows.run.session import WAITING, Outcome, Prepared, prepare
from stages.core.errors import BadInput
from stages.core.ledger.records import STORE_TABLE
from stages.core.planning.survey import Survey
from stages.core.reviews import REVIEWS

POLL_S = 2.0


def until_reviewed(campaign: Campaign, prepared: Prepared, outcome: Outcome) -> Prepared | None:
    """Wait until people have said something that lets takes go on; the run that can start then. None where nothing
    waits for them. Nothing is held meanwhile: no workers, no memory of models."""
    if outcome.status != WAITING:
        return None
    say(f"{waiting_text(outcome.held)}; waiting for that, Ctrl-C ends it", err=True)
    catalog, seen = prepared.catalog, list[str]()
    while True:
        if (now := catalog.parts(REVIEWS, STORE_TABLE)) != seen:
            seen = now
            more = prepare(campaign, prepared.store, exists=True)
            if not more.idle:
                return more
        time.sleep(POLL_S)


def decide_anew(campaign: Campaign, prepared: Prepared) -> Prepared:
    """Have the gates of a campaign decide anew on all its takes. Raises BadInput where it has none."""
    if not gates_of(campaign.steps):
        raise BadInput("--redecide: this campaign has no gates, and so nothing to decide")
    ids: list[Any] = prepared.survey.units(prepared.plan.phases[0]).column("id").to_pylist()
    redecide(prepared.catalog, campaign.steps, ids)
    survey = Survey(prepared.catalog, prepared.plan, retry=prepared.config.retry)
    return Prepared(prepared.catalog, prepared.plan, prepared.config, prepared.plain, prepared.scope, survey)
