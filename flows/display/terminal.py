"""What is printed for people: texts of others cannot move the cursor, change colours or hide lines."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.text import Text

from stages.core.reach.harmless import for_terminal
from stages.core.reach.secrets import cleared


class PlainConsole(Console):
    """A console on which control characters in texts are shown, not obeyed."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is shown, also that of a table's cell. Only what this project marks has a colour."""
        return super().render_str(for_terminal(cleared(text)), **options)


def console(stderr: bool = False) -> PlainConsole:
    """A console on standard output, or on standard error."""
    return PlainConsole(stderr=stderr, highlight=False, emoji=False)


def say(text: str, err: bool = False, coloured: str = "") -> None:
    """One line; coloured: what click has styled, which goes in front."""
    click.echo(coloured + for_terminal(cleared(text)), err=err)
