"""`--export DIR`: one file per finished take, named after what it shows. Exports add and replace; they remove nothing.

`rushes.json` in the folder tells which files are ours, so that a file of somebody else is never written over.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.render.delivery import MANIFESTS, MP4, Delivery, check_delivery
from flows.render.export_folder import locked, move, read_manifests, remove, strangers, temporary, write_index
from flows.render.manifest import manifest_row, stored_rows, written
from flows.render.naming import export_name as export_name
from flows.render.provenance import check_metadata, content_sha256, ids_of, read_index, record_uri, tags_of
from flows.words import counted, look
from stages.core.errors import BadInput
from stages.core.ffmpeg import ffmpeg_version
from stages.core.file_facts import facts_of, has_sound
from stages.core.formats import check_rate, convert
from stages.core.full_disk import CannotWrite, as_cannot_write
from stages.core.identity import digest
from stages.core.ledger.storage import Storage
from stages.core.step import Row

BATCH = 16
"""So many files are made under temporary names before the index is written and they are moved."""


def check_export(
    folder: str | Path,
    takes: Sequence[Row] = (),
    storage: Storage | None = None,
    metadata: str = "full",
    delivery: Delivery = MP4,
) -> Path:
    """Refuse, before any work, a folder that cannot be written to, or in which a take's name is taken by a file that no
    export has put there, or that was changed since. Other files may be there. Returns the absolute path of the folder.

    takes are rows with `prompt`, `seed` and `id` (or `take_id`). What the store has delivered is known without the
    folder's index, too. Creates nothing. Raises BadInput.
    """
    check_metadata(metadata)
    check_delivery(delivery.config)
    try:
        path = Path(folder).expanduser().resolve()
        there = next(p for p in (path, *path.parents) if p.exists())
        if not there.is_dir():
            raise BadInput(f"--export {folder}: {there} is a file; give a folder")
        os.rmdir(tempfile.mkdtemp(prefix=".rushes-", dir=there))  # rights, read-only mounts and quotas show here only
        names = delivery.names(takes, read_index(path))
        ours = {names[take.get("take_id") or take["id"]] for take in takes}
        found = sorted(strangers(path, ours | {MANIFESTS[kind] for kind in delivery.config.manifest}, storage))
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"--export {folder}: no files can be written there: {reason}") from None
    if found:
        raise BadInput(
            f"--export {folder} holds {found[0]!r}, which Rushes did not write, or which was changed since; "
            "move it away, or give another folder"
        )
    return path


def export(
    storage: Storage,
    videos: Sequence[Row],
    folder: str | Path,
    *,
    metadata: str = "full",
    about: Mapping[str, Any] | None = None,
    delivery: Delivery = MP4,
) -> list[Path]:
    """Put every finished video into the folder, beside what is there. Returns the paths, in the order of the rows.

    videos are rows of the table `videos`; metadata is `full`, `id` or `none` (see `tags_of`); about says with which
    settings and models they were made (see `described`); delivery says in which format and under which names. The same
    video, settings and tags give the same bytes, and a file that is there already stays. A video that cannot be read
    does not stop the others. Raises BadInput, at the end, that names those; and where the folder cannot be written to.
    """
    done = [video for video in videos if video["status"] == "ok"]
    path = check_export(folder, done, storage, metadata, delivery)
    work = _Export(storage, path, metadata, about or {}, delivery)
    try:
        path.mkdir(parents=True, exist_ok=True)
        known = read_index(path)
        with locked(path, [*known, *delivery.names(done, known).values()]):
            work.index, work.manifests = read_index(path), read_manifests(path)
            work.names = delivery.names(done, work.index)
            for first in range(0, len(done), BATCH):
                work.put(done[first : first + BATCH])
            work.list_all(done)
    except (OSError, CannotWrite) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"--export {folder}: {reason}; the videos are in the store, so export again") from None
    if work.faults:
        said = "\n".join(work.faults)
        raise BadInput(f"{len(work.faults)} of {len(done)} videos could not be exported:\n{said}")
    return [path / work.names[video["take_id"]] for video in done]


def exported_text(folder: str | Path, paths: Sequence[Path]) -> str:
    """How many videos an export has put into its folder, how many others of Rushes stay there, and how many lost their
    sound."""
    done = counted(len(set(paths)), "video") if paths else "no video"
    path = Path(folder).expanduser()
    index, root = read_index(path), path.resolve()
    names = {p.relative_to(root).as_posix() for p in paths}
    others = sum(name not in names and (path / name).exists() for name in index)
    verb = "stays" if others == 1 else "stay"
    kept = f"; {counted(others, 'other video')} of earlier exports {verb} there" if others else ""
    lost = sum(index.get(name, {}).get("sound") == "lost" for name in names)
    silent = f"; {counted(lost, 'video')} lost the sound, which this format cannot hold" if lost else ""
    return f"{done} exported to {folder}{kept}{silent}"


@dataclass
class _Export:
    """One export at work. index, manifests: what `rushes.json` says, kept up as files are made; names: of the takes;
    faults: what went wrong."""

    storage: Storage
    folder: Path
    metadata: str
    about: Mapping[str, Any]
    delivery: Delivery
    index: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def put(self, videos: Sequence[Row]) -> None:
        """Make some files under temporary names, note them in the index, then give them their names.

        In this order a kill leaves no file that the index does not know: it holds the hash that a name has had
        `before`, too.
        """
        made: list[tuple[Path, str]] = []
        try:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # what encodes is ffmpeg, on a core for each video
                waiting = [(self.names[video["take_id"]], pool.submit(self.make, video)) for video in videos]
                for _, future in waiting:
                    future.exception()  # all have ended, so that the temporary files of all are known
            made = [(p, name) for name, f in waiting if f.exception() is None and (p := f.result()) is not None]
            for _, future in waiting:
                future.result()
            if made:
                write_index(self.folder, self.index, self.manifests)
            for path, name in made:
                move(path, self.folder / name)
        finally:
            for path, _ in made:
                remove(path)

    def make(self, video: Row) -> Path | None:
        """The file of one video under a temporary name, noted in the index; None where it is there, or has a fault."""
        name, tags = self.names[video["take_id"]], tags_of(video, self.about, self.metadata)
        changed = [self.delivery.recipe] if self.delivery.recipe else []
        recipe = digest(video["sha256"], tags, ffmpeg_version(), *changed)
        old, target = self.index.get(name, {}), self.folder / name
        before = content_sha256(target) if target.exists() else ""
        if old.get("recipe") == recipe and before and before == old.get("sha256"):
            return None
        with tempfile.TemporaryDirectory(prefix="rushes-") as place:
            made = self._tried(name, video, tags, Path(place))
            if made is None:
                return None
            sha256 = content_sha256(made)
            entry = {**ids_of(video), "sha256": sha256, "before": before, "recipe": recipe, **self._facts(video, made)}
            record = json.dumps({**ids_of(video), "name": name}, sort_keys=True).encode()
            self.storage.write(record_uri(sha256), record)
            path = temporary(target, made)
        self.index[name] = entry
        return path

    def _tried(self, name: str, video: Row, tags: Mapping[str, str], place: Path) -> Path | None:
        """As `_converted`; None where it cannot be made, which is noted as a fault. Raises CannotWrite."""
        try:
            return self._converted(video, tags, place)
        except FileNotFoundError:
            look_at = look("catalog verify", self.storage.url)
            self.faults.append(f"{name}: its file is no longer in the store; {look_at}")
        except (OSError, ValueError, RuntimeError) as error:
            if found := as_cannot_write(error):
                raise found from None  # of every other video, too
            self.faults.append(f"{name}: {error}")
        return None

    def _converted(self, video: Row, tags: Mapping[str, str], place: Path) -> Path:
        """The delivered file, or folder of frames, below `place`."""
        config = self.delivery.config
        data = self.storage.read(video["uri"])
        if hashlib.sha256(data).hexdigest() != video["sha256"]:
            raise ValueError(f"the file in the store is damaged; {look('catalog verify', self.storage.url)}")
        check_rate(config.format, config.fps or video["fps"])
        (place / "stored.mp4").write_bytes(data)
        (place / "out").mkdir()
        heard = has_sound(place / "stored.mp4")
        return convert(place / "stored.mp4", config.format, config.shape, tags, heard, place / "out")

    def _facts(self, video: Row, made: Path) -> Row:
        """What the index and the manifest say of a file that was made."""
        config = self.delivery.config
        heard = has_sound(made.parent.parent / "stored.mp4")
        sound = ("kept" if self.delivery.form.sound else "lost") if heard else "none"
        return {"format": config.format, "fps": float(config.fps or video["fps"]), "sound": sound, **facts_of(made)}

    def list_all(self, videos: Sequence[Row]) -> None:
        """Write the manifests: the rows of these videos, and those that were there of files that still are."""
        kinds = self.delivery.config.manifest
        if not kinds:
            return
        rows = {row["file"]: row for row in stored_rows(self.folder / MANIFESTS["jsonl"]) if self._is_there(row)}
        for video in videos:
            name = self.names[video["take_id"]]
            if (entry := self.index.get(name)) and (self.folder / name).exists():
                take = self.delivery.by_id.get(video["take_id"], video)
                rows[name] = manifest_row(name, entry, video, take, self.delivery.about)
        made: list[tuple[Path, Path]] = []
        try:
            for kind in kinds:
                target, data = self.folder / MANIFESTS[kind], written(kind, [rows[name] for name in sorted(rows)])
                sha256 = hashlib.sha256(data).hexdigest()
                before = content_sha256(target) if target.exists() else ""
                if before != sha256:
                    self.manifests[target.name] = {"sha256": sha256, "before": before}
                    made.append((temporary(target, data), target))
            if made:
                write_index(self.folder, self.index, self.manifests)
            for path, target in made:
                move(path, target)
        finally:
            for path, _ in made:
                remove(path)

    def _is_there(self, row: Row) -> bool:
        """Whether a row of the manifest is still about the file of that name."""
        entry = self.index.get(row["file"], {})
        return bool(entry.get("sha256") == row["sha256"]) and (self.folder / row["file"]).exists()
