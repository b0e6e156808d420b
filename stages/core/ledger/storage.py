"""Files of a store, on any fsspec URL: content-addressed media, atomic writes, no path that leaves the root."""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem

from stages.core.crash import crash_point
from stages.core.errors import BadInput
from stages.core.full_disk import cannot_write, is_refusal
from stages.core.reach.file_systems import naming_extra
from stages.core.reach.secrets import bare, remember, secret_parts, secret_values

MEDIA = "media"
TEMPORARY = "tmp"
COPY_BYTES = 1 << 20
REWRITE_AFTER = timedelta(hours=6)
"""Media older than this are written again when they are put again: repair removes orphans that are a day old, so a
file that is about to get its row must never look that old."""


@dataclass(frozen=True)
class FileInfo:
    """One file of a store: where it lies (relative to the root), its size in bytes, when it was last written."""

    uri: str
    size: int
    modified: datetime


def _absolute(url: str) -> str:
    return url if "://" in url else str(Path(url).expanduser().resolve())


@dataclass(frozen=True)
class Storage:
    """One store. Pickles as its URL, so workers open it themselves. Every path is relative to the root.

    url      where it lies, without user, password and query: it may be shown
    options  of its file system; they may hold keys
    address  the URL as it was given, which is the one that is opened
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    address: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        address = self.address or _absolute(self.url)
        object.__setattr__(self, "address", address)
        object.__setattr__(self, "url", bare(address))
        remember((*secret_parts(address), *secret_values(self.options)))

    @property
    def fs(self) -> DirFileSystem:
        """The file system whose root is the store. fsspec caches the instances behind it."""
        fs, path = self._opened()
        return DirFileSystem(path=path, fs=fs)

    @property
    def local_root(self) -> Path | None:
        """The folder of a store on local disk, None for any other."""
        fs, path = self._opened()
        return Path(path) if "file" in fs.protocol else None

    def _opened(self) -> tuple[Any, str]:
        """Listings are never cached: another process may have written since."""
        with naming_extra(self.url):
            fs, path = fsspec.core.url_to_fs(self.address, **{"use_listings_cache": False, **self.options})
        return fs, path

    def check_relative(self, uri: str) -> str:
        """The same path, normalised. Raises BadInput where it would leave the store, by name or through a link."""
        clean = posixpath.normpath(uri)
        leaves = clean in (".", "..") or clean.startswith(("/", "../")) or "\0" in uri
        if not uri or leaves or "\\" in uri or "://" in uri or self._linked_outside(clean):
            raise BadInput(f"{uri!r} is not a path inside the store {self.url}")
        return clean

    def _linked_outside(self, clean: str) -> bool:
        if (root := self.local_root) is None:
            return False
        real = os.path.realpath(root)
        return os.path.commonpath([real, os.path.realpath(root / clean)]) != real

    def read(self, uri: str) -> bytes:
        """The bytes of one file. Raises FileNotFoundError naming the store."""
        data: bytes = self.fs.cat_file(self.check_relative(uri))
        return data

    def fetch(self, uri: str, target: Path) -> None:
        """Copy one file to local disk, part by part. Raises FileNotFoundError."""
        self.fs.get_file(self.check_relative(uri), str(target))

    def local_path(self, uri: str) -> Path | None:
        """Where the file lies on local disk, for libraries that want a path; None on an object store."""
        root = self.local_root
        return root / self.check_relative(uri) if root else None

    def place(self, uri: str) -> str:
        """Where a file of the store is, for people: a path on local disk, else a URL."""
        return str(self.local_path(uri) or f"{self.url}/{uri}")

    def exists(self, uri: str) -> bool:
        """Whether the file is there."""
        return bool(self.fs.exists(self.check_relative(uri)))

    def write(self, uri: str, data: bytes) -> None:
        """Write a whole file so that a reader, also after a crash, sees all of it or nothing.

        On local disk: temporary name in the same store, fsync, replace. Elsewhere a PUT is atomic by itself. Raises
        CannotWrite where the disk is full, or a right is missing.
        """
        uri = self.check_relative(uri)
        crash_point("before_move")
        with self._writing():
            if (root := self.local_root) is None:
                self.fs.pipe_file(uri, data)
            else:
                _replace(root, uri, data)
        crash_point("after_move")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not is_refusal(error):
                raise
            raise cannot_write(self.local_root or self.url, error) from error

    def put_media(self, data: bytes, suffix: str) -> dict[str, Any]:
        """Keep bytes under their SHA-256. Returns `uri`, `sha256` and `size`; the same bytes are stored once."""
        digest = hashlib.sha256(data).hexdigest()
        uri = f"{MEDIA}/{digest[:2]}/{digest}{suffix}"
        there = self.info(uri)
        if there is None or there.size != len(data) or datetime.now(UTC) - there.modified > REWRITE_AFTER:
            self.write(uri, data)
        return {"uri": uri, "sha256": digest, "size": len(data)}

    def put_media_file(self, path: Path, suffix: str) -> dict[str, Any]:
        """`put_media` for what lies in a local file, which may be larger than memory. The file stays where it is.
        Raises CannotWrite as `write` does."""
        hasher = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(COPY_BYTES):
                hasher.update(part)
        digest, size = hasher.hexdigest(), path.stat().st_size
        uri = f"{MEDIA}/{digest[:2]}/{digest}{suffix}"
        there = self.info(uri)
        if there is None or there.size != size or datetime.now(UTC) - there.modified > REWRITE_AFTER:
            crash_point("before_move")
            with self._writing():
                if (root := self.local_root) is None:
                    self.fs.put_file(str(path), self.check_relative(uri))
                else:
                    _replace(root, self.check_relative(uri), path)
            crash_point("after_move")
        return {"uri": uri, "sha256": digest, "size": size}

    def info(self, uri: str) -> FileInfo | None:
        """Size and age of one file, None where it is not there."""
        try:
            entry = self.fs.info(self.check_relative(uri))
        except FileNotFoundError:
            return None
        return _file_info(entry) if entry["type"] == "file" else None

    def files(self, folder: str) -> list[FileInfo]:
        """Every file below a folder, in order of name."""
        try:
            found = self.fs.find(self.check_relative(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((_file_info(e) for e in found.values() if e["type"] == "file"), key=lambda f: f.uri)

    def remove(self, uri: str) -> None:
        """Delete one file; no error where it is gone already."""
        try:
            self.fs.rm_file(self.check_relative(uri))
        except FileNotFoundError:
            return


def _file_info(entry: dict[str, Any]) -> FileInfo:
    """File systems name the time of writing differently; one that tells none counts as written now."""
    when = next(
        (entry[k] for k in ("mtime", "LastModified", "last_modified", "updated", "created") if entry.get(k)), None
    )
    if isinstance(when, int | float):
        when = datetime.fromtimestamp(when, UTC)
    elif isinstance(when, str):
        when = datetime.fromisoformat(when)
    when = when or datetime.now(UTC)
    return FileInfo(entry["name"], int(entry["size"] or 0), when if when.tzinfo else when.replace(tzinfo=UTC))


def _replace(root: Path, uri: str, data: bytes | Path) -> None:
    target, temporary = root / uri, root / TEMPORARY / f"{uuid.uuid4().hex}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_through(temporary, data)
        crash_point("mid_move")
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_through(path: Path, data: bytes | Path) -> None:
    with open(path, "wb") as file:
        if isinstance(data, Path):
            with data.open("rb") as source:
                shutil.copyfileobj(source, file, COPY_BYTES)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
