"""`rushes publish`: from the words on the command line to a version of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.cli.run import common_settings, console, print_plan, run_and_report, split_words
from flows.run.session import Prepared, prepare
from flows.words import counted
from stages.core.errors import BadInput


def publish_command(
    words: Sequence[str],
    store: str,
    config: str,
    run_id: str,
    dry_run: str | None,
    **options: Any,
) -> int:
    """Publish the kept clips of a curation. Everything is checked before anything is started."""
    from flows.publish.publication import expected_notes, load_publication, notes_of, published

    names, overrides = split_words(words)
    if len(names) != 1:
        raise BadInput(f"give the dataset one name, not {len(names)}" if names else "give the dataset a name")
    values = common_settings(curation=run_id, **options)
    publication = load_publication(names[0], config, values, overrides)
    prepared = prepare(publication, store, exists=True)
    expected = expected_notes(prepared.catalog, prepared.plan, publication.config.publish)
    for note in expected:
        console.print(note, soft_wrap=True, markup=False)
    if dry_run:
        return print_plan(prepared, dry_run)
    catalog = prepared.catalog
    try:
        outcome = run_and_report(prepared)
    except BadInput:  # it may be that nothing is left to make a version of
        print_uncut(prepared)
        raise
    print_uncut(prepared)
    if outcome.exit_status == 0:
        row = published(catalog, prepared.plan, outcome.run_id)
        told = {note.partition(":")[0] for note in expected}  # of the same split, with what was known before
        for note in notes_of(catalog, row["folder"]):
            if note.partition(":")[0] not in told:
                console.print(note, soft_wrap=True, markup=False)
        where = catalog.storage.place(row["folder"])
        console.print(
            f"{row['name']} v{row['version']}: {counted(row['clips'], 'clip')}, {row['hours'] * 60:.1f} minutes"
        )
        console.print(str(where), soft_wrap=True, markup=False)
    return outcome.exit_status


def print_uncut(prepared: Prepared) -> None:
    """Which clips could not be cut, as far as the run came."""
    from flows.publish.uncut import said, uncut
    from stages.core.planning.survey import Survey

    for line in said(uncut(Survey(prepared.catalog, prepared.plan)), prepared.store):
        console.print(line, soft_wrap=True, markup=False)
