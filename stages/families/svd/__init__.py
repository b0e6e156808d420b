"""Stable Video Diffusion: the adapter. Importing this loads no torch."""

from stages.families.svd.adapter import FAMILY

__all__ = ["FAMILY"]
