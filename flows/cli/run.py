"""`rushes render` and `rushes curate`: from the words on the command line to a run and its report."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.prefect.server import require_server
from flows.run.progress import Bars, counts_table, totals
from flows.run.schedule import nothing_to_do
from flows.run.session import Outcome, execute, existing_catalog, open_catalog, survey
from flows.views.words import counted
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.plan import Plan

console = Console(stderr=not sys.stdout.isatty(), highlight=False, emoji=False)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What comes first and the key=value overrides. A word with `=` before any `/` is an override."""
    overrides = [w for w in words if "=" in w.split("/", 1)[0] and not Path(w).exists()]
    return [w for w in words if w not in overrides], overrides


def common_settings(executor: str | None, **extra: Any) -> dict[str, Any]:
    """The settings that the common options stand for; options that were left out set nothing."""
    settings = {k: v for k, v in extra.items() if v}
    return {**({"infra": {"executor": executor}} if executor else {}), **settings}


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
    values = common_settings(executor, limit=limit, retry_errors=retry_errors)
    values |= {k: v for k, v in (("prompts", list(prompt)), ("seeds", list(seed))) if v}
    campaign = load_campaign(files, values, overrides)
    if export_to:
        check_export(Path(export_to).expanduser())
    catalog = open_catalog(store, campaign.config.infra.storage)
    plan = campaign.plan(catalog)
    plain = as_plain(campaign.config, campaign.steps)
    if dry_run:
        return print_plan(catalog, plan, campaign.config, plain)
    outcome = run_and_report(catalog, plan, campaign.config, plain, scope=campaign.config.name)
    if export_to:
        videos = read_table(catalog, "videos", run_id=outcome.run_id).to_pylist()
        paths = export(catalog.storage, videos, Path(export_to))
        console.print(f"{counted(len(paths), 'video')} in {export_to}")
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
    from flows.curate.throughput import throughput_table

    sources, overrides = split_words(words)
    values = common_settings(executor, limit=limit, retry_errors=retry_errors, until=until)
    if only:
        values["only"] = [name.strip() for name in only.split(",") if name.strip()]
    curation = load_curation(sources, config, values, overrides)
    catalog = open_catalog(store, curation.config.infra.storage)
    plan = curation.plan(catalog)
    plain = as_plain(curation.config, curation.steps)
    if dry_run:
        return print_plan(catalog, plan, curation.config, plain)
    outcome = run_and_report(catalog, plan, curation.config, plain, scope=", ".join(sources))
    if not outcome.did_nothing and (table := throughput_table(catalog, outcome.run_id)) is not None:
        console.print(table)
    return outcome.exit_status


def print_plan(catalog: Catalog, plan: Plan, config: Any, plain: Mapping[str, Any]) -> int:
    """`--dry-run`: the resolved config, and the progress of every step."""
    from omegaconf import OmegaConf

    print(OmegaConf.to_yaml(OmegaConf.create(dict(plain))))
    counts = survey(catalog, plan, config).counts()
    marks = {n.name: n.fingerprint for n in plan.nodes}
    Console(highlight=False).print(counts_table(counts, marks, f"{plan.flow}: what would run"))
    return 0


def run_and_report(catalog: Catalog, plan: Plan, config: Any, plain: Mapping[str, Any], scope: str = "") -> Outcome:
    """Run a plan with its progress shown, by Prefect where a server is named, and print how it ended.

    Where there is nothing to do, no server is asked.
    """
    before = survey(catalog, plan, config)
    url = "" if nothing_to_do(before, plan) else require_server(config.infra.prefect.api_url)
    with Bars(console, totals(before.counts())) as bars:
        if url:
            outcome = _execute_on(url, catalog, plan, config, plain, scope, bars)
        else:
            outcome = execute(catalog, plan, config, scope=scope, plain_config=plain, listener=bars)
    print_outcome(outcome, catalog)
    return outcome


def _execute_on(
    url: str, catalog: Catalog, plan: Plan, config: Any, plain: Mapping[str, Any], scope: str, bars: Bars
) -> Outcome:
    """Run a plan as a flow run of the server at `url`, and print the link to it. Only here is Prefect imported."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")  # the bars are shown instead
    from flows.prefect.flow_run import Prepared, execute_as_flow

    def print_link(link: str) -> None:
        console.print(f"run page: {link}", soft_wrap=True)

    return execute_as_flow(url, Prepared(catalog, plan, config, plain, scope), bars, print_link)


def print_outcome(outcome: Outcome, catalog: Catalog) -> None:
    """One line that says how a run ended, and where to look."""
    failed = sum(c.failed for c in outcome.counts.values())
    ending = "nothing to do" if outcome.did_nothing else outcome.status
    reason = f" ({outcome.reason})" if outcome.reason else ""
    console.print(f"run {outcome.run_id}: {ending}{reason}" + (f"; {counted(failed, 'row')} failed" if failed else ""))
    if failed or outcome.reason:
        console.print(f"see `rushes status --store {catalog.storage.url}`", soft_wrap=True)


__all__ = ["curate_command", "existing_catalog", "print_plan", "render_command", "run_and_report", "split_words"]
