"""`rushes render` and `rushes curate`: from the words on the command line to a run and what is said of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.prefect.server import wanted_server
from flows.run.progress import Bars, counts_table, totals
from flows.run.schedule import nothing_to_do
from flows.run.session import Outcome, execute, existing_catalog, open_catalog, survey
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.plan import Plan

console = Console(stderr=not sys.stdout.isatty(), highlight=False, emoji=False)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What comes first and the key=value overrides. A word with `=` before any `/` is an override."""
    overrides = [w for w in words if "=" in w.split("/", 1)[0] and not Path(w).exists()]
    return [w for w in words if w not in overrides], overrides


def infra(executor: str | None, **extra: Any) -> dict[str, Any]:
    """What the common options say, as settings."""
    given = {k: v for k, v in extra.items() if v}
    return {**({"infra": {"executor": executor}} if executor else {}), **given}


def render_command(
    words: Sequence[str],
    prompt: Sequence[str],
    seed: Sequence[int],
    store: str,
    export_to: str | None,
    dry_run: bool,
    limit: int | None,
    executor: str | None,
    retry_errors: bool,
) -> int:
    """Run a campaign. Everything is checked before anything is started."""
    from flows.render.campaign import as_plain, load_campaign
    from flows.render.export import check_export, export
    from flows.views.tables import read_table

    files, overrides = split_words(words)
    if len(files) + bool(prompt) != 1:
        raise BadInput("give one campaign file, or --prompt TEXT")
    values = infra(executor, limit=limit, retry_errors=retry_errors)
    values |= {k: v for k, v in (("prompts", list(prompt)), ("seeds", list(seed))) if v}
    campaign = load_campaign(files, values, overrides)
    if export_to:
        check_export(Path(export_to).expanduser())
    catalog = open_catalog(store, campaign.config.infra.storage)
    plan = campaign.plan(catalog)
    plain = as_plain(campaign.config, campaign.steps)
    if dry_run:
        return say_plan(catalog, plan, campaign.config, plain)
    outcome = run_and_say(catalog, plan, campaign.config, plain, scope=campaign.config.name)
    if export_to:
        videos = read_table(catalog, "videos", run_id=outcome.run_id).to_pylist()
        paths = export(catalog.storage, videos, Path(export_to))
        console.print(f"{len(paths)} videos in {export_to}")
    return outcome.exit_status


def curate_command(
    words: Sequence[str],
    store: str,
    config: str,
    until: str,
    only: str,
    dry_run: bool,
    limit: int | None,
    executor: str | None,
    retry_errors: bool,
) -> int:
    """Run a curation."""
    from flows.curate.curation import as_plain, load_curation
    from flows.curate.notes import notes
    from flows.curate.throughput import throughput_table
    from stages.core.ledger.runs import find_run

    sources, overrides = split_words(words)
    values = infra(executor, limit=limit, retry_errors=retry_errors, until=until)
    if only:
        values["only"] = [name.strip() for name in only.split(",") if name.strip()]
    curation = load_curation(sources, config, values, overrides)
    catalog = open_catalog(store, curation.config.infra.storage)
    plan = curation.plan(catalog)
    plain = as_plain(curation.config, curation.steps)
    if dry_run:
        return say_plan(catalog, plan, curation.config, plain)
    outcome = run_and_say(catalog, plan, curation.config, plain, scope=", ".join(sources))
    if not outcome.did_nothing and (table := throughput_table(catalog, outcome.run_id)) is not None:
        console.print(table)
    for line in notes(find_run(catalog, plan.flow, outcome.run_id).survey(catalog)):
        console.print(line, soft_wrap=True, markup=False)
    return outcome.exit_status


def say_plan(catalog: Catalog, plan: Plan, config: Any, plain: Mapping[str, Any]) -> int:
    """`--dry-run`: the resolved config, and how every step stands."""
    from omegaconf import OmegaConf

    print(OmegaConf.to_yaml(OmegaConf.create(dict(plain))))
    counts = survey(catalog, plan, config).counts()
    marks = {n.name: n.fingerprint for n in plan.nodes}
    Console(highlight=False).print(counts_table(counts, marks, f"{plan.flow}: what would run"))
    return 0


def run_and_say(catalog: Catalog, plan: Plan, config: Any, plain: Mapping[str, Any], scope: str = "") -> Outcome:
    """Run a plan with its progress shown, by Prefect where a server is named, and say how it ended.

    Where nothing is to do, no server is asked.
    """
    before = survey(catalog, plan, config)
    url = "" if nothing_to_do(before, plan) else wanted_server(config.infra.prefect.api_url)
    with Bars(console, totals(before.counts())) as bars:
        if url:
            outcome = _execute_on(url, catalog, plan, config, plain, scope, bars)
        else:
            outcome = execute(catalog, plan, config, scope=scope, plain_config=plain, listener=bars)
    say_outcome(outcome, catalog)
    return outcome


def _execute_on(
    url: str, catalog: Catalog, plan: Plan, config: Any, plain: Mapping[str, Any], scope: str, bars: Bars
) -> Outcome:
    """Run a plan as a flow run of the server at `url`, and print the link to it. Only here is Prefect imported."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")  # the bars are shown instead
    from flows.prefect.flow_run import Prepared, execute_as_flow

    def say(link: str) -> None:
        console.print(f"run page: {link}", soft_wrap=True)

    return execute_as_flow(url, Prepared(catalog, plan, config, plain, scope), bars, say)


def say_outcome(outcome: Outcome, catalog: Catalog) -> None:
    """One line that says how a run ended, and where to look."""
    failed = sum(c.failed for c in outcome.counts.values())
    done = "nothing was to do" if outcome.did_nothing else outcome.status
    reason = f" ({outcome.reason})" if outcome.reason else ""
    console.print(f"run {outcome.run_id}: {done}{reason}" + (f"; {failed} rows failed" if failed else ""))
    if failed or outcome.reason:
        console.print(f"see `rushes status --store {catalog.storage.url}`", soft_wrap=True)


__all__ = ["curate_command", "existing_catalog", "render_command", "run_and_say", "say_plan", "split_words"]
