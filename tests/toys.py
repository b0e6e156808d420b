"""Steps and jobs for tests of the core: small, quick, and real (they write files, fan out, refuse and fail)."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from stages.core.config import make_ref
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.planning.binding import make_plan
from stages.core.planning.plan import Plan
from stages.core.step import (
    ARTIFACT,
    Inputs,
    Job,
    PermanentError,
    Port,
    Rejected,
    Row,
    Skipped,
    Step,
    StepRef,
)

CALLS: Counter[str] = Counter()
"""How often a step was called for a text, in this process."""
EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"
TROUBLE: dict[str, str] = {}
"""What happens to a text in `Words`: transient, permanent, reject, skip or memory. Emptied by whoever fills it."""
CALLS_LOCK = threading.Lock()

ROOTS = pa.schema(
    [
        ("id", pa.string()),
        ("position", pa.int64()),
        ("extra", pa.string()),
        ("place", pa.string()),
        ("text", pa.string()),
        ("seed", pa.int64()),
    ]
)


class Words(Step):
    """One file a text. Takes with the same text share it."""

    kind = "words"
    version = 2
    writes = pa.schema([("length", pa.int64()), *ARTIFACT])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        suffix: str = ""
        pause: float = 0.0

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(depends=("text",))

    def process(self, row: Row) -> Row:
        with CALLS_LOCK:
            CALLS[row["text"]] += 1
        time.sleep(self.config.pause)
        _trouble(row["text"])
        text = row["text"] + self.config.suffix
        return {"length": len(text), **self.workspace.put(text.encode(), ".txt")}


def _trouble(text: str) -> None:
    match TROUBLE.get(text):
        case "transient":
            raise ConnectionError("the line was cut")
        case "permanent":
            raise PermanentError("cannot be read")
        case "reject":
            raise Rejected("length", len(text), ">=", 100)
        case "skip":
            raise Skipped("duplicate_of", "another", "==", "none")
        case "memory":
            raise MemoryError("no memory left")


class Split(Step):
    """Child rows, each with a file; as many as `parts`."""

    kind = "parts"
    fan_out = True
    child_key = "part_id"
    writes = pa.schema([("part", pa.int64()), *ARTIFACT])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        parts: int = 2

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"words": Port(kind="words")}, depends=("seed",), draws=True)

    def process(self, row: Row) -> Row:
        text = self.workspace.read(row["words"]["uri"]).decode()
        made = [self.workspace.put(f"{text}/{row['seed']}/{i}".encode(), ".part") for i in range(self.config.parts)]
        return {"rows": [{"part": i, **file} for i, file in enumerate(made)]}


class Keep(Job):
    """The child rows with an even part."""

    kind = "kept"
    passes = True
    units = "parts"
    writes = pa.schema([("id", pa.string()), ("status", pa.string())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"parts": Port(kind="parts")})

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        rows = [{"id": r["id"], "status": "rejected" if r["part"] % 2 else "ok"} for r in tables["parts"].to_pylist()]
        return pa.Table.from_pylist(rows, self.writes)


class Mark(Step):
    """A number for a kept part."""

    kind = "mark"
    writes = pa.schema([("mark", pa.int64())])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        add: int = 1

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(depends=("id", "sha256"), carries=("uri",))

    def process(self, row: Row) -> Row:
        return {"mark": len(self.workspace.read(row["uri"])) + self.config.add}


class Odd(Step):
    """Gives what its config says, to see how the executor takes it."""

    writes = pa.schema([("number", pa.int64())])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        gives: str = "good"

    def setup(self) -> None:
        if self.config.gives == "no setup":
            raise FileNotFoundError(2, "no weights")

    def process(self, row: Row) -> Any:
        outputs: dict[str, Any] = {
            "good": {"number": 1},
            "extra": {"number": 1, "more": 2},
            "text": {"number": "one"},
            "huge": {"number": 1 << 80},
            "ledger": {"number": 1, "status": "ok"},
            "none": None,
        }
        if self.config.gives == "surrogate":
            raise OSError("bad name \udcff")
        return outputs[self.config.gives]


class Weighted(Step):
    """Has weights, so that their content and not their path enters its identity."""

    writes = pa.schema([("number", pa.int64())])
    weights: ClassVar[Mapping[str, tuple[str, ...]]] = {"model": ("encoder",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        model: str = ""
        revision: str = ""


USES = {"words": "Words", "split": "Split", "keep": "Keep", "mark": "Mark"}


def ref(name: str, use: str = "", **entry: Any) -> StepRef:
    """One of these steps as a config names it."""
    return make_ref(name, {"use": f"tests.toys:{use or USES[name]}", **entry})


def plan_of(*refs: StepRef) -> Plan:
    """A plan of these steps over takes, without a store."""
    return make_plan("toy", "roots/none.parquet", {r.name: r for r in refs}, ROOTS.names)


def roots(texts: list[tuple[str, int]]) -> list[Row]:
    """Takes of (text, seed)."""
    return [{"id": digest("take", t, s), "position": i, "text": t, "seed": s} for i, (t, s) in enumerate(texts)]


def toy_plan(
    catalog: Catalog, takes: list[tuple[str, int]], configs: Mapping[str, Mapping[str, Any]] | None = None
) -> Plan:
    """words (shared by takes of one text) -> split (children) -> keep (job) | mark over what was kept."""
    steps = {name: ref(name, **(configs or {}).get(name, {})) for name in USES}
    return planned(catalog, roots(takes), steps)


def planned(catalog: Catalog, rows: list[Row], steps: Mapping[str, StepRef], schema: pa.Schema = ROOTS) -> Plan:
    """The plan of these steps over these takes, which become the roots."""
    plan = make_plan("toy", "", steps, schema.names)
    path = catalog.put_roots(rows, schema, digest(rows), plan.phases[0].depends)
    return replace(plan, roots=path)


def safetensors(data: bytes) -> bytes:
    """A file with one tensor of these bytes."""
    tensor = {"x": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    header = json.dumps(tensor).encode()
    return len(header).to_bytes(8, "little") + header + data


def media(root: Path) -> dict[str, bytes]:
    """Every media file of a local store, by its path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / "media").rglob("*")) if p.is_file()}


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}
