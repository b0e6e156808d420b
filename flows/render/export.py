"""`--export DIR`: one mp4 per finished take, named after what it shows. Exports add and replace; they remove nothing.

`rushes.json` in the folder tells which files are ours, so that a file of somebody else is never written over.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.render.provenance import INDEX, check_metadata, ids_of, read_index, record_uri, tags_of
from flows.words import counted, look
from stages.core.errors import BadInput
from stages.core.full_disk import CannotWrite, as_cannot_write
from stages.core.identity import digest
from stages.core.ledger.storage import Storage
from stages.core.media import ffmpeg_version, with_tags
from stages.core.step import Row

BATCH = 16
"""So many files are made under temporary names before the index is written and they are moved."""

LEFT = re.compile(r"\..+-s\d+-[0-9a-f]{8}\.mp4\.[0-9a-f]{8}\.part|\.rushes\.json\.[0-9a-f]{8}\.part")
"""The name of a file that was never finished."""


def export_name(take: Row) -> str:
    """The file's name: words of the prompt, the seed, and the beginning of the take's id. No run, no time.

    take is a row of `videos`, or a take of a campaign (whose id is in `id`).
    """
    words = re.sub(r"[^a-z0-9]+", "-", take["prompt"].lower()).strip("-")[:60].strip("-")
    return f"{words or 'take'}-s{take['seed']}-{(take.get('take_id') or take['id'])[:8]}.mp4"


def check_export(
    folder: str | Path, takes: Sequence[Row] = (), storage: Storage | None = None, metadata: str = "full"
) -> Path:
    """Refuse, before any work, a folder that cannot be written to, or in which a take's name is taken by a file that no
    export has put there, or that was changed since. Other files may be there. Returns the absolute path of the folder.

    takes are rows with `prompt`, `seed` and `id` (or `take_id`). What the store has delivered is known without the
    folder's index, too. Creates nothing. Raises BadInput.
    """
    check_metadata(metadata)
    try:
        path = Path(folder).expanduser().resolve()
        there = next(p for p in (path, *path.parents) if p.exists())
        if not there.is_dir():
            raise BadInput(f"--export {folder}: {there} is a file; give a folder")
        os.rmdir(tempfile.mkdtemp(prefix=".rushes-", dir=there))  # rights, read-only mounts and quotas show here only
        strangers = sorted(_strangers(path, {export_name(take) for take in takes}, storage))
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"--export {folder}: no files can be written there: {reason}") from None
    if strangers:
        raise BadInput(
            f"--export {folder} holds {strangers[0]!r}, which Rushes did not write, or which was changed since; "
            "move it away, or give another folder"
        )
    return path


def _strangers(folder: Path, names: set[str], storage: Storage | None) -> Iterator[str]:
    """Which of these names, and of the index itself, belong to files that are not ours."""
    index = read_index(folder)
    if os.path.lexists(folder / INDEX) and not (index or _is_empty_index(folder)):
        yield INDEX
    for name in names:
        path, entry = folder / name, index.get(name, {})
        if os.path.lexists(path) and not _is_ours(path, {entry.get("sha256"), entry.get("before")}, storage):
            yield name


def _is_ours(path: Path, written: set[str | None], storage: Storage | None) -> bool:
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    sha256 = _sha256(path)
    return sha256 in written or (storage is not None and storage.exists(record_uri(sha256)))


def _is_empty_index(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / INDEX).read_bytes())["files"] == {})
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export(
    storage: Storage,
    videos: Sequence[Row],
    folder: str | Path,
    *,
    metadata: str = "full",
    about: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Put every finished video into the folder, beside what is there. Returns the paths, in the order of the rows.

    videos are rows of the table `videos`; metadata is `full`, `id` or `none` (see `tags_of`); about says with which
    settings and models they were made (see `described`). The same video and tags give the same bytes, and a file that
    is there already stays. A video that cannot be read does not stop the others. Raises BadInput, at the end, that
    names those; and where the folder cannot be written to.
    """
    done = [video for video in videos if video["status"] == "ok"]
    path = check_export(folder, done, storage, metadata)
    delivery = _Delivery(storage, path, metadata, about or {})
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            delivery.index = read_index(path)
            for first in range(0, len(done), BATCH):
                delivery.put(done[first : first + BATCH])
    except (OSError, CannotWrite) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"--export {folder}: {reason}; the videos are in the store, so export again") from None
    if delivery.faults:
        said = "\n".join(delivery.faults)
        raise BadInput(f"{len(delivery.faults)} of {len(done)} videos could not be exported:\n{said}")
    return [path / export_name(video) for video in done]


