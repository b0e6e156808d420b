"""What was listed and is not used, in sentences for the ending of a curation."""

from __future__ import annotations

from data_prep.sources.unused import Unused
from flows.words import counted, listed, told_apart


def unused_lines(unused: Unused) -> list[str]:
    """A line for each manifest with rows that are not used, and one for the shot lists that fit no source."""
    lines = [_rows(manifest, rows) for manifest, rows in unused.rows.items()]
    return lines + ([_lists(unused.lists)] if unused.lists else [])


def _rows(manifest: str, rows: list[tuple[str, str]]) -> str:
    one = len(rows) == 1
    says = "names a file that was named before and is" if one else "name a file that was named before and are"
    names = told_apart(uri for _, uri in rows)
    named = [f"{place} ({names[uri]})" for place, uri in rows]
    return f"{manifest}: {counted(len(rows), 'row')} {says} not used: {listed(named)}"


def _lists(lists: list[tuple[str, str]]) -> str:
    named = [f"{name} (fits {other} but for upper and lower case)" if other else name for name, other in lists]
    fit = "fits" if len(lists) == 1 else "fit"
    return f"shot lists: {len(lists):,} {fit} no source of this run: {listed(named)}"
