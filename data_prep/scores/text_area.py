"""Score: the share of the picture that is text (subtitles, watermarks, slides, signs), and what the text says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.captions.text import printable
from data_prep.models.packaged import Packaged, check_weights, weights_file
from data_prep.sources.carried import FILE
from stages.core.errors import require
from stages.core.step import Inputs, Port, Resources, Row, Step

_OCR = ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/")
DETECTOR = Packaged(
    *_OCR[:2], f"{_OCR[2]}ch_PP-OCRv4_det_infer.onnx",
    "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9", "Apache-2.0",
)  # fmt: skip
RECOGNISER = Packaged(
    *_OCR[:2], f"{_OCR[2]}ch_PP-OCRv4_rec_infer.onnx",
    "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b", "Apache-2.0",
)  # fmt: skip
LONGEST = 400
PLAUSIBLE = 0.5
"""The least confidence of a reading that makes a box count as text."""


class TextArea(Step):
    """A row per clip: text_area and text_lines on average over its pictures, and the readable text of all of them."""

    kind = "scores"
    version = 1
    writes = pa.schema(
        [("clip_id", pa.string()), ("text_area", pa.float64()), ("text_lines", pa.float64()), ("text", pa.string())]
    )
    fan_out = True
    weights = {"detector": (), "recogniser": ()}  # noqa: RUF012
    resources = Resources(batch_rows=1)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How closely a clip is read.

        frames      [from 1] pictures of each clip
        side        [from 64] longer side of these pictures, in pixels; small text needs more
        box         minimum mean confidence of a text box, 0 to 1
        sure        minimum confidence of a line that is kept as readable, 0 to 1
        lines       [from 0] lines read in one picture, at most; 0 reads none
        detector    ONNX file of a text detector to use instead of the packaged PP-OCRv4
        recogniser  ONNX file of a text recogniser to use instead, with its letters in the metadata key `character`
        """

        frames: int = 3
        side: int = 960
        box: float = 0.5
        sure: float = 0.85
        lines: int = 8
        detector: str = ""
        recogniser: str = ""

        def __post_init__(self) -> None:
            require(
                (self.frames >= 1, "frames", self.frames, "at least 1"),
                (self.side >= 64, "side", self.side, "at least 64"),
                (self.lines >= 0, "lines", self.lines, "0 or more"),
            )
            check_weights(self.detector, DETECTOR, "detector", ".onnx")
            check_weights(self.recogniser, RECOGNISER, "recogniser", ".onnx")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, their times, and where its file lies."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")}, carries=FILE)

    def setup(self) -> None:
        """Load both networks."""
        from data_prep.models.text_reader import TextReader

        c = self.config
        detector = weights_file(c.detector, DETECTOR, "text.detector")
        recogniser = weights_file(c.recogniser, RECOGNISER, "text.recogniser")
        self.reader = TextReader(detector, recogniser, c.box, self.workspace.threads)

    def process(self, row: Row) -> Row:
        """The text of one source's clips."""
        from data_prep.signals.pictures import Fit, clip_pictures

        pairs = clip_pictures(self.workspace, row, self.config.frames, Fit(long=self.config.side))
        return {"rows": [{"clip_id": clip["clip_id"], **self.score(pictures)} for clip, pictures in pairs]}

    def score(self, pictures: list[Any]) -> Row:
        """The columns of one clip, from its pictures [h, w, 3] RGB; nulls where there are none."""
        from data_prep.models.text_reader import covered

        if not pictures:
            return {"text_area": None, "text_lines": None, "text": None}
        area, count, texts = 0.0, 0, dict[str, None]()
        for picture in pictures:
            boxes, lines = self._lines(picture)
            area, count = area + covered(boxes, *picture.shape[:2]), count + len(boxes)
            texts |= dict.fromkeys(line.text for line in sorted(lines, key=lambda line: float(line.box[1, 1])))
        return {
            "text_area": area / len(pictures),
            "text_lines": count / len(pictures),
            "text": printable(" / ".join(texts), LONGEST),
        }

    def _lines(self, picture: Any) -> tuple[list[Any], list[Any]]:
        """The boxes that hold text, and the lines among them that could be read well.

        Texture may look like text to the detector, so a box that was read and made no sense is dropped."""
        boxes = self.reader.find(picture)
        lines = [self.reader.read(picture, b) for b in boxes[: self.config.lines]]
        sound = [line for line in lines if line.text and line.sure >= PLAUSIBLE]
        readable = [line for line in sound if len(line.text) > 1 and line.sure >= self.config.sure]
        return [*(line.box for line in sound), *boxes[self.config.lines :]], readable
