"""Wan 2.1 and 2.2: the adapter. Importing this loads no torch."""

from stages.families.wan.adapter import FAMILY

__all__ = ["FAMILY"]
