"""Pictures and videos that prompts name, looked at side by side, each once, before the first row runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from stages.core.condition_video import seconds_of
from stages.core.media import read_picture
from stages.core.reach.opening import read_named
from stages.core.reach.policy import in_force
from stages.core.reach.secrets import cleared

AT_ONCE = 16
"""Files that are read at a time: most of it is waiting for a disk or a network."""
PICTURE, VIDEO = "picture", "video"

Looking = Callable[[int, int], None]
"""Told how many files have been looked at, and of how many."""


@dataclass(frozen=True)
class Found:
    """What one file is. seconds: how long a video lasts, 0 for a picture; fault: why it cannot be used, "" where it
    can."""

    sha256: str = ""
    seconds: float = 0.0
    fault: str = ""


@dataclass
class Probes:
    """Files that were looked at, by path or address and what they should be. Each is opened once."""

    known: dict[tuple[str, str], Found] = field(default_factory=dict)

    def look(self, uri: str, kind: str) -> Found:
        """What a file is. The operator's rules hold for each."""
        if (uri, kind) not in self.known:
            self.known[uri, kind] = _look(uri, kind)
        return self.known[uri, kind]

    def look_at_all(self, places: Iterable[tuple[str, str]], looking: Looking | None = None) -> None:
        """Look at many files side by side. What is wrong with one is told when its row is checked."""
        todo = [place for place in dict.fromkeys(places) if place not in self.known]
        if not todo:
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(todo))) as pool:
            waiting = {pool.submit(_look, *place): place for place in todo}
            for done, future in enumerate(as_completed(waiting), 1):
                self.known[waiting[future]] = future.result()
                if looking is not None:
                    looking(done, len(todo))


def kept(location: str) -> str:
    """A place as it is shown and kept: without what may be secret."""
    return in_force().keep(location)


def _look(uri: str, kind: str) -> Found:
    try:
        data = read_named(uri)
        seconds = 0.0
        if kind == PICTURE:
            read_picture(data, 16, 16)
        else:
            seconds = seconds_of(data)
    except Exception as error:  # every file system has its own tree of errors
        said = getattr(error, "strerror", None) or cleared(str(error))
        return Found(fault=said if said.startswith(uri) else f"{uri}: {said}")
    return Found(hashlib.sha256(data).hexdigest(), seconds)
