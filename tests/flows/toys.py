"""Quick steps in the shape of a cascade: real work on real rows, no model."""

import hashlib
import logging
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stages.core.media import write_video
from stages.core.step import ARTIFACT, PermanentError, Row, Step

log = logging.getLogger("rushes")


class Letters(Step):
    """Keeps the prompt as a file; a prompt with `broken` in it is refused for good."""

    writes = pa.schema([("length", pa.int64()), *ARTIFACT])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        again: int = 1

    def process(self, row: Row) -> Row:
        if "broken" in row["prompt"]:
            raise PermanentError("this prompt is broken")
        log.info("letters of %s", row["prompt"])
        return {"length": len(row["prompt"]), **self.workspace.put(row["prompt"].encode() * self.config.again, ".txt")}


class Draw(Step):
    """Makes bytes of the seed, and takes its time."""

    seeded = True
    writes = pa.schema([("drawn", pa.int64()), *ARTIFACT])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        seconds: float = 0.0

    def process(self, row: Row) -> Row:
        time.sleep(self.config.seconds)
        drawn = row["letters"]["length"] * 1000 + row["seed"]
        return {"drawn": drawn, **self.workspace.put(f"{row['prompt']} {drawn}".encode(), ".txt")}


class Finish(Step):
    """The last one: what `videos` shows."""

    writes = pa.schema(
        [("width", pa.int64()), ("height", pa.int64()), ("n_frames", pa.int64()), ("fps", pa.float64()), *ARTIFACT]
    )

    def process(self, row: Row) -> Row:
        drawn = hashlib.sha256(self.workspace.read(row["draw"]["uri"])).digest()
        frames = np.resize(np.frombuffer(drawn, np.uint8), (8, 16, 16, 3))
        kept = self.workspace.put(write_video(frames, 8, preset="ultrafast"), ".mp4")
        return {"width": 16, "height": 16, "n_frames": 8, "fps": 8.0, **kept}
