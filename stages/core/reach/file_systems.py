"""Addresses whose file system cannot be opened here, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stages.core.errors import BadInput
from stages.core.reach.secrets import bare

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""scheme -> the extra of this project whose package opens it"""


@contextmanager
def naming_extra(address: str) -> Iterator[None]:
    """Raise BadInput where the package of a file system is missing, or nobody knows its scheme."""
    scheme = address.partition("://")[0]
    try:
        yield
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        what = f"install the extra {extra}: pip install -c constraints.txt -e '.[{extra}]'" if extra else str(error)
        raise BadInput(f"{bare(address)}: the package that opens {scheme}:// is not installed; {what}") from None
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise BadInput(
            f"{bare(address)}: no file system is known for {scheme}://; give a folder, or s3://, gs:// or az://"
        ) from None
