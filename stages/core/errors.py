"""Errors that people see. `BadInput` ends a command with exit status 2 and one sentence; rows carry the rest."""

from __future__ import annotations

import errno
from typing import Any

TRANSIENT, PERMANENT = "transient", "permanent"
ABSENT = "absent"
"""The kind of an error for footage that is not where it was: no result depends on where a file lies, so every run looks
again."""
UNWRITABLE = "unwritable"
"""The kind of an error that is no row: the run stops with it (`stages.core.full_disk`)."""

_PERMANENT_TYPES = (
    "PermanentError",
    "BadInput",
    "BadMedia",
    "BadLatent",
    "BadSound",
    "InvalidDataError",
    "ValueError",
    "TypeError",
    "UndeclaredRead",
)


class BadInput(ValueError):
    """The user gave something that cannot work. The message names the file, key or row, and what to do."""


def require(*rules: tuple[bool, str, Any, str]) -> None:
    """Raise BadInput for the first setting that is not as it must be: `max_s is -1; it must be 0 or more`.

    rules: (whether it is so, key, value, what it must be).
    """
    for holds, key, value, must in rules:
        if not holds:
            raise BadInput(f"{key} is {value!r}; it must be {must}")


class Stopped(Exception):
    """The run was asked to stop, by a cancel or a budget. Exit status 3."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means memory ran out, on the host or on a device (recognised by name: no torch here)."""
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "out of memory" in str(error)


def kind_of(error: BaseException) -> str:
    """`permanent` where running the same row again must give the same error, `absent` where footage is not where it
    was, else `transient`."""
    if is_out_of_memory(error):
        return TRANSIENT
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR):
        return PERMANENT
    names = {cls.__name__ for cls in type(error).__mro__}
    if "AbsentError" in names:
        return ABSENT
    return PERMANENT if names & set(_PERMANENT_TYPES) else TRANSIENT
