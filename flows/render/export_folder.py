"""The folder of an export: which files in it are ours, how they get in, and one export at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.render.delivery import MANIFESTS
from flows.render.provenance import INDEX, content_sha256, read_index, record_uri
from stages.core.ledger.storage import Storage

LEFT = re.compile(r"\..+\.(mp4|mov|webm|gif|webp|png|csv|jsonl|parquet|json)\.[0-9a-f]{8}\.part")
"""The name of a file, or of a folder of frames, that was never finished."""


def strangers(folder: Path, names: set[str], storage: Storage | None) -> Iterator[str]:
    """Which of these names, of the index and of the manifests belong to files that are not ours; and what is in the way
    of a name that lies in a folder below: a file, or a link, which might lead out of the folder."""
    index, manifests = read_index(folder), read_manifests(folder)
    if os.path.lexists(folder / INDEX) and not (index or _is_empty_index(folder)):
        yield INDEX
    for name in names:
        above = [folder.joinpath(*Path(name).parts[:depth]) for depth in range(1, len(Path(name).parts))]
        in_the_way = next((p for p in above if os.path.lexists(p) and (p.is_symlink() or not p.is_dir())), None)
        path, entry = folder / name, (manifests if name in MANIFESTS.values() else index).get(name, {})
        if in_the_way is not None:
            yield str(in_the_way.relative_to(folder))
        elif os.path.lexists(path) and not _is_ours(path, {entry.get("sha256"), entry.get("before")}, storage):
            yield name


def _is_ours(path: Path, written: set[str | None], storage: Storage | None) -> bool:
    kind = path.lstat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        return False
    sha256 = content_sha256(path)
    if not sha256:
        return False
    return sha256 in written or (storage is not None and storage.exists(record_uri(sha256)))


def _is_empty_index(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / INDEX).read_bytes())["files"] == {})
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """What the index says of the manifests: name -> `sha256` and, of the file that it replaces, `before`."""
    try:
        found = json.loads((folder / INDEX).read_bytes())["manifests"]
        return {str(k): dict(v) for k, v in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def write_index(folder: Path, index: Mapping[str, Any], manifests: Mapping[str, Any]) -> None:
    """Put what is ours into `rushes.json`."""
    said = {"files": dict(index), **({"manifests": dict(manifests)} if manifests else {})}
    replace(folder / INDEX, json.dumps(said, indent=1, sort_keys=True).encode())


def temporary(target: Path, source: Path | bytes) -> Path:
    """The bytes, or a copy of a file or of a folder of frames, under a new name beside the target, so that a move
    cannot cross a mount."""
    suffix = ".png" if isinstance(source, Path) and source.is_dir() else ""
    path = target.with_name(f".{target.name}{suffix}.{uuid.uuid4().hex[:8]}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if suffix:
            path.mkdir()
        pairs = (
            [(path / p.name, p) for p in sorted(source.iterdir())]
            if isinstance(source, Path) and suffix
            else [(path, source)]
        )
        for copy, what in pairs:
            with copy.open("xb") as file:
                file.write(what if isinstance(what, bytes) else what.read_bytes())
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        remove(path)
        raise
    return path


def move(path: Path, target: Path) -> None:
    """Give a temporary file or folder its name. A folder of frames that is there goes first, since no system replaces
    one: it is removed only once it is out of the way."""
    old = None
    if target.is_dir():
        old = target.with_name(f".{target.name}.png.{uuid.uuid4().hex[:8]}.part")
        os.replace(target, old)
    os.replace(path, target)
    if old is not None:
        remove(old)


def remove(path: Path) -> None:
    """Take away a temporary file or folder, there or not."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def replace(target: Path, data: bytes) -> None:
    """Write a file so that there is the old one or the new one at any moment."""
    os.replace(temporary(target, data), target)


@contextlib.contextmanager
def locked(folder: Path, names: Iterable[str] = ()) -> Iterator[None]:
    """One export at a time, so that none writes an index without the files of the other. While it is held, temporary
    files in the folder, and beside these names, are those of a killed export, and go."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock nothing
            fcntl.flock(handle, fcntl.LOCK_EX)
            for place in {folder, *((folder / name).parent for name in names)}:
                for left in place.glob(".*.part"):
                    if LEFT.fullmatch(left.name):
                        remove(left)
        yield
    finally:
        os.close(handle)
