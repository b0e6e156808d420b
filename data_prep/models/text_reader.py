"""Text in pictures: where it is, and what it says.

Detection is Differentiable Binarization (Liao et al., 2020) and reading a CTC recogniser, both of PP-OCRv4, run by
OpenCV. A box is four corners from the lower left on, clockwise, in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from data_prep.models.onnx import onnx_metadata, read_onnx
from data_prep.signals.pictures import Picture

Box = npt.NDArray[np.float32]

ROW = 48  # height in pixels at which a line is read
WIDEST = 960
MOST_BOXES = 300


@dataclass(frozen=True)
class Line:
    """A line of text: what it says, how sure the reader is of it on average (0 to 1), and its box."""

    text: str
    sure: float
    box: Box


class TextReader:
    """Finds and reads text. Rival readings of a crop are not kept."""

    def __init__(self, detector: Path, recogniser: Path, box_threshold: float = 0.5, threads: int = 1) -> None:
        self.detector, self.recogniser = read_onnx(detector, threads), read_onnx(recogniser, threads)
        self.box_threshold = box_threshold
        letters = onnx_metadata(recogniser).get("character", "").splitlines()
        self.letters = np.array(["", *letters, " "])

    def find(self, picture: Picture) -> list[Box]:
        """The boxes of text in an RGB picture, the largest first."""
        height, width = picture.shape[:2]
        size = [max(32, round(side / 32) * 32) for side in (width, height)]
        self.detector.setInput(cv2.dnn.blobFromImage(picture, 1 / 127.5, size, (127.5,) * 3, swapRB=True))
        evidence = self.detector.forward()[0, 0]
        scale = np.array([width / size[0], height / size[1]], np.float32)
        boxes = [b * scale for b in boxes_of(evidence, self.box_threshold)]
        return sorted((b for b in boxes if min(box_size(b)) > 3), key=lambda b: -cv2.contourArea(b))

    def read(self, picture: Picture, box: Box) -> Line:
        """What one box says; an empty text where nothing is recognised."""
        crop = straightened(np.ascontiguousarray(picture[:, :, ::-1]), box)
        width = int(np.clip(round(ROW * crop.shape[1] / crop.shape[0]), 16, WIDEST))
        blob = cv2.dnn.blobFromImage(cv2.resize(crop, (width, ROW)), 1 / 127.5, mean=(127.5,) * 3)
        room = np.zeros((1, 3, ROW, max(320, width)), np.float32)
        room[..., :width] = blob
        self.recogniser.setInput(room)
        odds = self.recogniser.forward()[0]
        best = odds.argmax(1)
        is_letter = (best != 0) & (best != np.concatenate([[0], best[:-1]]))
        sure = float(odds.max(1)[is_letter].mean()) if is_letter.any() else 0.0
        return Line("".join(self.letters[best[is_letter]]).strip(), sure, box)


def boxes_of(evidence: npt.NDArray[np.float32], least: float) -> list[Box]:
    """The boxes in a map of evidence [h, w], 0 to 1: regions above 0.3 whose mean is at least `least`, each as the
    smallest rectangle around it, grown by 1.6 times its area over its girth because the map shows shrunken text."""
    contours, _ = cv2.findContours((evidence > 0.3).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = []
    for contour in contours[:MOST_BOXES]:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < 2 or _mean_inside(evidence, contour) < least:
            continue
        grown = 1.6 * width * height / (width + height)  # twice the distance: both sides move outwards
        boxes.append(_in_order(cv2.boxPoints((centre, (width + grown, height + grown), angle))))
    return boxes


def _mean_inside(evidence: npt.NDArray[np.float32], contour: npt.NDArray[np.int32]) -> float:
    x, y, width, height = cv2.boundingRect(contour)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [contour - np.array([x, y], np.int32)], 1)
    return float(cv2.mean(evidence[y : y + height, x : x + width], mask)[0])


def _in_order(corners: npt.NDArray[np.float32]) -> Box:
    """Four corners from the lower left on, clockwise; y grows downwards."""
    left, right = np.split(corners[np.argsort(corners[:, 0], kind="stable")], 2)
    (top_left, low_left), (top_right, low_right) = (side[np.argsort(side[:, 1])] for side in (left, right))
    return np.array([low_left, top_left, top_right, low_right], np.float32)


def box_size(box: Box) -> tuple[float, float]:
    """Width and height of a box, in pixels."""
    low_left, top_left, top_right, _ = box
    return float(np.linalg.norm(top_right - top_left)), float(np.linalg.norm(top_left - low_left))


def straightened(bgr: Picture, box: Box) -> Picture:
    """What a box shows, as an upright rectangle; a tall one is taken for vertical text and turned."""
    width, height = (max(2, round(side)) for side in box_size(box))
    target = np.array([[0, height - 1], [0, 0], [width - 1, 0], [width - 1, height - 1]], np.float32)
    crop = cv2.warpPerspective(bgr, cv2.getPerspectiveTransform(box, target), (width, height), borderMode=1)
    return np.ascontiguousarray(np.rot90(crop)) if height > 1.5 * width else crop


def covered(boxes: list[Box], height: int, width: int) -> float:
    """The share of a picture that boxes cover, 0 to 1; where they overlap it counts once."""
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        cv2.fillPoly(mask, [np.rint(box).astype(np.int32)], 1)
    return float(mask.mean())
