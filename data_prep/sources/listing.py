"""What a curation starts from: files, folders, globs and manifests on any fsspec URL, one row per uri.

Nothing that was listed is dropped here: what cannot be used (a link out of its folder, a device, a missing file) keeps
its row and says so in `problem`, so that ingest turns it into an error row with that reason.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote_from_bytes

import pyarrow as pa

from data_prep.sources.manifests import MANIFESTS, read_manifest
from data_prep.sources.reading import facts_of, local_path_of, remote_facts
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.step import Row

ROOTS = pa.schema(
    [
        ("id", pa.string()),
        ("position", pa.int64()),
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("label", pa.string()),
        ("caption", pa.string()),
        ("licence", pa.string()),
        ("extra", pa.string()),
        ("shots", pa.string()),
        ("problem", pa.string()),
    ]
)
"""One source as it was listed: the file as it lies there (uri, size, and mtime or etag as `version`), and what a
manifest says of it; `extra` is what it says in other columns, as a JSON object, `shots` its shot list as
`data_prep.sources.shot_lists.read_list` gives it. Only the former decides whether it is
read again, so that a new label costs no new read."""

TEXTS = ("uri", "version", "label", "caption", "licence", "extra", "shots", "problem")
REMOTE_THREADS = 16


def list_sources(
    sources: Sequence[str],
    columns: Mapping[str, str],
    label_from_folder: bool = False,
    limit: int = 0,
    shot_lists: str = "",
) -> list[Row]:
    """The sources that these words mean, in order, each uri once: rows of `ROOTS`.

    columns            manifest column for each of uri, label, caption, licence; `root`: the folder or URL that paths in
                       manifests count from, where not the manifest's own folder
    label_from_folder  take the name of a file's folder as its class label, as UCF-101 is laid out
    limit              only the first so many
    shot_lists         a folder with shot lists, each called as its source is

    Raises BadInput for a word that names nothing, and for a manifest that cannot be read.
    """
    found: dict[str, Row] = {}
    for word in sources:
        empty = True
        for row in _expand(str(word), columns):
            empty = False
            found.setdefault(row["uri"], row)
            if limit and len(found) >= limit:
                break
        if empty:
            raise BadInput(f"{word!r} names no files; give files, folders, globs or manifests ({', '.join(MANIFESTS)})")
    rows = list(found.values())[: limit or None]
    if shot_lists:
        rows = _with_lists(rows, shot_lists)
    return [_finished(row, i, label_from_folder) for i, row in enumerate(_with_versions(rows))]


def _finished(row: Row, position: int, label_from_folder: bool) -> Row:
    texts = {k: str(row.get(k) or "") for k in TEXTS}
    if label_from_folder and not texts["label"] and "/" in row["uri"].strip("/"):
        texts["label"] = row["uri"].rstrip("/").rsplit("/", 2)[-2]
    size = int(row["size"])
    return {"id": digest("source", size, texts), "position": position, "size": size, **texts}


def _expand(word: str, columns: Mapping[str, str]) -> Iterator[Row]:
    if "://" in word and not word.startswith("file://"):
        yield from _expand_remote(word, columns)
        return
    path = (local_path_of(word) if word.startswith("file://") else None) or Path(word).expanduser()
    if path.is_dir():
        yield from _walk(Path(os.path.abspath(path)))
    elif path.is_file() and path.suffix.lower() in MANIFESTS:
        rows = read_manifest(str(path), path.read_bytes(), columns)
        yield from _below(columns.get("root") or str(path.absolute().parent), rows)
    elif path.exists():
        yield local_row(Path(os.path.abspath(path)))
    elif glob.has_magic(word):
        for name in sorted(glob.glob(str(path), recursive=True)):
            yield from _walk(Path(os.path.abspath(name))) if os.path.isdir(name) else [_named(name)]
    elif path.is_symlink():
        yield {"uri": local_uri(path.absolute()), "size": 0, "problem": "the link leads nowhere"}
    else:
        raise BadInput(f"there is no source {word!r}: no file, folder, glob or URL that can be listed")


def _named(name: str) -> Row:
    return local_row(Path(os.path.abspath(name)))


# -- local disk ------------------------------------------------------------------------------------------------------


def local_uri(path: Path) -> str:
    """An absolute path as text; where its name is not UTF-8, as file:// with those bytes as %XX."""
    try:
        str(path).encode("utf-8")
        return str(path)
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))


