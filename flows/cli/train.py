"""`rushes train`: from the words on the command line to a checkpoint in the store, and its report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flows.cli.run import console, print_plan, run_and_report, split_words
from flows.run.session import prepare
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog


class _ProgressPrinter(logging.Handler):
    """Prints the lines of progress that training logs."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(f"  {record.getMessage()}", markup=False, soft_wrap=True)


@contextmanager
def progress_printed() -> Iterator[None]:
    """While this lasts, progress is printed."""
    log, handler = logging.getLogger("rushes"), _ProgressPrinter(logging.INFO)
    before, log.propagate = (log.level, log.propagate), False
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def train_command(words: Sequence[str], store: str, dry_run: str | None) -> int:
    """Train one stage. Everything is checked before anything is started."""
    from flows.train.training import load_training

    files, overrides = split_words(words)
    if len(files) != 1:
        raise BadInput("give one training config: a file, or the name of one in configs/train")
    run = load_training(files[0], overrides)
    prepared = prepare(run, store, look_only=bool(dry_run))
    if dry_run:
        return print_plan(prepared, dry_run)
    with progress_printed():
        outcome = run_and_report(prepared)
    if not outcome.exit_status:
        print_checkpoint(prepared.catalog, outcome.run_id)
    return outcome.exit_status


def print_checkpoint(catalog: Catalog, run_id: str) -> None:
    """What was trained, how good it is, and how to use it."""
    from flows.train.training import checkpoint_lines

    for line in checkpoint_lines(catalog, run_id):
        console.print(line, markup=False, soft_wrap=True)
