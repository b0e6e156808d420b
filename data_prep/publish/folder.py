"""The folder of a dataset's version. It is a version once its manifest is there, and that is written last of all.

    datasets/NAME/v3/dataset.json      what it is: the manifest, with the SHA-256 of each other file that is no clip
    datasets/NAME/v3/README.md         the card
    datasets/NAME/v3/index.parquet, captions.parquet, sheets/, shards/, lance/
    datasets/NAME/v3/clips/SPLIT/      the clips, and a metadata.parquet for Hugging Face's `load_dataset`

On local disk the folder is built under another name and moved into its place whole, and clips are hard links, so that
they take no room twice. On an object store clips are copied within the store, and the manifest makes the version.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from stages.core.crash import crash_point
from stages.core.errors import BadInput
from stages.core.identity import is_safe_name
from stages.core.ledger.storage import TEMPORARY, Storage
from stages.core.step import Row

DATASETS, MANIFEST = "datasets", "dataset.json"
Ending = Callable[[int], Mapping[str, bytes]]
"""The files that name the version's number, MANIFEST among them."""


def check_name(name: str) -> str:
    """The same name. Raises BadInput for one that cannot be a folder's."""
    if not is_safe_name(name) or not name.isascii():
        raise BadInput(f"{name!r} cannot name a dataset; use letters from a to z, digits, - and _")
    return name


def versions(storage: Storage, name: str = "") -> list[Row]:
    """The manifests of every version of a dataset, or of all datasets, by name and number."""
    found = []
    for dataset in [name] if name else sorted(_folders(storage, DATASETS)):
        for folder in _folders(storage, f"{DATASETS}/{dataset}"):
            uri = f"{DATASETS}/{dataset}/{folder}"
            if re.fullmatch(r"v[1-9]\d*", folder) and storage.exists(f"{uri}/{MANIFEST}"):
                found.append({**json.loads(storage.read(f"{uri}/{MANIFEST}")), "uri": uri})
    return sorted(found, key=lambda row: (row["name"], row["version"]))


def faults(storage: Storage) -> list[str]:
    """What is wrong with the datasets of a store: a file that is missing, or has another hash than its index, or for
    files that are no clips the manifest, says."""
    found = []
    for version in versions(storage):
        found += _wrong(storage, version["uri"], version.get("files", {}), "file")
        try:
            index = pq.read_table(
                io.BytesIO(storage.read(f"{version['uri']}/index.parquet")), columns=["uri", "sha256"]
            )
        except (FileNotFoundError, ValueError) as error:
            found.append(f"{version['uri']}: its index cannot be read: {error}")
            continue
        found += _wrong(storage, version["uri"], {r["uri"]: r["sha256"] for r in index.to_pylist()}, "clip")
    return found


def _wrong(storage: Storage, folder: str, files: Mapping[str, str], noun: str) -> list[str]:
    """The files of a version, path -> SHA-256, that are not what they should be."""
    found = []
    for path, sha256 in files.items():
        try:
            same = hashlib.sha256(storage.read(f"{folder}/{path}")).hexdigest() == sha256
        except FileNotFoundError:
            found.append(f"{folder}: its {noun} {path} is missing")
        else:
            found += [] if same else [f"{folder}: {path} does not have the expected hash"]
    return found


def _folders(storage: Storage, path: str) -> list[str]:
    try:
        entries = storage.fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory"]


def new_folder(storage: Storage, name: str) -> LocalFolder | RemoteFolder:
    """A folder for the next version."""
    return LocalFolder(storage, name) if storage.local_root else RemoteFolder(storage, name)


class LocalFolder:
    """Built beside, moved into place whole. A kill leaves a folder among the store's temporary files."""

    def __init__(self, storage: Storage, name: str) -> None:
        root = storage.local_root
        assert root is not None
        self.storage, self.name, self.root = storage, name, root
        self.building = root / TEMPORARY / f"publish-{uuid.uuid4().hex}"
        self.building.mkdir(parents=True)

    def write(self, path: str, data: bytes) -> None:
        """One file."""
        target = self._target(path)
        with target.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def take(self, uri: str, path: str) -> None:
        """A file of the store, as a hard link where the disk can do that."""
        source, target = self.storage.local_path(uri), self._target(path)
        assert source is not None
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source, target)

    def folder(self, path: str) -> str:
        """Where a library may write a folder of its own."""
        return str(self._target(path))

    def _target(self, path: str) -> Path:
        target = self.building / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def commit(self, ending: Ending) -> int:
        """Move it into the place of the next version. Returns its number."""
        place = self.root / DATASETS / self.name
        place.mkdir(parents=True, exist_ok=True)
        number = 1 + max((v["version"] for v in versions(self.storage, self.name)), default=0)
        while True:
            for path, data in ending(number).items():
                self.write(path, data)
            try:
                crash_point("before_move")
                os.rename(self.building, place / f"v{number}")
                crash_point("after_move")
                return number
            except OSError:
                if not (place / f"v{number}").exists():
                    raise
                number += 1  # someone else published in the meantime

    def discard(self) -> None:
        """Forget what was built, where it was not committed."""
        shutil.rmtree(self.building, ignore_errors=True)


class RemoteFolder:
    """Written in its place; a version only once the manifest is there."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self.number = 1 + max((v["version"] for v in versions(storage, name)), default=0)
        self.uri = f"{DATASETS}/{name}/v{self.number}"
        for left in storage.files(self.uri):  # by a run that was killed
            storage.remove(left.uri)
        self.local = tempfile.TemporaryDirectory(prefix="rushes-")

    def write(self, path: str, data: bytes) -> None:
        """One file."""
        self.storage.write(f"{self.uri}/{path}", data)

    def take(self, uri: str, path: str) -> None:
        """A file of the store, copied within it."""
        self.storage.fs.cp_file(self.storage.check_relative(uri), self.storage.check_relative(f"{self.uri}/{path}"))

    def folder(self, path: str) -> str:
        """Where a library may write a folder of its own; what it wrote is put into the store at the end."""
        return os.path.join(self.local.name, path)

    def commit(self, ending: Ending) -> int:
        """Write what names the version, the manifest last. Raises BadInput where another run was quicker."""
        for made in (p for p in Path(self.local.name).rglob("*") if p.is_file()):
            self.write(made.relative_to(self.local.name).as_posix(), made.read_bytes())
        files = dict(ending(self.number))
        manifest = files.pop(MANIFEST)
        for path, data in files.items():
            self.write(path, data)
        if self.storage.exists(f"{self.uri}/{MANIFEST}"):
            raise BadInput(f"another run published {self.uri} in the meantime; publish again")
        self.write(MANIFEST, manifest)
        return self.number

    def discard(self) -> None:
        """The next attempt clears what is in the store."""
        self.local.cleanup()
