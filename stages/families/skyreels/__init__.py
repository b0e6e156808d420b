"""SkyReels V2, diffusion forcing: the adapter. Importing this loads no torch."""

from stages.families.skyreels.adapter import FAMILY

__all__ = ["FAMILY"]
