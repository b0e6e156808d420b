"""Judge what each finished video shows, in the words of the procedural world."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from stages.core.latents.artifacts import media_of
from stages.core.measures.world.vocabulary import WORLD, load_vocabulary
from stages.core.measures.world.words import ATTRIBUTES, parse_prompt
from stages.core.media import read_picture
from stages.core.step import Inputs, PermanentError, Port, Resources, Row, Step

_WORDS = [(name, pa.string()) for name in ATTRIBUTES]


class Judge(Step):
    """Finds colour, shape, motion and background in the pixels of a whole video and of each quarter of it.

    The video is the one that was rendered, or, for footage from elsewhere, the file at `path`.
    """

    kind = "judgement"
    version = 6
    writes = pa.schema(
        [
            *_WORDS,
            *[(f"wanted_{name}", pa.string()) for name in ATTRIBUTES],
            ("named", pa.list_(pa.string())),
            ("right", pa.list_(pa.string())),
            ("all_right", pa.bool_()),
            ("quarters", pa.list_(pa.struct(_WORDS))),
            ("changes", pa.list_(pa.string())),
            ("objects", pa.int64()),
            ("same_object", pa.bool_()),
            ("n_frames", pa.int64()),
            ("fps", pa.float64()),
            ("first_frame_psnr", pa.float64()),
            ("last_frame_psnr", pa.float64()),
            ("sharpness", pa.float64()),
            ("edges", pa.float64()),
        ]
    )
    weights: ClassVar = {"world": ()}
    resources = Resources(cpus=0.125)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What words mean.

        world  the file with the words of the world and what they look like
        """

        world: str = WORLD

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """A rendered video, or a file by its content; the prompt, and the pictures that the clip was to show."""
        return Inputs(
            ports={"video": Port(kind="video", required=False)},
            depends=("prompt", "conditions", "fit", "sha256"),
            carries=("path", "media"),
            when=("prompt",),
        )

    def setup(self) -> None:
        """Read the vocabulary."""
        self.vocabulary = load_vocabulary(self.config.world)

    def process(self, row: Row) -> Row:
        """One video's verdict. Words are "" where nothing is named, or nothing was found. Raises BadMedia, BadInput."""
        from stages.core.measures.world.figures import as_row
        from stages.core.measures.world.judge import judge

        video = self._video(row)
        frames, fps = read_video(video)
        wanted = parse_prompt(str(row["prompt"] or ""), self.vocabulary)
        verdict = judge(frames, fps, wanted, self.vocabulary)
        return {**as_row(verdict), **{f"wanted_{a}": getattr(wanted, a) for a in ATTRIBUTES},
                "n_frames": len(frames), "fps": fps,
                "first_frame_psnr": self._likeness(row, "first", frames[0]),
                "last_frame_psnr": self._likeness(row, "last", frames[-1]),
                "sharpness": median_sharpness(frames), "edges": median_edges(frames)}  # fmt: skip

    def _likeness(self, row: Row, role: str, frame: Any) -> float | None:
        """PSNR, in dB, of a frame [H, W, 3] against the picture that stands there; None where there is none."""
        still = next((c for c in row["conditions"] or () if (c["kind"], c["role"]) == ("still", role)), None)
        if still is None:
            return None
        data = self.workspace.read(media_of(row, still["sha256"]))
        wanted = read_picture(data, frame.shape[1], frame.shape[0], row["fit"])
        error = ((frame.astype("float64") - wanted) ** 2).mean()
        return float(10 * math.log10(255**2 / max(error, 1e-5)))

    def _video(self, row: Row) -> bytes:
        if row["video"] is not None:
            return self.workspace.read(row["video"]["uri"])
        if not row["path"]:
            raise PermanentError("there is no video to judge")
        return Path(row["path"]).read_bytes()


def read_video(data: bytes) -> tuple[Any, float]:
    """Frames [F, H, W, 3] uint8 RGB and frames a second. Raises BadMedia for what is no video, or states no rate."""
    from stages.core.media import BadMedia, read_fps, read_frames

    frames, fps = read_frames(data), read_fps(data)
    if fps <= 0:
        raise BadMedia("the video has no frame rate")
    return frames, fps


def median_sharpness(frames: Any) -> float:
    """The median over frames [F, H, W, 3] of the variance of the Laplacian, at 512 pixels."""
    import cv2
    import numpy as np

    from stages.core.measures.sharpness import LONG_SIDE, sharpness, size_at

    size = size_at(frames.shape[2], frames.shape[1], LONG_SIDE)
    return float(np.median([sharpness(cv2.cvtColor(cv2.resize(f, size), cv2.COLOR_RGB2GRAY)) for f in frames]))


def median_edges(frames: Any) -> float:
    """The median over frames [F, H, W, 3] of how steep their edges are, at their own size."""
    import numpy as np

    from stages.core.measures.sharpness import edge_steepness

    return float(np.median([edge_steepness(f) for f in frames]))
