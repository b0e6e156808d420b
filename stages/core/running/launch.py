"""Functions that a group of workers runs, named as `module:function` so that every worker can import them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from stages.core import config
from stages.core.errors import BadInput
from stages.core.step import Row

GroupFunction = Callable[[Mapping[str, Any], Callable[[], bool], Callable[[str], None]], Row]
"""(settings, whether to stop, progress in lines) -> result, in plain data."""


def load_function(entry: str) -> GroupFunction:
    """The function that `module:function` names. Raises BadInput where it is not one of our packages."""
    module, _, name = entry.partition(":")
    function = None
    if name and module.startswith(config.PACKAGES):
        try:
            function = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name != module:  # the module is there; what it imports is not
                raise
    if not callable(function):
        allowed = " or ".join(f"{package}*" for package in config.PACKAGES)
        raise BadInput(f"{entry!r} is not a function; give `module:function` inside {allowed}")
    loaded: GroupFunction = function
    return loaded
