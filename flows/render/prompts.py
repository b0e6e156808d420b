"""Prompts from a file: a table, JSON, or one prompt a line, on any URL that fsspec opens."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from flows.render.entries import CHECKS, Entry, as_entry, check_all, check_entry, plain_name
from flows.render.templates import columns_used
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.reach.harmless import from_cell
from stages.core.reach.opening import read_bytes
from stages.core.reach.secrets import cleared
from stages.core.text_tables import PADDING, parsed_json, records, surplus

LINE_END = re.compile(r"\r\n|\n|\r")
"""What ends a line of text. A separator of Unicode or a form feed inside a line belongs to its prompt."""

__all__ = ["Entry", "as_entry", "check_all", "check_entry", "read_prompts"]


def read_prompts(url: str, base: str | Path = "", known: Collection[str] = tuple(CHECKS)) -> list[Entry]:
    """The prompts of a file, in order, by its suffix (upper or lower case).

    .csv, .tsv        a header line with the column `prompt`; a cell may hold line ends where it is quoted
    .parquet          likewise
    .json             a list of texts, or of mappings with the key `prompt`
    .jsonl, .ndjson   one such text or mapping a line
    .txt              one prompt a line

    url is a path or a URL; a relative path counts from `base`, the folder of the campaign file. Names of columns are
    compared without case and outer spaces; `known` lists those that may be there, beside those that a prompt names as
    `{{column}}`. Empty lines and rows are left out.
    A row that cannot be read becomes an entry with a fault, for `check_all` to tell. Raises BadInput where the whole
    file cannot be read, or looks as if its suffix were wrong.
    """
    shown, folder, suffix = _where(url, base)
    reader = READERS.get(suffix)
    if reader is None:
        raise BadInput(f"{shown}: prompts cannot be read from {suffix or 'a file without suffix'}; use {_suffixes()}")
    entries = list(reader(shown, _fetched(url, base, shown), folder, known))
    if not entries:
        raise BadInput(f"{shown} holds no prompts")
    return entries


def is_prompts_file(location: str) -> bool:
    """Whether a name ends like a file of prompts, and not like a campaign."""
    return PurePosixPath(location).suffix.lower() in READERS


def _suffixes() -> str:
    return ", ".join(READERS)


def _is_url(url: str) -> bool:
    return "://" in url


def _where(url: str, base: str | Path) -> tuple[str, str, str]:
    """How a file is named to people (no password, no query), its folder, and its suffix in lower case."""
    if not _is_url(url):
        path = Path(base).expanduser() / Path(url).expanduser()
        return url, str(path.parent), path.suffix.lower()
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{host}{parts.path}"
    return shown, shown.rpartition("/")[0], PurePosixPath(parts.path).suffix.lower()


def _fetched(url: str, base: str | Path, shown: str) -> bytes:
    try:
        if not _is_url(url):
            return (Path(base).expanduser() / Path(url).expanduser()).read_bytes()
        return read_bytes(url)
    except Exception as error:  # every file system has its own tree of errors
        reason = getattr(error, "strerror", None) or cleared(str(error).replace(url, shown)) or type(error).__name__
        raise BadInput(f"{shown} cannot be read: {reason}") from None


def _decoded(shown: str, data: bytes) -> str:
    """UTF-8, or UTF-16 where a mark at the start says so, as spreadsheets write it. Raises BadInput."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data[: error.start].count(b"\n")
        raise BadInput(f"{shown}, line {line}: this is not UTF-8 text; save the file as UTF-8") from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, counted from 1."""
    for number, line in enumerate(LINE_END.split(text), 1):
        if line.strip(PADDING):
            yield number, line.strip(PADDING)


def lines_of(text: str) -> list[str]:
    """The prompts of a text that holds one a line; none of an empty one."""
    return [line for _, line in _lines(text)]


# -- text and JSON -----------------------------------------------------------------------------------------------------


def _read_text(shown: str, data: bytes, folder: str, known: Collection[str]) -> Iterator[Entry]:
    lines = list(_lines(_decoded(shown, data)))
    first = lines[0][1] if lines else ""
    names = [plain_name(name) for name in re.split(r"[,;\t]", first.replace('"', ""))]
    if "prompt" in names:
        raise BadInput(f"{shown} begins like a table ({first[:60]!r}); name it .csv or .tsv")
    if first.startswith(("{", "[")):
        raise BadInput(
            f"{shown} begins like JSON ({first[:60]!r}); name it .json or .jsonl, or write such a prompt there"
        )
    for number, line in lines:
        yield Entry(f"{shown}, line {number}", {"prompt": line}, folder)


def _read_json_lines(shown: str, data: bytes, folder: str, known: Collection[str]) -> Iterator[Entry]:
    for number, line in _lines(_decoded(shown, data)):
        place = f"{shown}, line {number}"
        try:
            value = parsed_json(line)
        except ValueError as error:
            yield Entry(place, {}, folder, f"this is not JSON: {error}")
        else:
            yield as_entry(place, value, folder)


def _read_json(shown: str, data: bytes, folder: str, known: Collection[str]) -> Iterator[Entry]:
    text = _decoded(shown, data)
    try:
        values = parsed_json(text)
    except json.JSONDecodeError as error:
        hint = "; a file with one JSON text a line is .jsonl" if error.msg == "Extra data" else ""
        raise BadInput(f"{shown}, line {error.lineno}: this is not JSON: {error.msg}{hint}") from None
    except ValueError as error:
        raise BadInput(f"{shown} is not JSON: {error}") from None
    if not isinstance(values, list):
        raise BadInput(f"{shown} must hold a list of texts, or of mappings with the key `prompt`")
    for number, value in enumerate(values, 1):
        yield as_entry(f"{shown}, entry {number}", value, folder)


# -- tables ------------------------------------------------------------------------------------------------------------


def _read_csv(shown: str, data: bytes, folder: str, known: Collection[str]) -> Iterator[Entry]:
    return _read_table_text(shown, _decoded(shown, data), folder, known, ",;\t")


def _read_tsv(shown: str, data: bytes, folder: str, known: Collection[str]) -> Iterator[Entry]:
    return _read_table_text(shown, _decoded(shown, data), folder, known, "\t")


def _read_table_text(shown: str, text: str, folder: str, known: Collection[str], separators: str) -> Iterator[Entry]:
    """Rows under a header; of several separators, the first that gives a column `prompt` (spreadsheets differ)."""
    first = next((line for _, line in _lines(text)), "")
    fits = [s for s in separators if "prompt" in map(plain_name, next(csv.reader([first], delimiter=s), []))]
    found = records(shown, text, (fits or separators)[0])
    if (head := next(found, None)) is None:
        return
    names = _columns(f"{shown}, line {head[0]}", head[1])
    entries = list(_row_entries(shown, found, names, folder))
    _refuse_unknown(f"{shown}, line {head[0]}", head[1], known, entries)
    yield from entries


def _row_entries(
    shown: str, found: Iterable[tuple[int, list[str]]], names: Sequence[str], folder: str
) -> Iterator[Entry]:
    for line, cells in found:
        place = f"{shown}, line {line}"
        if many := surplus(cells, names):
            yield Entry(place, {}, folder, many)
        elif any(cell.strip(PADDING) for cell in cells):
            yield as_entry(place, dict(zip(names, map(from_cell, cells), strict=False)), folder)


def _columns(place: str, header: Sequence[str]) -> list[str]:
    """The names of the columns as they are compared, `prompt` among them. Raises BadInput."""
    names = [plain_name(name) for name in header]
    while names and not names[-1]:  # a separator at the end of every line
        names.pop()
    if "prompt" not in names:
        raise BadInput(f"{place}: there is no column `prompt` among {', '.join(map(repr, header[:12]))}")
    for name, written in zip(names, header, strict=False):
        if names.count(name) > 1:
            raise BadInput(f"{place}: the column {written!r} occurs twice")
    return names


def _refuse_unknown(place: str, header: Sequence[str], known: Collection[str], entries: Sequence[Entry]) -> None:
    """Raise BadInput for a column that is no key of a prompt and that no prompt names as `{{column}}`."""
    allowed = {*known, *columns_used(entry.values for entry in entries), ""}
    for written in header:
        if (name := plain_name(written)) not in allowed:
            hint = nearest(name, known)
            own = (
                f"; a prompt may name it as {{{{{written}}}}}, and what is for your own use goes into the column `tags`"
            )
            raise BadInput(f"{place}: unknown column {written!r}; {hint}{'' if hint.startswith('did') else own}")


def _read_parquet(shown: str, data: bytes, folder: str, known: Collection[str]) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
        kept = [i for i, name in enumerate(table.column_names) if not re.fullmatch(r"__index_level_\d+__", name)]
        columns = [table.column(i).to_pylist() for i in kept]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{shown} is not Parquet: {error}") from None
    header = [table.column_names[i] for i in kept]
    names = _columns(shown, header)
    rows = enumerate(zip(*columns, strict=True), 1)
    read = (as_entry(f"{shown}, row {number}", dict(zip(names, cells, strict=True)), folder) for number, cells in rows)
    entries = [entry for entry in read if entry.values]
    _refuse_unknown(shown, header, known, entries)
    yield from entries


READERS: dict[str, Callable[[str, bytes, str, Collection[str]], Iterator[Entry]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
