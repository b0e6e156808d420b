"""Files of a store, on any fsspec URL: content-addressed media, atomic writes, no path that leaves the root."""

from __future__ import annotations

import hashlib
import os
import posixpath
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem

from stages.core.crash import crash_point
from stages.core.errors import BadInput

MEDIA = "media"
TEMPORARY = "tmp"


def _absolute(url: str) -> str:
    return url if "://" in url else str(Path(url).expanduser().resolve())


@dataclass(frozen=True)
class Storage:
    """One store. Pickles as its URL, so workers open it themselves. Every path is relative to the root."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _absolute(self.url))

    @property
    def fs(self) -> DirFileSystem:
        """The file system whose root is the store. fsspec caches the instances behind it."""
        fs, path = fsspec.core.url_to_fs(self.url, **self.options)
        return DirFileSystem(path=path, fs=fs)

    @property
    def local_root(self) -> Path | None:
        """The folder of a store on local disk, None for any other."""
        fs, path = fsspec.core.url_to_fs(self.url, **self.options)
        return Path(path) if "file" in fs.protocol else None

    def check_relative(self, uri: str) -> str:
        """The same path, normalised. Raises BadInput where it would leave the store."""
        clean = posixpath.normpath(uri)
        if not uri or clean.startswith(("/", "..")) or "\\" in uri or "://" in uri:
            raise BadInput(f"{uri!r} is not a path inside the store {self.url}")
        return clean

    def read(self, uri: str) -> bytes:
        """The bytes of one file. Raises FileNotFoundError naming the store."""
        data: bytes = self.fs.cat_file(self.check_relative(uri))
        return data

    def local_path(self, uri: str) -> Path | None:
        """Where the file lies on local disk, for libraries that want a path; None on an object store."""
        root = self.local_root
        return root / self.check_relative(uri) if root else None

    def exists(self, uri: str) -> bool:
        """Whether the file is there."""
        return bool(self.fs.exists(self.check_relative(uri)))

    def write(self, uri: str, data: bytes) -> None:
        """Write a whole file so that a reader, also after a crash, sees all of it or nothing.

        On local disk: temporary name in the same store, fsync, replace. Elsewhere a PUT is atomic by itself.
        """
        uri = self.check_relative(uri)
        crash_point("before_move")
        if (root := self.local_root) is None:
            self.fs.pipe_file(uri, data)
        else:
            _replace(root, uri, data)
        crash_point("after_move")

    def put_media(self, data: bytes, suffix: str) -> dict[str, Any]:
        """Keep bytes under their SHA-256. Returns `uri`, `sha256` and `size`; the same bytes are stored once."""
        digest = hashlib.sha256(data).hexdigest()
        uri = f"{MEDIA}/{digest[:2]}/{digest}{suffix}"
        if not self.exists(uri):
            self.write(uri, data)
        return {"uri": uri, "sha256": digest, "size": len(data)}


def _replace(root: Path, uri: str, data: bytes) -> None:
    target, temporary = root / uri, root / TEMPORARY / f"{uuid.uuid4().hex}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    crash_point("mid_move")
    os.replace(temporary, target)
