"""Tables in a terminal: columns that fit its width, cells that wrap where they hold sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.words import clip_name, counted, error_text, listed, reason_text, told_apart
from stages.core.reach.harmless import for_terminal

SHOWN_ROWS, ID_LENGTH, GAP = 40, 12, 3
WIDEST, WIDEST_IF_NARROW, NARROW = 28, 18, 80
"""Characters of a column without sentences, at most; in terminals narrower than NARROW fewer."""
NARROWEST_TEXT = 16
MESSAGES = ("reasons", "reason", "error", "note")
SENTENCES = (*MESSAGES, "prompt", "text", "caption")
"""Columns with sentences: they wrap, and none of their text is left out."""
FIRST = ("clip_id", "take_id", "run_id", "name", "file", "uri", "start_s", "end_s", "status", *SENTENCES)
"""Columns that are shown before the others, as far as a table has them."""
HIDDEN = ("plan", "config", "jobs", "versions", "sha256", "host", "pid")


def print_table(console: Console, table: pa.Table) -> None:
    """The first rows of a table, in the columns that fit; below it what is not shown, and how to get it."""
    if table.num_rows:
        there = [n for n in table.column_names if n not in HIDDEN and not _is_empty(table[n])]
        names = [n for n in FIRST if n in there] + [n for n in there if n not in FIRST]
        first = table.select(names).slice(0, SHOWN_ROWS).to_pylist()
        files = _files(table)
        files |= _clips(table, files)
        rows = [{n: cell_text(n, v, files) for n, v in row.items()} for row in first]
        shown = fitting(names, rows, console.width)
        console.print(_grid(shown, rows, table.schema, _widest(console.width)))
        left = [n for n in names if n not in shown]
        if left:
            console.print(f"not shown: {listed(left, 8)}; --out FILE writes all columns", soft_wrap=True)
    more = f"; the first {SHOWN_ROWS} are shown, --out FILE writes all" if table.num_rows > SHOWN_ROWS else ""
    console.print(f"{counted(table.num_rows, 'row')}{more}", soft_wrap=True)


def fitting(names: Sequence[str], rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """Those columns that fit into `width` characters, in their order. The first column, messages, the status, the file
    and one column of other sentences come before all others; sentences count as narrow, since they wrap in what is
    left."""

    def need(name: str) -> int:
        longest = max((len(r[name]) for r in rows), default=0)
        most = NARROWEST_TEXT if name in SENTENCES else _widest(width)
        return GAP + min(max(longest, len(name)), most)

    first = [*names[:1], *(n for n in names if n in MESSAGES), "status", "file", "uri"]
    first = [n for n in first if n in names] + [n for n in names if n in SENTENCES and n not in MESSAGES][:1]
    shown, used = set[str](), 0
    for name in dict.fromkeys([*first, *names]):
        if not shown or used + need(name) <= width:
            shown.add(name)
            used += need(name)
    return [n for n in names if n in shown]


def _widest(width: int) -> int:
    """How wide a column without sentences may be in a terminal of this width."""
    return WIDEST if width >= NARROW else WIDEST_IF_NARROW


def _grid(names: Sequence[str], rows: Sequence[dict[str, str]], schema: pa.Schema, widest: int) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        kind = schema.field(name).type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if name in SENTENCES:
            grid.add_column(name, overflow="fold", min_width=len(name))
        else:
            grid.add_column(
                name, justify="right" if number else "left", overflow="ellipsis", no_wrap=True, max_width=widest
            )
    for row in rows:
        grid.add_row(*(Text(for_terminal(row[n], keep="")) for n in names))
    return grid


def _files(table: pa.Table) -> dict[str, str]:
    """What each file that is no file of the store is called: its name, with the folders that tell it from others."""
    columns = [table[name].unique() for name in table.column_names if name.endswith("uri")]
    return told_apart(v for column in columns for v in column.to_pylist() if v and _is_elsewhere(v))


def _clips(table: pa.Table, files: Mapping[str, str]) -> dict[str, str]:
    """What each clip is called that another is a copy of: its file and span; none where the table does not say."""
    if not {"clip_id", "uri", "start_s", "end_s", "duplicate_of"} <= {*table.column_names}:
        return {}
    better = table.filter(pc.is_in(table["clip_id"], table["duplicate_of"].unique()))
    return {r["clip_id"]: clip_name(files[r["uri"]], r["start_s"], r["end_s"]) for r in better.to_pylist()}


def _is_elsewhere(uri: str) -> bool:
    return "://" in uri or uri.startswith("/")


def _is_empty(column: pa.ChunkedArray) -> bool:
    return not any(v not in ("", None, []) for v in column.to_pylist())


def cell_text(name: str, value: Any, files: Mapping[str, str] | None = None) -> str:
    """A value as a person reads it: ids by their beginning, files by their name, reasons as sentences. files: what each
    path or URL outside the store is called, and each clip (by its id) in a reason."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if name == "reasons":
        return "; ".join(reason_text(r, files) for r in value)
    if isinstance(value, list):
        return " ".join(cell_text("", v) for v in value)
    if name == "error":
        return error_text(str(value))
    if name.endswith("uri"):
        return (files or {}).get(str(value), str(value))
    if name == "id" or (name.endswith(("_id", "_of", "_group")) and name != "run_id"):
        return str(value)[:ID_LENGTH]
    return str(value)
