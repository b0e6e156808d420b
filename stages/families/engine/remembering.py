"""Causal encoders of LTX's kind, a few frames at a time: each convolution is handed the frames that it saw last.

diffusers encodes with them whole clips, or chunks that know nothing of each other. What is made here is the latent of
the whole clip, but for the rounding of floating point.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

WHOLE = sys.maxsize
"""Frames of a piece where there is but one."""
AT_ONCE = 2
"""Latent frames of a piece: the frames that are handed once more cost the less, the more follow."""

log = logging.getLogger("rushes.families")


def encoder_of(network: Any, ratio: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], int, int]:
    """What encodes the pieces of one clip with a VAE of LTX's kind, and how many frames the first and each further one
    has. ratio: the frames of a latent one."""
    if network.config.encoder_causal:
        return Remembering(network), AT_ONCE * ratio + 1, AT_ONCE * ratio
    log.warning("the encoder of this VAE looks ahead in time: a clip is encoded whole, in memory by its length")
    return lambda pixels: network.encode(pixels).latent_dist.mode(), WHOLE, WHOLE


class Remembering:
    """The encoder of one clip: called with its pixels piece by piece, the first of k * ratio + 1 frames, each further
    one of k * ratio."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self._seen: dict[torch.nn.Module, torch.Tensor] = {}
        self._begun = False
        self._stand_ins: dict[torch.nn.Module, int] = {}

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The posterior mean [1, C, f, h, w] of the next pixels [1, 3, n, H, W], from -1 to 1."""
        with self._hooked():
            found: torch.Tensor = self.network.encode(pixels).latent_dist.mode()
        self._begun = True
        return found

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        hooks = []
        for module in self.network.encoder.modules():
            name = type(module).__name__
            if name.endswith("CausalConv3d"):
                hooks += [module.register_forward_pre_hook(self._handed), module.register_forward_hook(self._cut)]
            elif name.endswith("Downsampler3d") and self._begun and module.stride[0] > 1:
                # It repeats the first frame to fill a stride, which belongs to the beginning of a clip alone. Later it
                # is given a whole stride more, and what comes of that is dropped.
                self._stand_ins[module.conv] = module.stride[0]
                hooks += [module.register_forward_pre_hook(_filled), module.register_forward_hook(_unfilled)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _handed(self, conv: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        frames, *more = given
        frames = frames[:, :, self._stand_ins.get(conv, 0) :]
        kept = conv.kernel_size[0] - conv.conv.stride[0]  # what the next piece needs of this one
        before = self._seen.get(conv)
        whole = frames if before is None else torch.cat([before, frames], dim=2)
        if kept > 0:
            missing = kept - whole.shape[2]  # of a short first piece: there, the first frame was shown before too
            padded = torch.cat([whole[:, :, :1].repeat(1, 1, missing, 1, 1), whole], dim=2) if missing > 0 else whole
            self._seen[conv] = padded[:, :, padded.shape[2] - kept :].clone()
        return (whole, *more)

    def _cut(self, conv: Any, given: Any, made: torch.Tensor) -> torch.Tensor:
        """Without what was made of the frames handed once more; stand-ins are answered by as many frames."""
        if not self._begun:
            return made
        stride = conv.conv.stride[0]
        handed = -(-max(0, conv.kernel_size[0] - stride) // stride)
        return made[:, :, handed - self._stand_ins.get(conv, 0) :]


def _filled(module: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    frames, *more = given
    return (torch.cat([frames[:, :, :1], frames], dim=2), *more)


def _unfilled(module: Any, given: Any, made: torch.Tensor) -> torch.Tensor:
    return made[:, :, 1:]
