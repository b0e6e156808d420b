"""LTX-2: the adapter. Importing this loads no torch."""

from stages.families.ltx2.adapter import FAMILY

__all__ = ["FAMILY"]
