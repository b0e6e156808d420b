"""How sharp a frame is, measured at one size, so that sources of any resolution compare."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

LONG_SIDE = 512
"""The longer side, in pixels, at which sharpness is measured: an upscaled source comes out as soft as it is."""


def size_at(width: int, height: int, long_side: int) -> tuple[int, int]:
    """(width, height) scaled so that the longer side is `long_side`; both even, at least 16."""
    scale = long_side / max(width, height)
    return max(16, round(width * scale / 2) * 2), max(16, round(height * scale / 2) * 2)


def sharpness(luma: npt.NDArray[np.uint8]) -> float:
    """The variance of the Laplacian of a luma picture [h, w], longer side 512 pixels; 0 is flat, no upper bound.

    J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. Blur lowers it, noise
    raises it.
    """
    spread = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))[1]
    return float(spread[0, 0]) ** 2


def edge_steepness(picture: npt.NDArray[np.uint8]) -> float:
    """How steep the steepest hundredth of a picture [h, w, 3] is at least: the 99th percentile over its pixels of the
    gradient's length, over all channels, in levels of 255 a pixel; 0 is flat.

    Blur lowers it. Unlike the variance of the Laplacian it hardly sees faint noise and halos on flat ground, where most
    pixels are. Edges are judged by their steepest part since G. C. Higgins and L. A. Jones, "The nature and evaluation
    of the sharpness of photographic images", J. SMPTE 58 (1952).
    """
    across, down = (cv2.Sobel(picture, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return float(np.percentile(np.sqrt((across**2 + down**2).sum(axis=-1)), 99))


_EDGE, _AROUND, _FEWEST = 12.0, 9, 0.002
_STEP = float(np.sqrt(2 * np.pi))
"""The height of a step that a Gaussian of sigma 1 has blurred, over its steepest slope."""


def edge_blur(luma: npt.NDArray[np.uint8]) -> float | None:
    """How blurred the sharpest edges of a picture [h, w] are: the sigma of the Gaussian, in its pixels, that makes an
    ideal step as flat as they are; about 0.6 at the least. None where it has next to no edges.

    An edge's width is its height over its steepest slope (P. Marziliano et al., "A no-reference perceptual blur
    metric", ICIP 2002). The sharpest twentieth of all places with contrast counts, as what is out of focus on purpose
    is blurred in a sound picture, too. Up to a sigma of 3.
    """
    grey = luma.astype(np.float32)
    slope = np.hypot(*(cv2.Sobel(grey, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))))
    kernel = np.ones((_AROUND, _AROUND), np.uint8)
    height = cv2.subtract(cv2.dilate(luma, kernel), cv2.erode(luma, kernel)).astype(np.float32)
    edges = (height >= _EDGE) & (slope > 0)
    if edges.mean() < _FEWEST:
        return None
    return float(np.percentile(height[edges] / (slope[edges] * _STEP), 5))
