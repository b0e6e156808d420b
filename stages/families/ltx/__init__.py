"""LTX-Video: the adapter, and what runs behind it. Importing this loads no torch."""

from stages.families.ltx.adapter import FAMILY

__all__ = ["FAMILY"]
