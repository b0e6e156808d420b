"""Manifests: a table of footage with what is known about it, as csv, tsv, jsonl or Parquet, or a text list of files."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.reach.harmless import from_cell
from stages.core.step import Row
from stages.core.text_tables import parsed_json, records, surplus

MANIFESTS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
WANTED = ("uri", "label", "caption", "licence")
MISSING = frozenset({"nan", "NaN", "null", "NULL", "<NA>"})
"""Texts of a label, caption or licence that say nothing: what tables without a value become when written as text."""
UCF_LIST = re.compile(r"(train|test|val)list\d*\.txt", re.IGNORECASE)
"""Names of the split files of UCF-101: a line is CLASS/FILE, in those of training with the number of the class."""
_FIELD = re.compile(r"\{([^{}:]+)(?::(0?\d+)d?)?\}")


@dataclass(frozen=True)
class Form:
    """A manifest that is known by its columns: what holds what in it, and where its files lie beside it, if they do."""

    columns: frozenset[str]
    names: Mapping[str, str]
    nearby: tuple[str, ...] = ()


FORMS = (
    # WebVid: its own downloader keeps the files as videos/PAGE_DIR/VIDEOID.mp4
    Form(
        frozenset({"contentUrl", "name", "videoid"}),
        {"uri": "contentUrl", "caption": "name"},
        ("{page_dir}/{videoid}.mp4", "videos/{page_dir}/{videoid}.mp4"),
    ),
    # metadata.csv of Hugging Face's videofolder
    Form(frozenset({"file_name"}), {"uri": "file_name"}),
)


def read_manifest(name: str, data: bytes, columns: Mapping[str, str]) -> list[Row]:
    """The rows of a manifest: dictionaries with `uri`, `place` (the manifest, and where in it the row stands), and
    label, caption, licence where it has them.

    columns maps each of those to the manifest's own column, or to a pattern such as `{id}.mp4` or `{start:06}`, which
    is filled from the row. A row may also have `extra`, its other columns as a JSON object, and `nearby`, places where
    its file may lie instead. Raises BadInput naming the file and the row for what cannot be read, a missing column for
    the uri or an empty uri.
    """
    suffix = PurePosixPath(name).suffix.lower()
    rows = list(_parquet(name, data) if suffix == ".parquet" else _text(name, suffix, data))
    names = {k: columns.get(k) or k for k in WANTED}
    there = {str(key) for _, row in rows for key in row}
    for key, column in names.items():
        if rows and column != key and "{" not in column and column not in there:
            raise BadInput(f"{name} has no column {column!r}, which manifest.{key} names; {nearest(column, there)}")
    return list(_picked(name, rows, names))


def _picked(name: str, rows: Iterable[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str]) -> Iterator[Row]:
    for place, row in rows:
        form = _form(row, columns["uri"])
        names = {**columns, **{k: v for k, v in form.names.items() if columns[k] == k}} if form else columns
        uri = _value(name, place, row, names["uri"], "uri")
        if not uri.strip() or "\0" in uri:
            raise BadInput(f"{name}, {place}: the uri is empty or holds a NUL character")
        # a missing label is no fault, one that a pattern makes is written out on purpose
        optional = (k for k in WANTED if k != "uri" and (names[k] in row or "{" in names[k]))
        rest = {k: _value(name, place, row, names[k], k).strip() for k in optional}
        rest = {k: "" if v in MISSING else v for k, v in rest.items()}
        extra = _extra(row, set(names.values()))
        places = [filled for p in (form.nearby if form else ()) if (filled := _filled(p, row))]
        yield {
            "uri": uri,
            "place": (name, place),
            **{k: rest.get(k, "") for k in WANTED if k != "uri"},
            **({"extra": json.dumps(extra, ensure_ascii=False, sort_keys=True)} if extra else {}),
            **({"nearby": places} if places else {}),
        }


def _form(row: Mapping[str, Any], uri: str) -> Form | None:
    """The form that a row is of, where the column for the uri is not named and not there."""
    if uri != "uri" or uri in row:
        return None
    return next((f for f in FORMS if f.columns <= set(row)), None)


def _value(name: str, place: str, row: Mapping[str, Any], column: str, key: str) -> str:
    pattern = "{" in column and column not in row
    _one_text(f"{name}, {place}", row, [m[1] for m in _FIELD.finditer(column)] if pattern else [column], key)
    if pattern:
        if (filled := _filled(column, row)) is None:
            raise BadInput(
                f"{name}, {place}: manifest.{key}={column} needs other columns; it has {', '.join(map(str, row))}"
            )
        return filled
    if column not in row:
        hint = nearest(column, [str(k) for k in row])
        raise BadInput(
            f"{name} has no column {column!r}; set manifest.{key}=COLUMN ({hint}), or a pattern: "
            f"manifest.{key}='{{COLUMN}}.mp4'"
        )
    return as_text(row[column])


def _one_text(place: str, row: Mapping[str, Any], columns: Iterable[str], key: str) -> None:
    """Raises BadInput where a column that holds one text has several values in a row."""
    for column in columns:
        if isinstance(row.get(column), list | dict):
            raise BadInput(
                f"{place}: {column!r} is a list or a mapping, and manifest.{key} takes one text; write one there, or "
                f"name another column with manifest.{key}=COLUMN"
            )


def _filled(pattern: str, row: Mapping[str, Any]) -> str | None:
    """A pattern with the row's values in it; None where the row lacks one of them, or one has to be a number and is
    none."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        text = as_text(row.get(match[1])).strip()
        if match[2] and text.isdecimal():
            text = f"{int(text):{match[2]}d}"
        missing = missing or not text or bool(match[2] and not text.isdecimal())
        return text

    text = _FIELD.sub(value, pattern)
    return None if missing else text


