"""`rushes render` and `rushes curate`: from the words on the command line to a run and its report."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.display.terminal import console as plain_console
from flows.display.terminal import say
from flows.prefect.server import require_server
from flows.run.estimate import estimate, estimate_table, estimate_text
from flows.run.progress import LINE_SECONDS, Bars, counts_notes, counts_table, make_forecast, totals
from flows.run.session import Outcome, Prepared, execute, existing_catalog, prepare
from flows.words import counted, duration_text, look
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.reach.harmless import for_terminal

ABOUT_SOURCES = ("probe", "signals", "cuts", "clips")
"""What steps make that fail where a file of a curation cannot be read."""
console = plain_console(stderr=not sys.stdout.isatty())


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What comes first and the key=value overrides. A word with `=` before any `/` is an override."""
    overrides = [w for w in words if "=" in w.split("/", 1)[0] and not Path(w).exists()]
    return [w for w in words if w not in overrides], overrides


def common_settings(executor: str | None = None, only: str = "", **options: Any) -> dict[str, Any]:
    """What the common options say, as settings of a flow."""
    values = {k: v for k, v in options.items() if v}
    if only:
        values["only"] = [name.strip() for name in only.split(",") if name.strip()]
    return {**({"infra": {"executor": executor}} if executor else {}), **values}


def render_command(
    words: Sequence[str],
    prompt: Sequence[str],
    seed: Sequence[int],
    store: str,
    export_to: str | None,
    dry_run: str | None,
    wait: bool = False,
    redecide: bool = False,
    **options: Any,
) -> int:
    """Run a campaign. Everything is checked before anything is started."""
    from flows.cli.waiting import decide_anew, until_reviewed
    from flows.render.campaign import load_campaign
    from flows.render.decisions import gate_lines
    from flows.render.delivery import DeliverConfig
    from flows.render.ending import ending
    from flows.render.export import check_export, export, exported_text
    from flows.render.prompts import is_prompts_file
    from flows.render.provenance import described
    from flows.render.qc import qc, qc_lines
    from flows.views.tables import picture_notes, read_table, short_of_video, takes

    files, overrides = split_words(words)
    values = common_settings(**options)
    if len(files) == 1 and not prompt and is_prompts_file(files[0]):
        listed = files.pop()
        values |= {"prompts_file": listed, "name": Path(listed).stem}
    given = len(files) + bool(prompt) + ("prompts_file" in values)
    if given > 1 or (not given and not any(word.startswith(("prompts=", "prompts_file=")) for word in overrides)):
        raise BadInput("give one campaign (a file, or a name such as demo), one file of prompts, or --prompt TEXT")
    values |= {k: v for k, v in (("prompts", list(prompt)), ("seeds", list(seed))) if v}
    campaign = load_campaign(files, values, overrides, store, _looked())
    prepared = prepare(campaign, store, look_only=bool(dry_run))
    delivery, metadata = campaign.delivery, campaign.config.deliver.metadata
    if export_to:
        check_export(export_to, campaign.takes, prepared.catalog.storage, metadata, delivery)
    if dry_run:
        return print_plan(prepared, dry_run, campaign.remarks)
    prepared = decide_anew(campaign, prepared) if redecide else prepared
    outcome = run_and_report(prepared)
    while wait and (more := until_reviewed(campaign, prepared, outcome)):
        prepared, outcome = more, run_and_report(more)
    told = picture_notes(prepared.survey), short_of_video(prepared.survey)
    gates = gate_lines(prepared.survey, prepared.store)
    faults = qc_lines(qc(prepared.survey).to_pylist(), prepared.store)
    for line in [*ending(takes(prepared.survey), prepared.store, *told), *gates, *faults, *campaign.remarks]:
        console.print(for_terminal(line, keep=""), soft_wrap=True, markup=False)
    if export_to and outcome.cancelled:
        console.print(f"nothing was exported to {export_to}: run the same command again", soft_wrap=True, markup=False)
    elif not export_to and delivery.config != DeliverConfig():
        console.print("nothing was delivered: `deliver` says how, and --export FOLDER says where", soft_wrap=True)
    elif export_to:
        videos = read_table(prepared.catalog, "videos", run_id=outcome.run_id).to_pylist()
        about = described(prepared.plan)
        paths = export(prepared.catalog.storage, videos, export_to, metadata=metadata, about=about, delivery=delivery)
        console.print(exported_text(export_to, paths), soft_wrap=True, markup=False)
    return outcome.exit_status


def _looked() -> Callable[[int, int], None]:
    """Says, every few seconds, how many pictures and videos of the prompts have been looked at."""
    began = said = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal said
        if (now := time.monotonic()) - said >= LINE_SECONDS:
            said = now
            line = (
                f"{now - began:>3.0f} s: looked at {done:,} of {counted(of, 'picture or video', 'pictures and videos')}"
            )
            console.print(line, soft_wrap=True, markup=False)

    return tell


