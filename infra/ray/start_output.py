"""What Ray prints while it starts: dozens of lines of its own logs where a part of it is too slow."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

SPEAKER = "ray._private.services"
"""The logger by which Ray repeats the logs of its parts."""


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(self.format(record))


@contextmanager
def kept_from_the_console(lines: list[str]) -> Iterator[None]:
    """Collect in `lines` what Ray says of its start, which else goes to the console."""
    logger, collector = logging.getLogger(SPEAKER), _Collector(lines)
    before = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(collector)


def written(lines: list[str]) -> str:
    """Put the lines into a new file among the temporary ones: a clause that names it; "" where there are none, or where
    no file can be written."""
    if not lines:
        return ""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="rushes-ray-", suffix=".log", delete=False) as file:
            file.write("\n".join(lines) + "\n")
    except OSError:
        return ""
    return f". Ray's own messages are in {file.name}"
