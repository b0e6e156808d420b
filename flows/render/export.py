"""`--export DIR`: one mp4 per finished take, named after what it shows. The folder appears whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.storage import Storage
from stages.core.step import Row

MANIFEST = "export.json"


def export_name(video: Row) -> str:
    """The file's name: words of the prompt, the seed, and enough of a hash to tell prompts apart. No run, no time."""
    words = re.sub(r"[^a-z0-9]+", "-", video["prompt"].lower()).strip("-")[:60].strip("-")
    mark = digest(video["campaign"], video["prompt"], video["take_id"])[:8]
    return f"{words or 'take'}-s{video['seed']}-{mark}.mp4"


def check_export(folder: Path) -> None:
    """Refuse, before any work, a folder that holds anything an export did not put there. Raises BadInput."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"--export {folder} is a file; name a folder")
    strangers = sorted({p.name for p in folder.iterdir()} - _ours(folder))
    if strangers:
        raise BadInput(
            f"--export {folder} already holds {strangers[0]!r}, which no export put there; name an empty folder"
        )


def _ours(folder: Path) -> set[str]:
    try:
        return {MANIFEST, *json.loads((folder / MANIFEST).read_text())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def export(storage: Storage, videos: Sequence[Row], folder: Path) -> list[Path]:
    """Put every finished video into the folder, replacing what an earlier export left there. Returns the paths."""
    folder = folder.expanduser().resolve()
    check_export(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    building.mkdir()
    try:
        names = [_put(storage, video, building) for video in videos if video["status"] == "ok"]
        (building / MANIFEST).write_text(json.dumps({"files": sorted(names)}, indent=1) + "\n")
        _swap(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return [folder / name for name in names]


def _put(storage: Storage, video: Row, folder: Path) -> str:
    name = export_name(video)
    (folder / name).write_bytes(storage.read(video["uri"]))
    return name


def _swap(building: Path, folder: Path) -> None:
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old-{uuid.uuid4().hex[:8]}")
        os.replace(folder, old)
        os.replace(building, folder)
        shutil.rmtree(old)
    else:
        os.replace(building, folder)
