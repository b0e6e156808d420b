"""Places that cannot be written to: a full disk, a used-up quota, a file system that is read-only.

That is nobody's row: every other one would fail in the same way. So a run stops with one sentence that names the place.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
SPENT = {errno.ENOSPC: "no space is left there", errno.EDQUOT: "the quota there is used up"}
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)
FULL_TEXT = os.strerror(errno.ENOSPC)
NO_TEMPORARY = "No usable temporary directory"


class CannotWrite(Exception):
    """Raised where the store cannot be written to. The message names the place and says what to do."""


def cannot_write(place: str | Path, error: BaseException) -> CannotWrite:
    """The error for a place: what the system says of it, and what to do."""
    number = getattr(error, "errno", None)
    if number in SPENT:
        return CannotWrite(f"cannot write to {place}: {SPENT[number]}; make room and run the same command again")
    reason = str(getattr(error, "strerror", None) or error)
    return CannotWrite(f"cannot write to {place}: {reason}; run the same command again once that is fixed")


def is_refusal(error: BaseException) -> bool:
    """Whether a place that was written to is full, or refuses to be written to: no matter of what was written."""
    return isinstance(error, PermissionError) or getattr(error, "errno", None) in (*FULL, *REFUSED)


def as_cannot_write(error: BaseException, store: Path | None = None) -> CannotWrite | None:
    """The error where some place was full while a row, or a job, was at work; None for any other.

    Libraries say it in many ways, and seldom where: of the temporary folder and the store, the fuller one is named.
    """
    for cause in _causes(error):
        if isinstance(cause, CannotWrite):
            return cause
        if isinstance(cause, FileNotFoundError) and NO_TEMPORARY in str(cause):
            return CannotWrite("no folder for temporary files can be written to; set TMPDIR to one that can")
        if getattr(cause, "errno", None) in (*FULL, errno.EROFS):
            return cannot_write(getattr(cause, "filename", None) or _fuller(store), cause)
        if type(cause).__name__ == "SafetensorError" and FULL_TEXT in str(cause):
            return cannot_write(_fuller(store), OSError(errno.ENOSPC, FULL_TEXT))
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those in whose handling it was raised."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        if (one := left.pop()) is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__]


def _fuller(store: Path | None) -> str:
    """Of the folder for temporary files and the store's, the one with less room."""
    places = [Path(tempfile.gettempdir()), *([store] if store else [])]
    return str(min(places, key=lambda p: shutil.disk_usage(p).free if p.exists() else 0))
