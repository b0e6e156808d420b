"""`rushes evaluate`: from the words on the command line to a run, a file of figures, and their summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.cli.run import common_settings, console, print_plan, run_and_report, split_words
from flows.display.terminal import console as plain_console
from flows.run.session import prepare
from flows.words import counted
from stages.core.errors import BadInput


def evaluate_command(
    words: Sequence[str],
    store: str,
    out: str,
    prompts: str,
    videos: str,
    captions: str,
    reference: str,
    dry_run: str | None,
    **options: Any,
) -> int:
    """Run an evaluation and write its figures. Everything is checked before anything is started."""
    from flows.evaluate.evaluation import load_evaluation, settings_of_options
    from flows.evaluate.report import check_out, write_report

    files, overrides = split_words(words)
    if len(files) > 1:
        raise BadInput(f"give one config, not {len(files)}: {' '.join(files)}")
    values = {**settings_of_options(prompts, videos, captions, reference), **common_settings(**options)}
    evaluation = load_evaluation(files[0] if files else "evaluate", values, overrides)
    path = check_out(out)
    prepared = prepare(evaluation, store, look_only=bool(dry_run))
    if dry_run:
        return print_plan(prepared, dry_run)
    outcome = run_and_report(prepared)
    print_figures(write_report(prepared.catalog, outcome.run_id, evaluation, path), path)
    return outcome.exit_status


def print_figures(figures: Mapping[str, Any], path: Path) -> None:
    """The figures as a small table, and where all of them are."""
    table = Table(title=f"{counted(figures['n'], 'clip')} judged", title_justify="left", box=None, pad_edge=False)
    for heading in ("attribute", "right", "in quarters"):
        table.add_column(heading, justify="left" if heading == "attribute" else "right")
    for name, share in figures["accuracy"].items():
        table.add_row(name, _share(share), _share(figures["quarters"].get(name)) if name != "all" else "")
    plain_console(stderr=console.stderr).print(table)
    for name in ("first_frame", "last_frame"):
        if likeness := figures.get(name):
            said = f"{name.replace('_', ' ')}s: {likeness['psnr']:.1f} dB, the worst {likeness['least']:.1f} dB"
            console.print(said)
    for name, about in figures.get("distances", {}).items():
        console.print(f"{name}: {about['refused'] or format(figures[name], '.2f')}")
    console.print(f"figures in {path}", soft_wrap=True, markup=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
