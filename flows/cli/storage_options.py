"""Options of the store's file system, for commands that look at a store and take no other settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

from flows.run.storage import KEY, is_option, read_options
from stages.core.errors import BadInput


def storage_options(metavar: str = "", many: bool = False) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let a command take infra.storage.KEY=VALUE words, and --config FILE; it is given both as `storage`.

    metavar: another word that the command takes before them, which it is given as `word`, "" where there was none
    many: it takes any number of such words, which it is given as `words`
    """

    def decorated(command: Callable[..., int]) -> Callable[..., int]:
        @click.argument("words", nargs=-1, metavar=" ".join(filter(None, [metavar, f"[{KEY}.KEY=VALUE]..."])))
        @click.option(
            "--config",
            "config",
            metavar="FILE",
            help=f"A YAML file with options for the file system of the store, under the key {KEY}.",
        )
        @wraps(command)
        def taking(*args: Any, words: Sequence[str], config: str | None, **kwargs: Any) -> int:
            plain = [w for w in words if not is_option(w)]
            if len(plain) > bool(metavar) and not many:
                taken = " and ".join(filter(None, [metavar, f"{KEY}.KEY=VALUE"]))
                raise BadInput(f"{_name(plain[-1])}: this command takes {taken} only")
            if many:
                kwargs["words"] = plain
            elif metavar:
                kwargs["word"] = plain[0] if plain else ""
            return command(*args, storage=read_options(filter(is_option, words), config), **kwargs)

        return taking

    return decorated


def _name(word: str) -> str:
    """A word without what may be a credential."""
    return word.partition("=")[0]
