"""What pages in HTML are made with."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.core.ledger.catalog import Catalog


def page_environment(folder: Path) -> Environment:
    """The templates of a folder. Values are escaped; a missing one is an error."""
    loader = FileSystemLoader(folder)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def data_uri(catalog: Catalog, uri: str, kind: str) -> str:
    """A file of the store as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(catalog.storage.read(uri)).decode()}"
