"""A clip's sound as numbers: brought to the length of its pictures, and how loud it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

HIGHEST_RATE, MOST_CHANNELS = 192_000, 8


class BadSound(ValueError):
    """Sound that cannot be what belongs to its pictures. Permanent: making it again gives the same."""


@dataclass(frozen=True)
class Sound:
    """samples: [channels, N], float32 from -1 to 1; rate: samples a second."""

    samples: Floats
    rate: int

    def __post_init__(self) -> None:
        shape = list(self.samples.shape)
        if len(shape) != 2 or self.samples.dtype != np.float32 or not 1 <= shape[0] <= MOST_CHANNELS or not shape[1]:
            raise BadSound(f"sound must be float32 [channels, samples], this one is {self.samples.dtype} {shape}")
        if not 1 <= self.rate <= HIGHEST_RATE:
            raise BadSound(f"sound must have a rate of 1 to {HIGHEST_RATE} samples a second, this one has {self.rate}")
        if bad := int(self.samples.size - np.isfinite(self.samples).sum()):
            raise BadSound(f"{bad} of the {self.samples.size} samples of the sound are not finite")

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return float(self.samples.shape[1] / self.rate)

    @property
    def loudness(self) -> float | None:
        """The root mean square of all samples, in dB below full scale; None for silence."""
        power = float(np.mean(self.samples.astype(np.float64) ** 2))
        return 10 * math.log10(power) if power else None

    def lasting(self, seconds: float, slack: float) -> Sound:
        """It begins with the pictures and ends with them: what is longer is cut, what is missing at its end is silence.

        slack: by how many seconds it may be too short or too long. Raises BadSound where it is more.
        """
        if abs(self.seconds - seconds) > slack:
            raise BadSound(
                f"the sound lasts {self.seconds:.3f} s and the pictures {seconds:.3f} s: they do not belong together"
            )
        wanted = round(seconds * self.rate)
        kept = self.samples[:, :wanted]
        return replace(self, samples=np.pad(kept, ((0, 0), (0, wanted - kept.shape[1]))))
