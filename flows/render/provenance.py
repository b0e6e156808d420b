"""What a delivered video says of itself, and which take a video file shows, whatever its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.words import file_name
from stages.core.errors import BadInput
from stages.core.ledger.storage import MEDIA, Storage
from stages.core.media import BadMedia, read_tags
from stages.core.picture_tags import read_picture_tags
from stages.core.planning.plan import Plan
from stages.core.step import Row

METADATA = ("full", "id", "none")
TITLE_LENGTH = 200
EXPORTS = "exports"
"""The folder of a store that keeps, under the hash of each delivered file, what it shows."""
INDEX = "rushes.json"
MARK = re.compile(r"-s\d+-([0-9a-f]{8})(?![0-9a-f])")
"""The end of a delivered file's name: the seed, and the first characters of the take's id."""
ID = re.compile(r"[0-9a-f]{8,64}")
GENERATED = {"generated_by": "Rushes", "digital_source_type": "trainedAlgorithmicMedia"}
"""What every file says but one without metadata: who made it, and IPTC's word for what a model has made."""
IDS = ("take_id", "artifact_id", "artifact_sha256")
SECRET = re.compile(r"(^|_)(key|token|secret|passwd|password|credentials?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Identity:
    """What a video file shows. What is not known is "".

    by names how it was found out: `metadata` (its tags), `hash` (of the file) or `name`. By name, take_id is only the
    beginning of the take's id.
    """

    take_id: str = ""
    artifact_id: str = ""
    artifact_sha256: str = ""
    by: str = ""


# -- what a file says --------------------------------------------------------------------------------------------------


def described(plan: Plan) -> dict[str, Any]:
    """The settings of a plan's steps and the digests of the weights that they load, by step.

    Whatever may be a path of this machine or a credential is left out, and so is what changes no output.
    """
    nodes = [node for node in plan.nodes if not node.job]
    settings = {n.name: _plain(plan.refs[n.name].config, {name for name, _ in n.weights}) for n in nodes}
    models = {n.name: {name: mark for name, mark in n.weights if mark} for n in nodes}
    return {"settings": settings, "models": {name: found for name, found in models.items() if found}}


def _plain(config: Any, weights: set[str], prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        if name in weights or field.metadata.get("identity", True) is False:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            kept[field.name] = _plain(value, weights, name + ".")
        else:
            kept[field.name] = value
    return kept


def public(value: Any, name: str = "") -> Any:
    """A value without texts that may be a path, a URL or a credential; None for such a text itself."""
    if isinstance(value, Mapping):
        found = {str(k): public(v, str(k)) for k, v in value.items() if public(str(k)) is not None}
        return {k: v for k, v in found.items() if v is not None}
    if isinstance(value, list | tuple):
        return [v for v in map(public, value) if v is not None]
    if isinstance(value, str):
        return None if SECRET.search(name) or re.search(r"[/\\]|^~", value) else value
    return value if isinstance(value, int | float) else None


def check_metadata(metadata: str) -> None:
    """Refuse a word that is not in METADATA. Raises BadInput."""
    if metadata not in METADATA:
        raise BadInput(f"the metadata of exported videos is {metadata!r}; it must be one of {', '.join(METADATA)}")


def tags_of(video: Row, about: Mapping[str, Any], metadata: str) -> dict[str, str]:
    """The tags of a delivered video: `full` says all that it was made from, `id` which take it shows, `none` nothing.
    `full` and `id` say that a model has made it, too.

    The same take and settings give the same tags: there is no time, no run and no place in them. Raises BadInput for
    any other word.
    """
    check_metadata(metadata)
    if metadata == "none":
        return {}
    said: dict[str, Any] = {"rushes": 1, **GENERATED, **ids_of(video)}
    if metadata == "id":
        return {"comment": json.dumps(said, sort_keys=True)}
    said |= {"prompt": video["prompt"], "negative_prompt": video.get("negative_prompt") or "", "seed": video["seed"]}
    said |= {name: video[name] for name in ("width", "height", "n_frames", "fps") if name in video}
    said |= {name: public(about[name]) for name in ("settings", "models") if name in about}
    return {"title": video["prompt"][:TITLE_LENGTH], "comment": json.dumps(said, sort_keys=True)}


def ids_of(video: Row) -> dict[str, str]:
    """The ids of a video's row under the names that files and indexes use."""
    return dict(zip(IDS, (video["take_id"], video["video_id"], video["sha256"]), strict=True))


# -- which take a file shows -------------------------------------------------------------------------------------------


def identify(path: str | Path, storage: Storage | None = None) -> Identity | None:
    """Which take a video file shows: by its tags, else its hash, else the mark in its name. None where nothing tells.

    The hash is looked up in the index beside the file and, where a store is given, in what that store has delivered and
    among its artifacts. Raises BadInput where the file cannot be read.
    """
    path = Path(path).expanduser()
    try:
        sha256 = content_sha256(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = _by_tags(path) or _by_hash(path.parent, sha256, storage)
    if found is None and path.suffix == ".png" and (frames := content_sha256(path.parent)):
        found = _by_hash(path.parent.parent, frames, storage)
    return found or _by_name(path.name)


def content_sha256(path: Path) -> str:
    """The SHA-256 of a file; of a folder of frames, that of their names and hashes, "" where it holds anything but
    files. Raises OSError."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    inside = sorted(path.iterdir())
    if not all(p.is_file() and not p.is_symlink() for p in inside):
        return ""
    return hashlib.sha256("".join(f"{p.name} {content_sha256(p)}\n" for p in inside).encode()).hexdigest()


def identify_hash(sha256: str, storage: Storage) -> Identity | None:
    """Which take a file shows that a store has delivered, by its sha256 or the first characters of it (8 at least).
    None where the store has delivered no such file. Raises BadInput where several begin so."""
    if not ID.fullmatch(sha256):
        return None
    found = [f.uri for f in storage.files(f"{EXPORTS}/{sha256[:2]}") if file_name(f.uri).startswith(sha256)]
    if len(found) > 1:
        raise BadInput(f"{sha256!r} is the beginning of the sha256 of {len(found)} exported files; give more of it")
    return _by_record(storage, file_name(found[0]).removesuffix(".json")) if found else None


def _by_record(storage: Storage, sha256: str) -> Identity | None:
    try:
        return _identity(json.loads(storage.read(record_uri(sha256))), "hash")
    except (FileNotFoundError, ValueError):
        return None


def _by_tags(path: Path) -> Identity | None:
    try:
        said = json.loads(_tags_in(path).get("comment", ""))
    except (BadMedia, ValueError, OSError, RecursionError):
        return None
    return _identity(said, "metadata") if isinstance(said, dict) and "rushes" in said else None


def _tags_in(path: Path) -> dict[str, str]:
    """The tags of a video, of pictures that move, or of the first of a folder's frames. Raises BadMedia, ValueError,
    OSError."""
    if path.is_dir():
        path = min(path.glob("*.png"), default=path)
    try:
        return read_tags(path)
    except BadMedia:
        return read_picture_tags(path)


def _by_hash(folder: Path, sha256: str, storage: Storage | None) -> Identity | None:
    home = next((place for place in (folder, *folder.parents) if (place / INDEX).is_file()), folder)
    found = next((e for e in read_index(home).values() if e.get("sha256") == sha256), None)
    if found is not None or storage is None:
        return _identity(found, "hash")
    if recorded := _by_record(storage, sha256):
        return recorded
    kept = storage.exists(f"{MEDIA}/{sha256[:2]}/{sha256}.mp4")
    return Identity(artifact_sha256=sha256, by="hash") if kept else None


def _by_name(name: str) -> Identity | None:
    mark = MARK.search(name)
    return Identity(take_id=mark[1], by="name") if mark else None


def _identity(said: Any, by: str) -> Identity | None:
    """None where there is no take's id. What stands in a file may be anything."""
    if not isinstance(said, Mapping):
        return None
    found = {k: v for k in IDS if isinstance(v := said.get(k), str) and ID.fullmatch(v)}
    return Identity(**found, by=by) if "take_id" in found else None


def record_uri(sha256: str) -> str:
    """Where a store keeps what a delivered file with this hash shows."""
    return f"{EXPORTS}/{sha256[:2]}/{sha256}.json"


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """The index of an export folder: name -> take_id, artifact_id, artifact_sha256, sha256 of the file, and so on.

    Empty where there is none, or where the file of that name is no index.
    """
    try:
        files = json.loads((folder / INDEX).read_bytes())["files"]
        return {str(k): dict(v) for k, v in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
