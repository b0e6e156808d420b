"""Quick steps in the shape of a cascade: real work on real rows, no model."""

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.dedup.dedup import Dedup
from stages.core.media import write_video
from stages.core.step import ARTIFACT, REASON, Inputs, Job, PermanentError, Port, Rejected, Row, Step

log = logging.getLogger("rushes")


class Letters(Step):
    """Keeps the prompt as a file; a prompt with `broken` in it is refused for good."""

    kind = "text"
    writes = pa.schema([("length", pa.int64()), *ARTIFACT])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        again: int = 1

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(depends=("prompt",))

    def process(self, row: Row) -> Row:
        if "broken" in row["prompt"]:
            raise PermanentError("this prompt is broken")
        log.info("letters of %s", row["prompt"])
        return {"length": len(row["prompt"]), **self.workspace.put(row["prompt"].encode() * self.config.again, ".txt")}


class Draw(Step):
    """Makes bytes of the seed, and takes its time."""

    kind = "latent"
    writes = pa.schema([("drawn", pa.int64()), *ARTIFACT])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        seconds: float = 0.0

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"text": Port(kind="text")}, depends=("seed",), draws=True)

    def process(self, row: Row) -> Row:
        time.sleep(self.config.seconds)
        text = self.workspace.read(row["text"]["uri"]).decode()
        drawn = row["text"]["length"] * 1000 + row["seed"]
        return {"drawn": drawn, **self.workspace.put(f"{text} {drawn}".encode(), ".txt")}


def hang(name: str) -> None:
    """Work for as long as the file is there that RUSHES_TOY_HANG names, if its suffix is the name of this; a file
    beside it says that this has begun."""
    path = Path(os.environ.get("RUSHES_TOY_HANG", ""))
    if path.suffix != f".{name}" or not path.is_file():
        return
    path.with_suffix(".begun").touch()
    while path.is_file():
        time.sleep(0.05)


class Hang(Draw):
    """A drawing that takes its time, and no other one for it."""

    def process(self, row: Row) -> Row:
        if row["seed"]:
            hang("row")
        return super().process(row)


class NoWeights(Draw):
    """A drawing whose weights do not come while RUSHES_TOY_OFF is set."""

    def setup(self) -> None:
        if os.environ.get("RUSHES_TOY_OFF"):
            raise ConnectionError("the weights of this step lie on a server that does not answer: it is switched off")


class Slow(Job):
    """A job that keeps what it has done, but is slow to end: all units pass."""

    kind = "decision"
    passes = True
    writes = pa.schema([("id", pa.string()), ("status", pa.string())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent")}, units=("seed",))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        self.workspace.stop()
        hang("job")
        ids = tables["units"].column("id").to_pylist()
        return pa.Table.from_pylist([{"id": i, "status": "ok"} for i in ids], self.writes)


class Top(Job):
    """A gate: of every group, the one take whose latent's row has the most of something goes on."""

    kind = "decision"
    passes = True
    writes = pa.schema([("id", pa.string()), ("status", pa.string()), ("reasons", pa.list_(REASON))])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """by: a column of the latent's row, with a minus for the least of it; per: the columns of a group."""

        by: str = "drawn"
        per: tuple[str, ...] = ("prompt",)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent")}, per=tuple(config.per))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        column, sign = self.config.by.lstrip("-"), -1 if self.config.by.startswith("-") else 1
        values = {r["unit_id"]: sign * r[column] for r in tables["latent"].to_pylist() if r["status"] == "ok"}
        best = max(values, key=lambda u: (values[u], u), default="")
        rows = [
            {"id": u, "status": "ok" if u == best else "rejected", "reasons": []}
            for u in tables["units"].column("id").to_pylist()
        ]
        return pa.Table.from_pylist(rows, self.writes)


class Look(Step):
    """A quality check of a drawing: `dark` prompts do not pass with seed 0, and have no `shade` with seed 1."""

    kind = "qc"
    writes = pa.schema([("shade", pa.float64()), ("drawn", pa.float64())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent")}, depends=("prompt", "seed"))

    def process(self, row: Row) -> Row:
        if "dark" in row["prompt"] and not row["seed"]:
            raise Rejected("shade", 0.0, ">=", 0.1)
        shade = float("nan") if "dark" in row["prompt"] and row["seed"] == 1 else row["seed"] * 7 % 5 / 10
        return {"shade": shade, "drawn": float(row["latent"]["drawn"])}


class Finish(Step):
    """The last one: what `videos` shows."""

    kind = "video"
    writes = pa.schema(
        [("width", pa.int64()), ("height", pa.int64()), ("n_frames", pa.int64()), ("fps", pa.float64()), *ARTIFACT]
    )

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent")})

    def process(self, row: Row) -> Row:
        drawn = hashlib.sha256(self.workspace.read(row["latent"]["uri"])).digest()
        frames = np.resize(np.frombuffer(drawn, np.uint8), (8, 16, 16, 3))
        kept = self.workspace.put(write_video(frames, 8, preset="ultrafast"), ".mp4")
        return {"width": 16, "height": 16, "n_frames": 8, "fps": 8.0, **kept}


class MarkCopies(Dedup):
    """Says what is a copy of what, and keeps all of them."""

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        rows = super().run(tables).to_pylist()
        kept = [{**row, "status": "ok", "reasons": [], "duplicate_of": ""} for row in rows]
        return pa.Table.from_pylist(kept, self.writes)


class Spread(Step):
    """A quality check of a latent of the real cascade, by what its row says of it."""

    kind = "qc"
    writes = pa.schema([("spread", pa.float64())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent", columns=("std",))})

    def process(self, row: Row) -> Row:
        return {"spread": float(row["latent"]["std"])}


class Watch(Step):
    """A quality check of a finished video."""

    kind = "qc"
    writes = pa.schema([("length", pa.int64())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"video": Port(kind="video")})

    def process(self, row: Row) -> Row:
        return {"length": row["video"]["n_frames"]}