def exported_text(folder: str | Path, paths: Sequence[Path]) -> str:
    """How many videos an export has put into its folder, and how many others of Rushes stay there."""
    done, names = len(set(paths)), {path.name for path in paths}
    path = Path(folder).expanduser()
    others = sum(name not in names and (path / name).is_file() for name in read_index(path))
    verb = "stays" if others == 1 else "stay"
    kept = f"; {counted(others, 'other video')} of earlier exports {verb} there" if others else ""
    return f"{counted(done, 'video') if done else 'no video'} exported to {folder}{kept}"


@dataclass
class _Delivery:
    """One export at work. index: what `rushes.json` says, kept up as files are made; faults: what went wrong."""

    storage: Storage
    folder: Path
    metadata: str
    about: Mapping[str, Any]
    index: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def put(self, videos: Sequence[Row]) -> None:
        """Make some files under temporary names, note them in the index, then give them their names.

        In this order a kill leaves no file that the index does not know: it holds the hash that a name has had
        `before`, too.
        """
        made: list[tuple[Path, str]] = []
        try:
            for video in videos:
                if (temporary := self.make(video)) is not None:
                    made.append((temporary, export_name(video)))
            if made:
                _replace(self.folder / INDEX, json.dumps({"files": self.index}, indent=1, sort_keys=True).encode())
            for temporary, name in made:
                os.replace(temporary, self.folder / name)
        finally:
            for temporary, _ in made:
                temporary.unlink(missing_ok=True)

    def make(self, video: Row) -> Path | None:
        """The file of one video under a temporary name, noted in the index; None where it is there, or has a fault."""
        name, tags = export_name(video), tags_of(video, self.about, self.metadata)
        recipe = digest(video["sha256"], tags, ffmpeg_version())
        old = self.index.get(name, {})
        target = self.folder / name
        if old.get("recipe") == recipe and target.is_file() and _sha256(target) == old.get("sha256"):
            return None
        try:
            data = self.storage.read(video["uri"])
            if hashlib.sha256(data).hexdigest() != video["sha256"]:
                raise ValueError(f"the file in the store is damaged; {look('catalog verify', self.storage.url)}")
            data = with_tags(data, tags)
        except FileNotFoundError:
            self.faults.append(
                f"{name}: its file is no longer in the store; {look('catalog verify', self.storage.url)}"
            )
            return None
        except (OSError, ValueError, RuntimeError) as error:
            if found := as_cannot_write(error):
                raise found from None  # of every other video, too
            self.faults.append(f"{name}: {error}")
            return None
        sha256 = hashlib.sha256(data).hexdigest()
        before = _sha256(target) if target.is_file() else ""
        entry = {**ids_of(video), "sha256": sha256, "before": before, "recipe": recipe}
        self.storage.write(record_uri(sha256), json.dumps({**ids_of(video), "name": name}, sort_keys=True).encode())
        self.index[name] = entry
        return _temporary(target, data)


def _temporary(target: Path, data: bytes) -> Path:
    """The bytes in a new file beside the target, so that a move cannot cross a mount."""
    path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _replace(target: Path, data: bytes) -> None:
    os.replace(_temporary(target, data), target)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One export at a time, so that none writes an index without the files of the other. While it is held, temporary
    files are those of a killed export, and go."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock nothing
            fcntl.flock(handle, fcntl.LOCK_EX)
            for left in folder.glob(".*.part"):
                if LEFT.fullmatch(left.name):
                    left.unlink()
        yield
    finally:
        os.close(handle)
