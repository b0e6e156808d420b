"""Videos that are there already as the clips of an evaluation, and the file that says what each shows."""

from __future__ import annotations

import csv
from pathlib import Path

from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.reach.harmless import from_cell
from stages.core.step import Row
from stages.core.weights.digests import file_digest

FILE_COLUMNS, CAPTION_COLUMNS = ("file", "video", "path", "uri", "name", "filename"), ("caption", "prompt", "text")


def clip_row(campaign: str, position: int, path: Path, caption: str, part: str) -> Row:
    """A video as a unit of work. Its id is that of its content and caption: moving or renaming it changes nothing."""
    content = file_digest(path)
    return {
        "id": digest("clip", content, caption, part),
        "position": position,
        "campaign": campaign,
        "prompt": caption,
        "seed": 0,
        "path": str(path.resolve()),
        "sha256": content,
        "part": part,
    }


def read_captions(table: Path, folder: Path) -> list[tuple[str, Path, str]]:
    """(place, video, caption) of every line of a CSV file: columns `file` and `caption`, or no header and these two.

    Raises BadInput for a file that cannot be read, a missing column, or a video that is not in the folder.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = [[from_cell(c) for c in line] for line in csv.reader(file) if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"captions {table} cannot be read: {error}") from None
    if not lines:
        raise BadInput(f"captions {table} is empty")
    columns, first = _columns(table, lines[0], folder)
    return [_captioned(table, n, line, columns, folder) for n, line in enumerate(lines[first:], first + 1)]


def _columns(table: Path, header: list[str], folder: Path) -> tuple[tuple[int, int], int]:
    """Where file and caption stand, and the first line that holds some."""
    if len(header) >= 2 and (folder / header[0].strip()).is_file():
        return (0, 1), 0
    names = [name.strip().lower() for name in header]
    found = [next((names.index(n) for n in known if n in names), -1) for known in (FILE_COLUMNS, CAPTION_COLUMNS)]
    if -1 in found:
        raise BadInput(f"captions {table} needs the columns `file` and `caption`; it has {', '.join(header)}")
    return (found[0], found[1]), 1


def _captioned(
    table: Path, number: int, line: list[str], columns: tuple[int, int], folder: Path
) -> tuple[str, Path, str]:
    place = f"{table}, line {number}"
    if len(line) <= max(columns):
        raise BadInput(f"{place} has {len(line)} columns; both file and caption are needed")
    name = line[columns[0]].strip()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise BadInput(f"{place}: there is no video {name!r} in {folder}")
    return place, path, line[columns[1]].strip()
