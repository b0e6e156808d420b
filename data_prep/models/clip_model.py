"""CLIP-like models (two towers, one space) of transformers, by path: unit vectors of pictures and of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.weights.checkpoint import locate

CHECKPOINT_ADVICE = (
    "give the folder of a CLIP or SigLIP checkpoint of transformers with safetensors weights (such as "
    "clip-vit-large-patch14)"
)

Vectors = npt.NDArray[np.float32]
"""float32 [n, d], each of length 1."""


class TwoTowers:
    """CLIP, SigLIP and the like. Loads safetensors only and runs no code of the checkpoint."""

    def __init__(self, location: str, revision: str, key: str, device: str, threads: int = 1) -> None:
        import torch
        from transformers import AutoModel, AutoProcessor

        from stages.families.engine.device import find_device
        from stages.families.load_report import load_transformers

        torch.set_num_threads(threads)
        folder = str(locate(location, key, (), revision))
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.device = find_device(device, f"{key.partition('.')[0]}.device")
        model = load_transformers(AutoModel, Path(folder), whole=False, dtype="float32", trust_remote_code=False)
        self.model = model.requires_grad_(False).to(self.device)
        self.processor = AutoProcessor.from_pretrained(folder, **options)

    def pictures(self, pictures: Sequence[Any]) -> Vectors:
        """Of RGB pictures [h, w, 3]."""
        from PIL import Image

        inputs = self.processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt")
        return self._vectors(self.model.get_image_features, inputs)

    def texts(self, texts: Sequence[str]) -> Vectors:
        """Of texts, each cut off at what the model can take."""
        inputs = self.processor(text=list(texts), padding=True, truncation=True, return_tensors="pt")
        return self._vectors(self.model.get_text_features, inputs)

    def _vectors(self, features: Any, inputs: Any) -> Vectors:
        import torch

        with torch.inference_mode():
            output = features(**inputs.to(self.device))
        raw = np.asarray(getattr(output, "pooler_output", output).float().cpu(), np.float32)
        return np.asarray(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-9))
