"""Checkpoints on their way between a run's folder, the store, and the machine that uses them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.rows import Row
from stages.core.weights.digests import cache_folder, weights_digest

CHECKPOINTS, OWNER = "checkpoints", "training-id"


def own(folder: Path, training: str) -> Path:
    """Make a run's folder, or take it up again. Raises BadInput where it belongs to another training."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / OWNER
    if mark.exists() and (found := mark.read_text().strip()) != training:
        raise BadInput(
            f"out: {folder} belongs to the training {found[:12]}: name another folder, `out=FOLDER`, or remove this one"
        )
    mark.write_text(f"{training}\n")
    return folder


def keep(storage: Storage, model: Path, target: str) -> list[Row]:
    """Copy a checkpoint folder into the store; what its files are."""
    found = []
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        data, name = path.read_bytes(), path.relative_to(model).as_posix()
        storage.write(f"{target}/{name}", data)
        sha = hashlib.sha256(data).hexdigest()
        found.append({"path": name, "uri": f"{target}/{name}", "sha256": sha, "size": len(data)})
    return found


def fetch(storage: Storage, checkpoint: Row) -> Path:
    """A checkpoint of the store as a folder on this machine: where it lies, or a copy in this user's cache.

    Raises BadInput where the copy is not what the catalog says: changed in the store, or on its way.
    """
    local: Path | None = storage.local_path(checkpoint["folder"])
    if local is not None:
        return local
    target = Path(cache_folder() / CHECKPOINTS / str(checkpoint["digest"]))
    for file in checkpoint["files"]:
        path = (target / file["path"]).resolve()
        if not path.is_relative_to(target.resolve()):
            raise BadInput(
                f"checkpoint {checkpoint['id']}: {file['path']!r} lies outside its folder: do not use it, "
                "and train it again"
            )
        if not path.exists() or path.stat().st_size != file["size"]:
            _copy(storage, file, path)
    if weights_digest(target) != checkpoint["digest"]:
        raise BadInput(
            f"checkpoint {checkpoint['id']}: its copy in {target} was changed; remove that folder, and "
            "it is fetched again"
        )
    return target


def _copy(storage: Storage, file: Row, path: Path) -> None:
    """Fetch one file, whole or not at all."""
    data = storage.read(file["uri"])
    if hashlib.sha256(data).hexdigest() != file["sha256"]:
        raise BadInput(
            f"{file['uri']} in the store is not what was kept there: its content was changed; put the right"
            " file back, or train the checkpoint again in another store"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(data)
    os.replace(part.name, path)
