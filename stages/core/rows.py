"""Rows as steps see them, and what columns of several steps are made of."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

Row = dict[str, Any]

REASON = pa.struct(
    [
        ("step", pa.string()),
        ("metric", pa.string()),
        ("value", pa.string()),
        ("op", pa.string()),
        ("threshold", pa.string()),
    ]
)
"""Why a row is not `ok`. Values are text, so that one type holds numbers, labels and ids."""

ARTIFACT = [("uri", pa.string()), ("sha256", pa.string()), ("size", pa.int64())]
"""The columns of a row that points at a file in the store: what `Workspace.put` returns."""