def _extra(row: Mapping[str, Any], used: set[str]) -> Row:
    """The other columns of a row, as far as they say something. Bytes are left out."""
    found = {}
    for key, value in row.items():
        if key is None or key in used or not str(key).strip() or isinstance(value, bytes):
            continue
        if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
            continue
        plain = isinstance(value, bool | int | float | str)
        nested = isinstance(value, list | dict)
        found[str(key).strip()] = value if plain else json.dumps(value, default=str) if nested else str(value)
    return found


def as_text(value: Any) -> str:
    """A cell as text: 0 is "0", what is missing (null, NaN) is "", a whole number that a table made a float of is
    whole."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _text(name: str, suffix: str, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text: {error}") from None
    if suffix in (".csv", ".tsv"):
        yield from _table(name, text, "\t" if suffix == ".tsv" else ",")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", _json(name, number, line) if suffix == ".jsonl" else _listed(name, line)


def _table(name: str, text: str, separator: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows under a header, which may be shorter than it."""
    found = records(name, text, separator)
    line, columns = next(found, (1, []))
    while columns and not columns[-1].strip():  # a separator at the end of every line
        columns.pop()
    named = [column.strip() for column in columns if column.strip()]
    if twice := next((column for column in named if named.count(column) > 1), ""):
        raise BadInput(f"{name}, line {line}: the column {twice!r} occurs twice")
    for line, cells in found:
        if many := surplus(cells, columns):
            raise BadInput(f"{name}, line {line}: {many}")
        yield f"line {line}", dict.fromkeys(columns) | dict(zip(columns, map(from_cell, cells), strict=False))


def _listed(name: str, line: str) -> Row:
    """A line of a text list: a path, which may begin with a space; in split files of UCF-101 with its class and which
    split it is."""
    if not (ucf := UCF_LIST.fullmatch(PurePosixPath(name).name)):
        return {"uri": line.strip() if "://" in line else line.rstrip()}
    path = re.sub(r"\s+\d+$", "", line.strip())
    return {"uri": path, "label": path.partition("/")[0] if "/" in path else "", "split": ucf[1].lower()}


def _json(name: str, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = parsed_json(line)
    except ValueError as error:
        raise BadInput(f"{name}, line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadInput(f"{name}, line {number} must be an object with keys and values, not {line[:40]!r}")
    return row


def _parquet(name: str, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.read_table(io.BytesIO(data))
    except (ArrowException, OSError) as error:
        raise BadInput(f"{name} is not Parquet: {error}") from None
    rows = (row for batch in table.to_batches() for row in batch.to_pylist())
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
