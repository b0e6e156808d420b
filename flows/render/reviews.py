"""Choosing takes: `choose` is the one place that writes reviews, for the command line, pages and assistants alike."""

from __future__ import annotations

import getpass
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from flows.words import command, listed
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.ledger.catalog import NO_ROWS, Catalog, connect
from stages.core.ledger.records import STORE_TABLE
from stages.core.planning.plan import Plan
from stages.core.reviews import CHOICES, NOTE, REVIEW_SCHEMA, REVIEWS, Standing, standing_of
from stages.core.running.runs import runs_table
from stages.core.step import Row

LONGEST_NAME, LONGEST_NOTE = 100, 10_000


def choose(
    catalog: Catalog,
    take_ids: Sequence[str],
    choice: str,
    who: str = "",
    note: str = "",
    supersedes: Mapping[str, Sequence[str]] | None = None,
) -> list[Row]:
    """Write one review for each take, all of them or none; returns the rows (REVIEW_SCHEMA).

    take_ids    ids of takes of this store, or unique beginnings of such ids; of one that is named twice, one review
    choice      one of `stages.core.reviews.CHOICES`
    who         who chooses; the user's login name where it is empty
    note        a text of their own; `note` needs one, and any other choice may have one
    supersedes  take id -> the ids of the reviews that the person saw standing (`Standing.heads`), which the new one
                replaces: a review that was written since then and says otherwise is a conflict then, and not lost. A
                take that is left out, or None: whatever stands now.

    Raises BadInput in one sentence, and writes nothing then.
    """
    if choice not in CHOICES:
        raise BadInput(f"there is no choice {choice!r}; {nearest(choice, CHOICES)}")
    who, note = _who(who), _note(choice, note)
    takes = find_takes(catalog, take_ids)
    rows = read_reviews(catalog)
    standing, seen = standing_of(rows), _seen(supersedes or {}, takes, rows)
    at = datetime.now(UTC)
    made: list[Row] = [
        {
            "id": uuid.uuid4().hex,
            "take_id": take,
            "choice": choice,
            "who": who,
            "at": at,
            "note": note,
            "supersedes": seen.get(take, list(standing.get(take, Standing()).heads)),
        }
        for take in takes
    ]
    catalog.commit(REVIEWS, STORE_TABLE, made, REVIEW_SCHEMA)
    return made


def read_reviews(catalog: Catalog) -> list[Row]:
    """Every review of a store, the oldest first."""
    sql = connect()

    def ordered(source: str) -> list[Row]:
        if source == NO_ROWS:
            return []
        rows: list[Row] = sql.sql(f'SELECT DISTINCT * FROM {source} ORDER BY "at", id').to_arrow_table().to_pylist()
        return rows

    return catalog.with_rows(sql, REVIEWS, STORE_TABLE, ordered)


def standings(catalog: Catalog) -> dict[str, Standing]:
    """take id -> what its reviews come to; a take without reviews is not there."""
    return standing_of(read_reviews(catalog))


def find_takes(catalog: Catalog, names: Sequence[str]) -> list[str]:
    """The ids of takes that begin so, each once, in the order in which they are named.

    Raises BadInput where no take of any render of the store begins so, or where several do.
    """
    if not names:
        raise BadInput(f"no take was named; {command('table takes', catalog.storage.url)} shows their ids")
    runs = runs_table(catalog).to_pylist()
    paths = {Plan.from_json(r["plan"]).roots for r in runs if r["flow"] == "render"}
    paths = {path for path in paths if catalog.storage.exists(path)}
    sql = connect()
    source = catalog.scan(sql, sorted(paths))
    found = list[str]()
    for name in names:
        query = "SELECT DISTINCT id FROM {} WHERE starts_with(id, ?) ORDER BY id = ? DESC, id LIMIT 9"
        ids = [i for (i,) in sql.execute(query.format(source), [name, name]).fetchall()] if paths and name else []
        found.append(_the_one(catalog, name, ids))
    return list(dict.fromkeys(found))


def _the_one(catalog: Catalog, name: str, ids: Sequence[str]) -> str:
    if not ids:
        raise BadInput(
            f"no take of {catalog.storage.url} has the id {name!r}, or one that begins so; "
            f"{command('table takes', catalog.storage.url)} shows their ids"
        )
    if len(ids) > 1 and ids[0] != name:
        raise BadInput(f"{name!r} is the beginning of several take ids ({listed(ids, 3)}); give more of it")
    return ids[0]


def _who(name: str) -> str:
    if not name.strip():
        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            raise BadInput("this user has no login name: say who chooses with --who NAME") from None
    name = name.strip()
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise BadInput(f"who: {name[:LONGEST_NAME]!r} is no name; give one line of at most {LONGEST_NAME} characters")
    return name


def _note(choice: str, note: str) -> str:
    note = note.strip()
    if choice == NOTE and not note:
        raise BadInput("the choice `note` needs a text: give it with --note TEXT")
    if len(note) > LONGEST_NOTE:
        raise BadInput(f"the note has {len(note):,} characters; at most {LONGEST_NOTE:,} are kept")
    return note


def _seen(supersedes: Mapping[str, Sequence[str]], takes: Sequence[str], rows: Sequence[Row]) -> dict[str, list[str]]:
    """take id -> what a person saw standing, checked."""
    known = {(r["take_id"], r["id"]) for r in rows}
    for take, ids in supersedes.items():
        if take not in takes:
            raise BadInput(f"supersedes names the take {take!r}, which is not among those that are chosen")
        if wrong := [i for i in ids if (take, i) not in known]:
            raise BadInput(f"supersedes names {json.dumps(wrong[0])}, which is no review of take {take}")
    return {take: sorted(set(ids)) for take, ids in supersedes.items()}


__all__ = ["choose", "find_takes", "read_reviews", "standings"]
