"""Where a local Ray keeps its session: its sockets, logs and spilled objects.

The paths of sockets may have some hundred bytes at most, Ray's command lines must not hold spaces, and its core reads
paths as ASCII. A TMPDIR that is none of this is passed over; the workers' own temporary files stay there.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from stages.core.errors import BadInput

SOCKET = "session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store.10"
"""The longest path that Ray makes below the folder; process ids have at most seven digits."""
MOST_BYTES = 103 if sys.platform == "darwin" else 107
SAFE = re.compile(r"[A-Za-z0-9._/+@~-]+")


def session_folder() -> str:
    """The folder for `ray.init(_temp_dir=...)`: the one that Ray itself would take, where that can be; else the first
    of /tmp, /var/tmp and the home folder. Raises BadInput where RAY_TMPDIR cannot be used, or none of these."""
    if named := os.environ.get("RAY_TMPDIR"):
        if not is_usable(Path(named)):
            raise BadInput(
                f"RAY_TMPDIR={named}: Ray needs a folder that can be written to, whose path is short (at most "
                f"{most_bytes()} bytes), in ASCII and without spaces"
            )
        return str(Path(named) / "ray")
    found = next((folder for folder in _candidates() if is_usable(folder)), None)
    if found is None:
        tried = ", ".join(str(folder) for folder in _candidates())
        raise BadInput(
            f"Ray finds no folder for its session among {tried}: set RAY_TMPDIR to one that can be written to, whose "
            f"path is short (at most {most_bytes()} bytes), in ASCII and without spaces; or use --executor local"
        )
    return str(found / "ray")


def _candidates() -> Iterator[Path]:
    for name in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", os.environ.get("HOME")):
        if name:
            yield Path(name)


def most_bytes() -> int:
    """How long the path of a folder may be in which Ray makes its own."""
    return MOST_BYTES - len(f"/ray/{SOCKET}")


def is_usable(folder: Path) -> bool:
    """Whether Ray can make its folder in this one."""
    name = str(folder)
    short = folder.is_absolute() and len(os.fsencode(name)) <= most_bytes() and SAFE.fullmatch(name)
    place = folder / "ray" if (folder / "ray").exists() else folder
    return bool(short) and place.is_dir() and os.access(place, os.W_OK | os.X_OK)
