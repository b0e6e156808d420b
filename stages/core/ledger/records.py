"""Tables of a store that no step of a plan makes: the runs, and whatever people write beside them."""

from __future__ import annotations

import pyarrow as pa

STORE_TABLE = "all"
"""The fingerprint under which such a table lies."""
RUNS, RUNS_FINGERPRINT = "runs", STORE_TABLE

RUN_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("flow", pa.string()),
        ("status", pa.string()),
        ("started", pa.timestamp("us", tz="UTC")),
        ("ended", pa.timestamp("us", tz="UTC")),
        ("config", pa.string()),
        ("core_seconds", pa.float64()),
        ("gpu_seconds", pa.float64()),
        ("scope", pa.string()),
        ("plan", pa.string()),
        ("jobs", pa.string()),
        ("counts", pa.string()),
        ("error", pa.string()),
        ("host", pa.string()),
        ("pid", pa.int64()),
        ("versions", pa.string()),
    ]
)
"""What was asked for, when, and how it ended; a run writes its row when it starts and when it ends."""
