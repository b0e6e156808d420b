"""Low-rank adapters: where they lie and how strongly they act. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import check_part, locate_pinned

FILE = "pytorch_lora_weights.safetensors"
"""As diffusers' save_lora_weights names it."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """An adapter that is put onto a stage's denoiser.

    path   a folder that a training with `model.lora` has made, a .safetensors file, or a hub id `owner/name@revision`.
           Empty: none. Not part of identity: its content is.
    scale  1 as trained, 0 not at all
    """

    path: str = field(default="", metadata={"identity": False})
    scale: float = 1.0

    def file(self, download: bool = False) -> Path | None:
        """The adapter's tensors on this machine, or None where there is no adapter. Raises BadInput."""
        if not self.path:
            return None
        found = locate_pinned(self.path, "lora.path", download)
        found = found / FILE if found.is_dir() else found
        if not found.is_file():
            raise BadInput(f"lora.path: there is no {FILE} in {found.parent}; is it a whole checkpoint?")
        check_part(found, "lora.path")
        return found
