"""Where the forms of deployments may point. A worker runs flows in a folder of its own, which may be gone the next
moment, so that a path must say where it counts from: every place is absolute, a URL, or a name below configs."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from omegaconf import OmegaConf

from flows.prefect.form import check_form
from flows.run.promoted import PREFIX
from stages.core.config_files import CONFIGS, LITERAL, nearest, parse_overrides
from stages.core.errors import BadInput

VARIABLE = "RUSHES_OVERRIDES"
"""The environment variable of a worker with the overrides that all of its runs begin with."""
PATHS = frozenset(
    ("store", "out", "export", "sources", "prompts_file", "image", "last_image", "video", "mask", "references",
     "footage", "videos", "captions", "reference", "world", "folder", "checkpoint", "vae", "head")
)  # fmt: skip
"""Last words of settings whose values are places, even where they do not look like one."""
NAMES = frozenset({"cascade", "model", "use"})
"""Settings that hold a name, or a path that looks like one."""
HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]+(@\w+)?")
SUFFIX = re.compile(
    r"\.(ya?ml|json|jsonl|ndjson|csv|tsv|txt|parquet|png|jpe?g|webp|bmp|tiff?|mp4|mov|mkv|webm|avi|safetensors|onnx|npz)",
    re.IGNORECASE,
)


def check_place(name: str, value: str) -> str:
    """The same place. Raises BadInput where it is relative: the sentence names the parameter and what to give; or
    where it holds a key."""
    check_form(value, overrides=())
    place = value.partition("@")[2] if value.startswith(PREFIX) else value
    if not place or "://" in place or os.path.isabs(os.path.expanduser(place)):
        return value
    raise BadInput(
        f"{name}: {value!r} is a relative path, which would count from the folder of whichever worker runs this; give "
        "an absolute path, or a URL such as s3://bucket/folder"
    )


def find_file(name: str, value: str, kind: str = "") -> str:
    """The config that a form names: the absolute path of a file, or a name below configs/KIND. Raises BadInput."""
    if "://" in value or os.path.isabs(os.path.expanduser(value)):
        return value
    for path in (CONFIGS / kind / f"{value}.yaml", CONFIGS / value, CONFIGS.parent / value):
        if path.is_file() and CONFIGS in path.resolve().parents:
            return str(path)
    known = [p.stem for p in (CONFIGS / kind).glob("*.yaml")]
    raise BadInput(
        f"{name}: {value!r} is neither an absolute path nor a name below {'/'.join(filter(None, ('configs', kind)))} "
        f"({nearest(value, known)})"
    )


def worker_overrides() -> list[str]:
    """The words of RUSHES_OVERRIDES. Raises BadInput where its quotes do not match."""
    try:
        return shlex.split(os.environ.get(VARIABLE, ""))
    except ValueError as error:
        raise BadInput(f"{VARIABLE} of this worker cannot be read: {error}") from None


def check_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of this worker (RUSHES_OVERRIDES), and after them those of the form. Raises BadInput for one that
    is not key=value, or whose value is a relative path."""
    own = worker_overrides()
    check_form(overrides=overrides)
    for word in overrides:
        _check_value(word.split("=", 1)[0].strip(), OmegaConf.to_container(parse_overrides([word]), resolve=False))
    return [*own, *overrides]


def _check_value(name: str, value: Any, key: str = "") -> None:
    if isinstance(value, Mapping):
        for own, inner in value.items():
            if own not in LITERAL:
                _check_value(name, inner, str(own))
    elif isinstance(value, list):
        for inner in value:
            _check_value(name, inner, key)
    elif isinstance(value, str) and _is_place(key, value):
        check_place(name, value)


def _is_place(key: str, value: str) -> bool:
    """Whether a text is a path or a URL: by the setting that it is for, else by its looks."""
    if value.startswith(("${", PREFIX)):
        return value.startswith(PREFIX)
    if key in PATHS:
        return not (key in ("checkpoint", "vae") and HUB_ID.fullmatch(value))
    looks = "/" in value or bool(SUFFIX.fullmatch(PurePosixPath(value).suffix))
    if key in NAMES:
        return looks and ":" not in value and not (CONFIGS / value).is_file()
    return looks and " " not in value and not HUB_ID.fullmatch(value)
