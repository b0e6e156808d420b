"""`rushes publish`: from the words on the command line to a version of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from flows.cli.run import console, infra, run_and_say, say_plan, split_words
from flows.run.session import existing_catalog
from stages.core.errors import BadInput


def publish_command(
    words: Sequence[str],
    store: str,
    config: str,
    run_id: str,
    dry_run: bool,
    limit: int | None,
    executor: str | None,
    retry_errors: bool,
) -> int:
    """Publish the kept clips of a curation. Everything is checked before anything is started."""
    from flows.publish.publication import as_plain, load_publication, published
    from flows.publish.uncut import said, uncut
    from stages.core.ledger.runs import find_run

    names, overrides = split_words(words)
    if len(names) != 1:
        raise BadInput(f"give the dataset one name, not {len(names)}" if names else "give the dataset a name")
    values = infra(executor, limit=limit, retry_errors=retry_errors, curation=run_id)
    publication = load_publication(names[0], config, values, overrides)
    catalog = existing_catalog(store, publication.config.infra.storage)
    plan = publication.plan(catalog)
    plain = as_plain(publication.config, publication.steps())
    if dry_run:
        return say_plan(catalog, plan, publication.config, plain)
    outcome = run_and_say(catalog, plan, publication.config, plain, scope=names[0])
    for line in said(uncut(find_run(catalog, plan.flow, outcome.run_id).survey(catalog))):
        console.print(line, soft_wrap=True, markup=False)
    if outcome.exit_status == 0:
        row = published(catalog, plan, outcome.run_id)
        where = catalog.storage.local_path(row["folder"]) or f"{catalog.storage.url}/{row['folder']}"
        console.print(f"{row['name']} v{row['version']}: {row['clips']} clips, {row['hours'] * 60:.1f} minutes")
        console.print(str(where), soft_wrap=True, markup=False)
    return outcome.exit_status
