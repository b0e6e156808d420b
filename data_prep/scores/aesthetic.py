"""Score: how pleasing a clip is, by a predictor on CLIP's vectors of its pictures (LAION, 2022). Weights by path."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.sources.carried import FILE
from stages.core.errors import BadInput, require
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import device_rule

ADVICE = (
    "give the folder of a CLIP checkpoint of transformers with safetensors weights (such as clip-vit-large-patch14) as "
    "`clip`, and the file of a linear aesthetic predictor for it (.safetensors or .pth) as `head`"
)


class Aesthetic(Step):
    """A row per clip: aesthetic, the mean over its pictures, on the predictor's own scale (LAION's: 1 to 10)."""

    kind = "scores"
    version = 1
    writes = pa.schema([("clip_id", pa.string()), ("aesthetic", pa.float64())])
    fan_out = True
    weights = {"clip": (), "head": ()}  # noqa: RUF012
    resources = Resources(batch_rows=1, memory_gb=3.0)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Which weights, and how many pictures of each clip they are shown.

        clip      folder of a CLIP checkpoint, or a hub id in the local cache with a revision; required
        revision  revision of a hub id
        head      .safetensors or .pth file of the predictor: linear layers that are numbered as in a torch Sequential,
                  or a single one; required
        frames    [from 1] pictures of each clip
        device    [auto, cpu, cuda] where the model runs; `auto` is a GPU where there is one
        """

        clip: str = ""
        revision: str = field(default="", metadata={"identity": False})
        head: str = ""
        frames: int = 3
        device: str = field(default="auto", metadata={"identity": False})

        def __post_init__(self) -> None:
            if not self.clip or not Path(self.head).expanduser().is_file():
                raise BadInput(ADVICE)
            weights = Path(self.head).suffix in (".safetensors", ".pth")
            require(
                (weights, "head", self.head, "a .safetensors or .pth file"),
                (self.frames >= 1, "frames", self.frames, "at least 1"),
                device_rule(self.device),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, their times, and where its file lies."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")}, carries=FILE)

    def setup(self) -> None:
        """Load CLIP and the predictor, and see that they fit together."""
        from data_prep.models.clip_model import TwoTowers

        c = self.config
        self.towers = TwoTowers(c.clip, c.revision, "aesthetic.clip", c.device, self.workspace.threads)
        self.gain, self.offset = one_layer(Path(c.head).expanduser())

    def process(self, row: Row) -> Row:
        """The scores of one source's clips."""
        from data_prep.signals.pictures import Fit, clip_pictures

        pairs = clip_pictures(self.workspace, row, self.config.frames, Fit(short=336))
        return {"rows": [{"clip_id": clip["clip_id"], "aesthetic": self.score(p)} for clip, p in pairs]}

    def score(self, pictures: list[Any]) -> float | None:
        """The mean over pictures [h, w, 3] RGB; None where there are none. BadInput where the head does not fit."""
        if not pictures:
            return None
        vectors = self.towers.pictures(pictures)
        if vectors.shape[1] != len(self.gain):
            raise BadInput(f"aesthetic.head is for {len(self.gain)} numbers, clip gives {vectors.shape[1]}")
        return float((vectors @ self.gain + self.offset).mean())


def one_layer(path: Path) -> tuple[Any, float]:
    """Linear layers with nothing between them as one: gain float64 [d] and offset. Raises BadInput for anything else.

    LAION's predictors are that: what stands between their layers is dropout, which does nothing after training.
    """
    import numpy as np
    import safetensors.torch as st

    from data_prep.models.packaged import torch_pickle

    state = st.load_file(str(path)) if path.suffix == ".safetensors" else torch_pickle(path)
    names = sorted({n.rpartition(".")[0] for n in state}, key=lambda n: [int(d) for d in re.findall(r"\d+", n)])
    gain, offset = np.eye(1), np.zeros(1)
    try:
        layers = [(state[f"{n}.weight".lstrip(".")].double(), state[f"{n}.bias".lstrip(".")].double()) for n in names]
        for weight, bias in reversed(layers):
            offset = offset + gain @ bias.numpy()
            gain = gain @ weight.numpy()
    except (KeyError, ValueError) as error:
        raise BadInput(f"aesthetic.head: {path.name} is not a chain of linear layers ({error})") from None
    return gain[0], float(offset[0])
