"""The device that a setting means on this machine."""

from __future__ import annotations

import torch

from stages.core.errors import BadInput


def find_device(name: str, key: str = "device") -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; `auto` is a GPU where this process sees one.

    key: the setting's whole name, for the error. Raises BadInput for `cuda` where no GPU is seen.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise BadInput(
            f"{key} is cuda, but there is no GPU that this process may use: set {key}=auto, or give the step a GPU of "
            "the cluster (`resources.gpus=1` below its name)"
        )
    return torch.device("cuda" if there and name != "cpu" else "cpu")
