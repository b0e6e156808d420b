"""Names of columns as they are compared."""

from __future__ import annotations

import re
from typing import Any

from stages.core.text_tables import PADDING


def plain_name(name: Any) -> str:
    """A column's name as it is compared: `Negative Prompt ` and `negative-prompt` are `negative_prompt`."""
    return re.sub(r"[\s\-]+", "_", str(name).strip(PADDING)).casefold()
