"""AnimateDiff: the adapter. Importing this loads no torch."""

from stages.families.animatediff.adapter import FAMILY

__all__ = ["FAMILY"]
