"""The colours that a viewer would name first."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from stages.core.measures.signature import CHROMA, COLUMNS, LUMA, ROWS, U8

NAMES = ("black", "grey", "white", "brown", "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_HUE_ENDS = (
    (20, "red"),
    (45, "orange"),
    (70, "yellow"),
    (165, "green"),
    (200, "cyan"),
    (255, "blue"),
    (290, "purple"),
    (345, "pink"),
    (360, "red"),
)


def colour_shares(signatures: U8, cells: npt.NDArray[np.bool_] | None = None) -> dict[str, float]:
    """The share of the picture under each colour name, summing to 1, from signatures [n, 864] in limited range.

    `cells` [864] says which cells are picture rather than black bars (see `signature.cells_within`); all, if not given.
    """
    rgb = _rgb(signatures)
    if cells is not None:
        rgb = rgb.reshape(len(signatures), -1, 3)[:, cells[LUMA : LUMA + CHROMA]]
    hsv = cv2.cvtColor(rgb.reshape(1, -1, 3).astype(np.float32) / 255.0, cv2.COLOR_RGB2HSV).reshape(-1, 3)
    names = _name(hsv[:, 0], hsv[:, 1], hsv[:, 2])
    return {name: float((names == i).mean()) for i, name in enumerate(NAMES)}


def dominant(shares: Mapping[str, float], least: float = 0.15, most: int = 3) -> list[str]:
    """At most `most` colour names with a share of `least` or more, the greatest first."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return [name for name, share in ranked[:most] if share >= least]


def _rgb(signatures: U8) -> npt.NDArray[np.uint8]:
    n = len(signatures)
    y = signatures[:, :LUMA].reshape(n, ROWS, COLUMNS)[:, ::2, ::2].astype(np.float32)
    u = signatures[:, LUMA : LUMA + CHROMA].reshape(n, ROWS // 2, COLUMNS // 2).astype(np.float32) - 128
    v = signatures[:, LUMA + CHROMA :].reshape(n, ROWS // 2, COLUMNS // 2).astype(np.float32) - 128
    y = np.asarray((y - 16) * (255 / 219), np.float32)
    rgb = np.stack([y + 1.793 * v, y - 0.213 * u - 0.533 * v, y + 2.112 * u], axis=-1)  # BT.709
    return np.asarray(np.clip(rgb, 0, 255), np.uint8).reshape(-1, 3)


def _name(
    hue: npt.NDArray[np.float32], saturation: npt.NDArray[np.float32], value: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    out = np.full(len(hue), NAMES.index("grey"))
    starts = np.array([end for end, _ in _HUE_ENDS])
    which = np.array([NAMES.index(name) for _, name in _HUE_ENDS])
    by_hue = which[np.searchsorted(starts, hue, side="left").clip(0, len(which) - 1)]
    coloured = (saturation >= 0.25) & (value >= 0.2)
    out[coloured] = by_hue[coloured]
    out[coloured & (hue >= 10) & (hue < 50) & (value < 0.6)] = NAMES.index("brown")
    out[coloured & (hue >= 55) & (hue < 70) & (value < 0.7)] = NAMES.index("green")  # as of grass in the sun
    out[~coloured & (value > 0.8)] = NAMES.index("white")
    out[value < 0.2] = NAMES.index("black")
    return out
