"""Any other video pipeline of diffusers, by the name of its class, as one step."""

from stages.families.whole.adapter import FAMILY

__all__ = ["FAMILY"]
