"""What a curation starts from: files, folders, globs and manifests on any fsspec URL, one row per uri.

Nothing that was listed is dropped here: what cannot be used (a link out of its folder, a device, a missing file) keeps
its row and says so in `problem`, so that ingest turns it into an error row with that reason.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote_from_bytes

import pyarrow as pa

from data_prep.sources.manifests import MANIFESTS, read_manifest
from data_prep.sources.reading import facts_of, remote_facts
from data_prep.sources.unused import Unused
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.reach.file_systems import naming_extra
from stages.core.reach.opening import is_web, joined, read_bytes
from stages.core.reach.policy import in_force, local_path
from stages.core.reach.secrets import bare, bare_in, cleared, remember, secret_parts
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
CHAIN = re.compile(r"\w+::")


def list_sources(
    sources: Sequence[str],
    columns: Mapping[str, str],
    label_from_folder: bool = False,
    limit: int = 0,
    shot_lists: str = "",
    unused: Unused | None = None,
) -> list[Row]:
    """The sources that these words mean, in order, each uri once: rows of `ROOTS`.

    columns            manifest column for each of uri, label, caption, licence; `root`: the folder or URL that paths in
                       manifests count from, where not the manifest's own folder
    label_from_folder  take the name of a file's folder as its class label, as UCF-101 is laid out
    limit              only the first so many
    shot_lists         a folder with shot lists, each called as its source is
    unused             collects what is found and not used

    Raises BadInput for a word that names nothing, and for a manifest that cannot be read.
    """
    found: dict[tuple[str, str], Row] = {}
    unused = unused if unused is not None else Unused()
    several: Counter[str] = Counter()
    trust_sources([*sources, *filter(None, [columns.get("root")])])
    for word in sources:
        empty = True
        for row in (_kept(row, several) for row in _expand(str(word), columns)):
            empty = False
            unused.see(row, found.setdefault((row["uri"], row.get("problem") or ""), row))
            if limit and len(found) >= limit:
                break
        if empty:
            raise BadInput(
                f"{bare(word)!r} has no files in it; give files, folders, globs or manifests ({', '.join(MANIFESTS)})"
            )
    rows = list(found.values())[: limit or None]
    if shot_lists:
        rows = _with_lists(rows, shot_lists, unused)
    return [_finished(row, i, label_from_folder) for i, row in enumerate(_with_versions(rows))]


def trust_sources(sources: Iterable[str]) -> None:
    """Manifests may name what lies below the folders and addresses that are named as sources."""
    reach = in_force()
    for word in map(str, sources):
        if "://" in word and not word.startswith("file://"):
            place = bare(word)
            whole = not glob.has_magic(place) and Path(place).suffix.lower() not in MANIFESTS
            reach.trust(place if whole else re.split(r"[*?\[]", place, maxsplit=1)[0].rpartition("/")[0])
            continue
        path = (local_path(word) if word.startswith("file://") else None) or Path(word).expanduser()
        if path.is_dir():
            reach.trust(path)
        elif path.is_file():
            reach.trust(path.parent) if path.suffix.lower() in MANIFESTS else reach.trust_file(path)


def _kept(row: Row, several: Counter[str]) -> Row:
    """A row with the bare form of its address; who opens it gets the whole one. Of those that differ only in what is
    taken away the first is kept, as the others could not be told from it; `several` counts these."""
    uri, reach = row["uri"], in_force()
    if "://" not in uri or uri.startswith("file://"):
        return row
    plain = bare(uri)
    if row.get("problem"):
        return {**row, "uri": plain}
    if reach.links.get(plain, uri if plain == uri else "") not in ("", uri):
        several[plain] += 1
        alike = (
            f"number {several[plain] + 1} of the addresses that differ only in their query or their user, of which the "
            "first is read; give each file a path of its own"
        )
        return {**row, "uri": plain, "size": 0, "problem": alike}
    return {**row, "uri": reach.keep(uri)}


def _finished(row: Row, position: int, label_from_folder: bool) -> Row:
    texts = {k: str(row.get(k) or "") for k in TEXTS}
    texts["extra"] = bare_in(texts["extra"])
    if label_from_folder and not texts["label"] and "/" in row["uri"].strip("/"):
        texts["label"] = row["uri"].rstrip("/").rsplit("/", 2)[-2]
    size = int(row["size"])
    return {"id": digest("source", size, texts), "position": position, "size": size, **texts}


def _expand(word: str, columns: Mapping[str, str]) -> Iterator[Row]:
    if "://" in word and not word.startswith("file://"):
        yield from _expand_remote(word, columns)
        return
    path = (local_path(word) if word.startswith("file://") else None) or Path(word).expanduser()
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
        raise BadInput(f"{word}: no such file or folder")


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
            cure = "name the file itself, or a glob such as FOLDER/*, to take it all the same"
            return {**row, "problem": f"the link leads out of the folder that was named; {cure}"}
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
        yield from _named_elsewhere({**r, "uri": joined(base, r["uri"])} for r in rows)
        return
    folder = Path(os.path.abspath(local_path(root) or Path(root).expanduser()))
    if not folder.is_dir():
        raise BadInput(f"manifest.root={root} is no folder")
    yield from _from_manifest(rows, folder)


def _from_manifest(rows: Iterable[Row], folder: Path) -> Iterator[Row]:
    for row in rows:
        uri = next((place for place in row.get("nearby", ()) if (folder / place).is_file()), row["uri"])
        if "://" in uri or CHAIN.match(uri):
            yield from _named_elsewhere([{**row, "uri": uri}])
            continue
        path = Path(os.path.normpath(folder / uri))
        if uri != uri.strip() and not os.path.lexists(path):  # a name may begin with a space; more often one slipped in
            path = Path(os.path.normpath(folder / uri.strip()))
        inside = path.is_relative_to(folder)
        found = local_row(path, folder if inside else None)
        if not inside and not os.path.isabs(uri):
            found |= {"size": 0, "problem": "the path leads out of the manifest's folder"}
        elif not found["problem"] and (refusal := in_force().refusal(str(path))):
            found |= {"size": 0, "problem": refusal}
        yield {**row, **found}


def _named_elsewhere(rows: Iterable[Row]) -> Iterator[Row]:
    """Addresses that a manifest names: those that it may not name keep their row and say so."""
    for row in rows:
        try:
            refusal = in_force().refusal(row["uri"])
        except BadInput as bad:
            refusal = str(bad)
        if refusal:
            yield {**row, "uri": bare(row["uri"]), "size": 0, "problem": refusal}
        elif (path := local_path(row["uri"])) is not None:
            yield {**row, **local_row(path)}
        else:
            yield row


# -- object stores ---------------------------------------------------------------------------------------------------


def _expand_remote(word: str, columns: Mapping[str, str]) -> Iterator[Row]:
    remember(secret_parts(word))
    plain = bare(word)
    suffix = "" if glob.has_magic(plain) else Path(plain).suffix.lower()
    if suffix in MANIFESTS:
        yield from _remote_manifest(word, columns)
    elif suffix and is_web(word):
        yield {"uri": word}  # a file: its size and version are asked for as those of rows are
    else:
        yield from _remote_files(word)


def _remote_manifest(word: str, columns: Mapping[str, str]) -> Iterator[Row]:
    base = columns.get("root") or bare(word).rpartition("/")[0]
    try:
        data = read_bytes(in_force().keep(word))
    except Exception as error:  # every file system has its own tree of errors
        raise BadInput(cleared(f"{bare(word)!r} cannot be read: {error}")) from None
    yield from _below(base, read_manifest(bare(word), data, columns))


def _remote_files(word: str) -> Iterator[Row]:
    import fsspec

    try:
        with naming_extra(word):
            fs, path = fsspec.core.url_to_fs(word)
        if glob.has_magic(path):
            found = [i for i in fs.glob(path, detail=True).values() if i["type"] == "file"]
        else:
            found = list(fs.find(path, detail=True).values()) if fs.isdir(path) else [fs.info(path)]
    except BadInput:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(cleared(f"{bare(word)!r} cannot be listed: {error}")) from None
    for info in sorted(found, key=lambda i: str(i["name"])):
        if not str(info["name"]).rsplit("/", 1)[-1].startswith("."):
            yield {"uri": fs.unstrip_protocol(info["name"]), **facts_of(info)}


def _with_lists(rows: list[Row], folder: str, unused: Unused) -> list[Row]:
    """The rows, those that have a shot list in a folder with it. Raises BadInput."""
    import fsspec

    from data_prep.sources.shot_lists import SUFFIXES, by_source, strangers

    try:
        fs, path = fsspec.core.url_to_fs(folder)
        root = fs.info(path)["name"].rstrip("/")
        names = {n.removeprefix(root).lstrip("/"): n for n in fs.find(path)}
        lists = {below: fs.cat_file(name) for below, name in names.items() if name.endswith(SUFFIXES)}
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(cleared(f"shot_lists={bare(folder)} cannot be listed: {error}")) from None
    uris = [str(row["uri"]) for row in rows]
    found = by_source(lists, uris)
    unused.lists += strangers(names, uris)
    return [{**row, "shots": found.get(uri, "")} for row, uri in zip(rows, uris, strict=True)]


def _with_versions(rows: list[Row]) -> Iterable[Row]:
    """Fill in size and version of what a manifest named on an object store, some at a time."""
    if all("size" in row for row in rows):
        return rows
    with ThreadPoolExecutor(REMOTE_THREADS) as pool:
        return list(pool.map(lambda row: row if "size" in row else {**row, **remote_facts(row["uri"])}, rows))
