"""`rushes train`: from the words on the command line to a checkpoint in the store, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flows.cli.run import console, run_and_say, say_plan, split_words
from flows.run.session import prepare
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog


class _Lines(logging.Handler):
    """Prints what training says of its progress."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(f"  {record.getMessage()}", markup=False, soft_wrap=True)


@contextmanager
def lines_shown() -> Iterator[None]:
    """While this lasts, progress stands in the terminal."""
    log, handler = logging.getLogger("rushes"), _Lines(logging.INFO)
    before, log.propagate = (log.level, log.propagate), False
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def train_command(words: Sequence[str], store: str, dry_run: bool) -> int:
    """Train one stage. Everything is checked before anything is started."""
    from flows.train.training import load_training

    files, overrides = split_words(words)
    if len(files) != 1:
        raise BadInput("give one training config: a file, or the name of one in configs/train")
    run = load_training(files[0], overrides)
    prepared = prepare(run, store)
    if dry_run:
        return say_plan(prepared)
    with lines_shown():
        outcome = run_and_say(prepared)
    if not outcome.exit_status:
        say_checkpoint(prepared.catalog, outcome.run_id)
    return outcome.exit_status


def say_checkpoint(catalog: Catalog, run_id: str) -> None:
    """What was trained, how good it is, and how to use it."""
    for line in told(catalog, run_id):
        console.print(line, markup=False, soft_wrap=True)


def told(catalog: Catalog, run_id: str) -> list[str]:
    """The lines about a finished run's checkpoint."""
    from stages.core.ledger.runs import find_run

    survey = find_run(catalog, "train", run_id).survey(catalog)
    checkpoint = survey.table("train").to_pylist()[0]
    figures = survey.table("evaluate").to_pylist()[0]["figures"]
    root = catalog.storage.url.rstrip("/")
    lines = [f"checkpoint {checkpoint['id']}: {checkpoint['steps']} steps of {checkpoint['stage']}"]
    lines += ["  " + ", ".join(f"{f['name']} {f['value']:.3f}" for f in figures)] if figures else []
    local = catalog.storage.local_root is not None
    place = f"{root}/{checkpoint['folder']}" if local else f"promoted:{checkpoint['id'][:12]}@{root}"
    lines.append(f"use it with model.checkpoint={place}")
    if any(n.name == "promote" for n in survey.plan.nodes):
        row = survey.table("promote").to_pylist()[0]
        name = f"promoted:{row['name']}@{root}"
        lines.append(f"or with model.checkpoint={name}" if row["promoted"] else f"not promoted: {row['reason']}")
    return lines
