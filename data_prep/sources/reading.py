"""Opening footage: from local disk or elsewhere, made sure of, and never more than the one file that was named."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.reach import containers, opening
from stages.core.reach.policy import local_path
from stages.core.reach.secrets import cleared
from stages.core.step import AbsentError, PermanentError, Row

COPY_BYTES = 1 << 20
TS_DISCONT = 0x0200
"""AVFMT_TS_DISCONT."""
VERSIONS = ("etag", "ETag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")
"""What object stores call that by which a file tells that it has changed."""

local_file = opening.local_copy


@contextmanager
def unchanged_file(
    uri: str, size: int, sha256: str, version: str, check: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """`local_file` of footage that was probed before: its length, SHA-256, and version (mtime or etag).

    Where length and version are as they were the content counts as the same, and is not hashed; where only the version
    differs it is hashed once. Raises AbsentError where it is gone or another file now, or becomes one while it is read.
    """
    with local_file(uri, check) as path:
        try:
            before = path.stat()
        except FileNotFoundError:
            raise AbsentError("the file is not there any more; put it back, or curate it where it is now") from None
        if before.st_size != size:
            raise AbsentError(CHANGED)
        if _version_of(uri, before) != version:
            _check_hash(uri, path, before, sha256, check)
        yield path
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise AbsentError(CHANGED)


CHANGED = "the source is not the file that was curated; curate again"


def _version_of(uri: str, found: os.stat_result) -> str:
    """As the listing notes it."""
    if local_path(uri) is not None:
        return str(found.st_mtime_ns)
    return str(remote_facts(uri)["version"])


def facts_of(info: Mapping[str, Any]) -> Row:
    """Size and version of a file from what its file system says of it."""
    version = next((str(info[k]) for k in VERSIONS if info.get(k)), "")
    return {"size": int(info.get("size") or 0), "version": version, "problem": ""}


def remote_facts(uri: str) -> Row:
    """Size and version (etag or time) of one file that lies elsewhere; a problem where it cannot be found."""
    try:
        return facts_of(opening.info(uri))
    except Exception as error:  # a bad row of a manifest never stops the batch, whatever its file system raises
        return {"size": 0, "version": "", "problem": f"cannot be found: {cleared(str(error))}"}


@functools.lru_cache(maxsize=4096)
def _hash_of(uri: str, size: int, modified: int, path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(COPY_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _check_hash(uri: str, path: Path, found: os.stat_result, sha256: str, check: Callable[[], None]) -> None:
    check()
    if _hash_of(uri, found.st_size, found.st_mtime_ns, path) != sha256:
        raise AbsentError(CHANGED)
    check()


@contextmanager
def open_media(path: Path, time_limit_s: float = 0.0) -> Iterator[Any]:
    """A PyAV input container on one local file. Raises PermanentError for playlists, text and what does not open."""
    try:
        with containers.open_container(path, time_limit_s) as container:
            yield container
    except containers.NotOpened as error:
        raise PermanentError(str(error)) from None


def knows_breaks(container: Any) -> bool:
    """Whether a container's format may have breaks in its times: MPEG program and transport streams."""
    return bool(int(container.format.flags) & TS_DISCONT)