def local_row(path: Path, root: Path | None = None) -> Row:
    """One local file; `root`, where given, is the folder that its links may not leave."""
    row: Row = {"uri": local_uri(path), "size": 0, "version": "", "problem": ""}
    try:
        if root is not None and path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            return {**row, "problem": "the link leads out of the folder that was named"}
        found = path.stat()
    except (OSError, RuntimeError) as error:
        return {**row, "problem": f"cannot be read: {getattr(error, 'strerror', None) or error}"}
    if stat.S_ISDIR(found.st_mode):
        return {**row, "problem": "a link to a folder is not followed"}
    if not stat.S_ISREG(found.st_mode):
        return {**row, "problem": "not a regular file"}
    return {**row, "size": found.st_size, "version": str(found.st_mtime_ns)}


def _walk(root: Path) -> Iterator[Row]:
    """Every file below a folder in the order of names; hidden ones are left out, links to folders are not followed."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        links = [f for f in folders if os.path.islink(os.path.join(folder, f))]
        for name in sorted([*files, *links]):
            if not name.startswith("."):
                yield local_row(Path(folder) / name, root)


def _below(root: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows of a manifest whose paths count from a folder, or from a URL."""
    if "://" in root and not root.startswith("file://"):
        base = root.rstrip("/")
        yield from ({**r, "uri": r["uri"] if "://" in r["uri"] else f"{base}/{r['uri']}"} for r in rows)
        return
    folder = Path(os.path.abspath(local_path_of(root) or Path(root).expanduser()))
    if not folder.is_dir():
        raise BadInput(f"manifest.root={root} is no folder")
    yield from _from_manifest(rows, folder)


def _from_manifest(rows: Iterable[Row], folder: Path) -> Iterator[Row]:
    for row in rows:
        uri = next((place for place in row.get("nearby", ()) if (folder / place).is_file()), row["uri"])
        if "://" in uri:
            yield row if not uri.startswith("file://") else {**row, **local_row(local_path_of(uri) or Path(uri))}
            continue
        path = Path(os.path.normpath(folder / uri))
        if uri != uri.strip() and not os.path.lexists(path):  # a name may begin with a space; more often one slipped in
            path = Path(os.path.normpath(folder / uri.strip()))
        if not os.path.isabs(uri) and not path.is_relative_to(folder):
            yield {**row, "uri": local_uri(path), "size": 0, "problem": "the path leads out of the manifest's folder"}
        else:
            yield {**row, **local_row(path, None if os.path.isabs(uri) else folder)}


# -- object stores ---------------------------------------------------------------------------------------------------


def _expand_remote(word: str, columns: Mapping[str, str]) -> Iterator[Row]:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(word)
    except (ValueError, ImportError) as error:
        raise BadInput(f"{word!r} cannot be listed: {error}") from None
    try:
        if glob.has_magic(path):
            found = [i for i in fs.glob(path, detail=True).values() if i["type"] == "file"]
        elif fs.isdir(path):
            found = list(fs.find(path, detail=True).values())
        elif Path(path).suffix.lower() in MANIFESTS:
            rows = read_manifest(word, fs.cat_file(path), columns)
            yield from _below(columns.get("root") or word.rsplit("/", 1)[0], rows)
            return
        else:
            found = [fs.info(path)]
    except (OSError, ValueError) as error:
        raise BadInput(f"{word!r} cannot be listed: {error}") from None
    for info in sorted(found, key=lambda i: str(i["name"])):
        if not str(info["name"]).rsplit("/", 1)[-1].startswith("."):
            yield {"uri": fs.unstrip_protocol(info["name"]), **facts_of(info)}


def _with_lists(rows: list[Row], folder: str) -> list[Row]:
    """The rows, those that have a shot list in a folder with it. Raises BadInput."""
    import fsspec

    from data_prep.sources.shot_lists import SUFFIXES, by_source

    try:
        fs, path = fsspec.core.url_to_fs(folder)
        names = [i["name"] for i in fs.ls(path, detail=True) if i["type"] == "file"]
        lists = {name: fs.cat_file(name) for name in names if name.endswith(SUFFIXES)}
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"shot_lists={folder} cannot be listed: {error}") from None
    found = by_source(lists, [_name(row) for row in rows])
    return [{**row, "shots": found.get(_name(row), "")} for row in rows]


def _name(row: Row) -> str:
    return str(row["uri"]).rsplit("/", 1)[-1]


def _with_versions(rows: list[Row]) -> Iterable[Row]:
    """Fill in size and version of what a manifest named on an object store, some at a time."""
    if all("size" in row for row in rows):
        return rows
    with ThreadPoolExecutor(REMOTE_THREADS) as pool:
        return list(pool.map(lambda row: row if "size" in row else {**row, **remote_facts(row["uri"])}, rows))
