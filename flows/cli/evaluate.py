"""`rushes evaluate`: from the words on the command line to a run, a file of figures, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.cli.run import console, run_and_say, say_plan, settings, split_words
from flows.run.session import prepare
from stages.core.errors import BadInput


def evaluate_command(
    words: Sequence[str],
    store: str,
    out: str,
    prompts: str,
    videos: str,
    captions: str,
    reference: str,
    dry_run: bool,
    **options: Any,
) -> int:
    """Run an evaluation and write its figures. Everything is checked before anything is started."""
    from flows.evaluate.evaluation import load_evaluation
    from flows.evaluate.report import check_out, write_report

    files, overrides = split_words(words)
    if len(files) > 1:
        raise BadInput(f"give one config, not {len(files)}: {' '.join(files)}")
    values = {**chosen(prompts, videos, captions, reference), **settings(**options)}
    evaluation = load_evaluation(files[0] if files else "evaluate", values, overrides)
    path = check_out(out)
    prepared = prepare(evaluation, store)
    if dry_run:
        return say_plan(prepared)
    outcome = run_and_say(prepared)
    say_report(write_report(prepared.catalog, outcome.run_id, evaluation, path), path)
    return outcome.exit_status


def chosen(prompts: str, videos: str, captions: str, reference: str) -> dict[str, Any]:
    """What the options mean as settings. Raises BadInput where they exclude each other."""
    if prompts and videos:
        raise BadInput("--prompts are rendered and --videos are there already: give one of them")
    if captions and not videos:
        raise BadInput("--captions says what the files of --videos show: give both")
    given = {"videos": videos, "captions": captions, "reference": reference}
    own = {"prompts_file": prompts, "prompts": [], "heldout": 0} if prompts else {}
    return {**own, **{name: value for name, value in given.items() if value}}


def say_report(found: Mapping[str, Any], path: Path) -> None:
    """The figures as a small table, and where all of them are."""
    table = Table(title=f"{found['n']} clips judged", title_justify="left", box=None, pad_edge=False)
    for heading in ("attribute", "right", "in quarters"):
        table.add_column(heading, justify="left" if heading == "attribute" else "right")
    for name, share in found["accuracy"].items():
        table.add_row(name, _share(share), _share(found["quarters"].get(name)) if name != "all" else "")
    Console(highlight=False, stderr=console.stderr).print(table)
    if first := found.get("first_frame"):
        console.print(f"first frames: {first['psnr']:.1f} dB, the worst {first['least']:.1f} dB")
    for name, about in found.get("distances", {}).items():
        console.print(f"{name}: {about['refused'] or format(found[name], '.2f')}")
    console.print(f"figures in {path}", soft_wrap=True)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
