"""`rushes review`: look at takes and choose, on a page of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.review.serve import serve_review
from flows.run.session import existing_catalog


def review_command(store: str, host: str, port: int, names: Sequence[str], who: str, options: dict[str, Any]) -> int:
    """Serve the review page of a store until Ctrl-C."""
    return serve_review(existing_catalog(store, options), host, port, names, who)
