"""Log records on their way from a worker to the process that reads its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LogRecord = dict[str, Any]
"""One log record of a worker: name, level (number), message, created (seconds since 1970) and worker (host/pid)."""

OnLog = Callable[[str, LogRecord], None]
"""Called with (step name, record) for every log record of a worker, in the thread that reads the step's rows."""
