"""Nothing phones home: switched off before any of these libraries is imported. A user's own setting wins."""

from __future__ import annotations

import os

SILENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def be_quiet() -> None:
    """Set what is not set. `HF_HUB_OFFLINE=0` in the environment lets published weights be fetched."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