def curate_command(words: Sequence[str], store: str, config: str, dry_run: str | None, **options: Any) -> int:
    """Run a curation."""
    from flows.curate.curation import load_curation
    from flows.curate.notes import notes
    from flows.curate.throughput import throughput_table

    sources, overrides = split_words(words)
    curation = load_curation(sources, config, common_settings(**options), overrides)
    prepared = prepare(curation, store, look_only=bool(dry_run))
    if dry_run:
        return print_plan(prepared, dry_run, curation.remarks)
    outcome = run_and_report(prepared)
    if not outcome.did_nothing and (table := throughput_table(prepared.survey, outcome.run_id)) is not None:
        console.print(table)
    for line in [*curation.remarks, *notes(prepared.catalog, prepared.survey, outcome.run_id)]:
        console.print(for_terminal(line, keep=""), soft_wrap=True, markup=False)
    return outcome.exit_status


def print_plan(prepared: Prepared, what: str, remarks: Sequence[str] = ()) -> int:
    """`--dry-run`: how every step stands, and remarks on it; `--settings`: the resolved config as YAML."""
    if what == "settings":
        from omegaconf import OmegaConf

        say(OmegaConf.to_yaml(OmegaConf.create(dict(prepared.plain))))
        return 0
    plan, survey, out = prepared.plan, prepared.survey, plain_console()
    unknown = {n.name for p in plan.phases if not survey.units_complete(p) for n in p.nodes}
    out.print(f"{plan.flow} would run:", markup=False)
    out.print(counts_table(survey.counts(), unknown))
    for line in counts_notes({n: c for n, c in survey.counts().items() if n not in unknown}, plan):
        out.print(line, soft_wrap=True)
    if unknown:
        out.print("?: known only after the steps above have run", soft_wrap=True)
    print_estimate(prepared, out)
    for line in remarks:
        out.print(for_terminal(line, keep=""), soft_wrap=True, markup=False)
    return 0


def print_estimate(prepared: Prepared, out: Console) -> None:
    """What the run will cost, and how long it will take, as far as the store's own rows tell."""
    found, prices = estimate(prepared.catalog, prepared.survey), prepared.config.prices
    if text := estimate_text(found, prices):
        out.print()
        if not text.startswith("estimate: unknown"):
            out.print(estimate_table(found, prices))
        seconds = make_forecast(prepared.survey, prepared.plan, _slots(prepared), found).seconds_expected()
        clock = f"; {duration_text(seconds)} on the clock, and what workers take to start" if seconds else ""
        out.print(text + clock, soft_wrap=True, markup=False)


def run_and_report(prepared: Prepared) -> Outcome:
    """Run a plan with its progress shown, by Prefect where a server is named, and say how it ended.

    Where there is nothing to do, no server is asked.
    """
    if prepared.idle:
        outcome = execute(prepared)
    else:
        url = require_server(prepared.config.infra.prefect.api_url)
        found = estimate(prepared.catalog, prepared.survey)
        forecast = make_forecast(prepared.survey, prepared.plan, _slots(prepared), found)
        jobs = {n.name for n in prepared.plan.nodes if n.job and not n.per}
        with Bars(console, totals(prepared.survey.counts()), forecast, jobs) as bars:
            outcome = _execute_on(url, prepared, bars) if url else execute(prepared, listener=bars)
    # What became of files that cannot be read is said of sources, at the end of a curation, and not of rows as well.
    told = {n.name for n in prepared.plan.nodes if n.kind in ABOUT_SOURCES} if outcome.exit_status != 1 else set()
    print_outcome(outcome, prepared.catalog, told)
    return outcome


def _slots(prepared: Prepared) -> float:
    """How many rows can be at work at a time; no limit on a cluster, whose size is not known yet."""
    infra = prepared.config.infra
    if infra.executor == "local":
        return 1
    if infra.ray.address != "local":
        return math.inf
    return infra.ray.num_cpus or os.cpu_count() or 1


def _execute_on(url: str, prepared: Prepared, bars: Bars) -> Outcome:
    """Run a plan as a flow run of the server at `url`, and print the link to it. Only here is Prefect imported."""
    # The bars are shown instead of Prefect's own lines, and what goes wrong is raised or told here.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.prefect.flow_run import execute_as_flow

    def print_link(link: str) -> None:
        console.print(f"run page: {link}", soft_wrap=True)

    def print_warning(line: str) -> None:
        console.print(f"warning: {line}", soft_wrap=True, markup=False)

    return execute_as_flow(url, prepared, bars, print_link, print_warning)


def print_outcome(outcome: Outcome, catalog: Catalog, told: Set[str] = frozenset()) -> None:
    """One line that says how a run ended, and where to look. told: steps whose failed rows are told elsewhere."""
    counts = {name: c for name, c in outcome.counts.items() if name not in told}
    failed = [f"{counted(c.failed, 'row')} of {name}" for name, c in counts.items() if c.failed]
    done = "nothing to do" if outcome.did_nothing and not outcome.held else outcome.status
    reason = f" ({outcome.reason})" if outcome.reason else ""
    rows = f"; {', '.join(failed)} failed" if failed else ""
    console.print(f"run {outcome.run_id}: {done}{reason}{rows}", markup=False)
    if failed or outcome.reason:
        console.print(look("status", catalog.storage.url), soft_wrap=True, markup=False)


__all__ = ["curate_command", "existing_catalog", "print_plan", "render_command", "run_and_report", "split_words"]
