"""Score: how likely a clip carries a watermark, by any image classifier of transformers. Weights by path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.sources.carried import FILE
from stages.core.config_files import nearest
from stages.core.errors import BadInput, require
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import device_rule, locate


class Watermark(Step):
    """A row per clip: watermark, the mean probability over its pictures, 0 to 1. A watermark stays; a sign passes."""

    kind = "scores"
    version = 1
    writes = pa.schema([("clip_id", pa.string()), ("watermark", pa.float64())])
    fan_out = True
    weights = {"model": ()}  # noqa: RUF012
    resources = Resources(batch_rows=1, memory_gb=2.0)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Which classifier, and how many pictures of each clip it is shown.

        model     folder of an image classifier with safetensors weights, or a hub id in the local cache; required
        revision  revision of a hub id
        label     name of the class that means a watermark
        frames    [from 1] pictures of each clip
        device    [auto, cpu, cuda] where the model runs; `auto` is a GPU where there is one
        """

        model: str = ""
        revision: str = field(default="", metadata={"identity": False})
        label: str = "watermark"
        frames: int = 3
        device: str = field(default="auto", metadata={"identity": False})

        def __post_init__(self) -> None:
            if not self.model:
                raise BadInput(
                    "model: give the folder of an image-classification checkpoint of transformers with "
                    "safetensors weights that knows watermarks (such as watermark_detector), and the `label` it has"
                )
            require(
                (self.frames >= 1, "frames", self.frames, "at least 1"),
                device_rule(self.device),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, their times, and where its file lies."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")}, carries=FILE)

    def setup(self) -> None:
        """Load the classifier. Raises BadInput where it has no such label."""
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        from stages.families.engine.device import find_device
        from stages.families.load_report import load_transformers

        c = self.config
        torch.set_num_threads(self.workspace.threads)
        folder = str(locate(c.model, "watermark.model", (), c.revision))
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.device = find_device(c.device, "watermark.device")
        cls = AutoModelForImageClassification
        net = load_transformers(cls, Path(folder), whole=False, dtype="float32", trust_remote_code=False)
        self.net = net.requires_grad_(False).to(self.device)
        self.processor = AutoImageProcessor.from_pretrained(folder, **options)
        known = {str(name).lower(): int(i) for i, name in self.net.config.id2label.items()}
        if c.label.lower() not in known:
            raise BadInput(f"watermark.label: the model has no class {c.label!r}; {nearest(c.label, known)}")
        self.index = known[c.label.lower()]

    def process(self, row: Row) -> Row:
        """The scores of one source's clips."""
        from data_prep.signals.pictures import Fit, clip_pictures

        pairs = clip_pictures(self.workspace, row, self.config.frames, Fit(short=384))
        return {"rows": [{"clip_id": clip["clip_id"], "watermark": self.score(p)} for clip, p in pairs]}

    def score(self, pictures: list[Any]) -> float | None:
        """The mean probability over pictures [h, w, 3] RGB; None where there are none."""
        import torch
        from PIL import Image

        if not pictures:
            return None
        inputs = self.processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt").to(self.device)
        with torch.inference_mode():
            odds = torch.softmax(self.net(**inputs).logits.float(), -1)
        return float(odds[:, self.index].mean())
