"""Steps and jobs whose inputs are said by their config, for plans of every shape, gates and groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.core.config import make_ref
from stages.core.identity import digest
from stages.core.step import Inputs, Job, PermanentError, Port, Rejected, Row, Step, StepRef

CALLS: Counter[tuple[str, str]] = Counter()
"""How often a node made something of a text, in this process."""
ROOTS = pa.schema(
    [
        ("id", pa.string()),
        ("position", pa.int64()),
        ("text", pa.string()),
        ("style", pa.string()),
        ("extra", pa.string()),
        ("size", pa.int64()),
        ("tags", pa.list_(pa.string())),
        ("place", pa.string()),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Asks:
    """What a step of these reads, and of what it makes nothing: one in so many values, by `fails` and `refuses`."""

    depends: list[str] = field(default_factory=lambda: ["text"])
    when: list[str] = field(default_factory=list)
    note: bool = False
    fails: int = 0
    refuses: int = 0


def _made(step: Step[Any], row: Row, *parents: str) -> str:
    """A value of what is handed in; raises for some, by their hash."""
    asks = step.config
    values = [row[c] for c in sorted(asks.depends)]
    ports = [row[name]["id"] if row[name] else None for name in parents]
    CALLS[step.name, str(row[asks.depends[0]]) if asks.depends else ""] += 1
    made = digest(step.name, values, ports)
    if asks.fails and int(made[:8], 16) % asks.fails == 0:
        raise PermanentError("cannot be made")
    if asks.refuses and int(made[8:16], 16) % asks.refuses == 0:
        raise Rejected("hash", made, "==", "another")
    return made


class Source(Step[Asks]):
    """The first latent of a cascade."""

    kind = "latent"
    writes = pa.schema([("value", pa.string())])
    Config = Asks

    @classmethod
    def inputs(cls, config: Asks) -> Inputs:
        return Inputs(depends=tuple(config.depends), when=tuple(config.when))

    def process(self, row: Row) -> Row:
        return {"value": _made(self, row)}


class Latent(Step[Asks]):
    """A latent made of the one before, and of a note where the config asks for it and there is one."""

    kind = "latent"
    writes = pa.schema([("value", pa.string())])
    Config = Asks

    @classmethod
    def inputs(cls, config: Asks) -> Inputs:
        ports = {"latent": Port(kind="latent")}
        if config.note:
            ports["note"] = Port(kind="note", required=False)
        return Inputs(ports=ports, depends=tuple(config.depends), when=tuple(config.when))

    def process(self, row: Row) -> Row:
        return {"value": _made(self, row, *(["latent", "note"] if self.config.note else ["latent"]))}


class Note(Step[Asks]):
    """Something on the side."""

    kind = "note"
    writes = pa.schema([("value", pa.string())])
    Config = Asks

    @classmethod
    def inputs(cls, config: Asks) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent")}, depends=tuple(config.depends), when=tuple(config.when))

    def process(self, row: Row) -> Row:
        return {"value": _made(self, row, "latent")}


class Pieces(Step[Asks]):
    """Two child rows, which may become units."""

    kind = "pieces"
    fan_out = True
    child_key = "piece_id"
    writes = pa.schema([("piece", pa.int64()), ("value", pa.string())])
    Config = Asks

    @classmethod
    def inputs(cls, config: Asks) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent")}, depends=tuple(config.depends), when=tuple(config.when))

    def process(self, row: Row) -> Row:
        made = _made(self, row, "latent")
        return {"rows": [{"id": digest(made, i), "piece": i, "value": f"{made}/{i}"} for i in range(2)]}


class Measures(Step[Asks]):
    """A child row for the first piece of each only: it names the piece."""

    kind = "measures"
    fan_out = True
    writes = pa.schema([("piece_id", pa.string()), ("measure", pa.int64())])
    Config = Asks

    @classmethod
    def inputs(cls, config: Asks) -> Inputs:
        return Inputs(ports={"pieces": Port(kind="pieces")}, depends=tuple(config.depends), when=tuple(config.when))

    def process(self, row: Row) -> Row:
        made = _made(self, row, "pieces")
        return {"rows": [{"piece_id": row["pieces"]["rows"][0]["id"], "measure": int(made[:4], 16)}]}


class PassPieces(Job[Any]):
    """Every piece becomes a unit."""

    kind = "passed"
    passes = True
    units = "pieces"
    writes = pa.schema([("id", pa.string()), ("status", pa.string())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"pieces": Port(kind="pieces")})

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        ids = sorted(set(tables["pieces"]["id"].to_pylist()))
        return pa.Table.from_pylist([{"id": i, "status": "ok"} for i in ids], self.writes)


class PassSome(Job[Any]):
    """Units go on, but for one in `drops`; with their rows in a column, whatever became of these."""

    kind = "passed"
    passes = True
    writes = pa.schema([("id", pa.string()), ("status", pa.string()), ("standing", pa.string())])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        drops: int = 0

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent", required=False)}, units=("position",))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        found = {r["unit_id"]: r["status"] for r in tables["latent"].to_pylist()}
        rows = [
            {
                "id": u["id"],
                "standing": found.get(u["id"], "none"),
                "status": "rejected" if self.config.drops and int(u["id"][:4], 16) % self.config.drops == 0 else "ok",
            }
            for u in tables["units"].to_pylist()
        ]
        return pa.Table.from_pylist(rows, self.writes)


class OfPiece(Step[Asks]):
    """Over pieces: with the measure of the piece, where there is one."""

    kind = "of_piece"
    writes = pa.schema([("value", pa.string())])
    Config = Asks

    @classmethod
    def inputs(cls, config: Asks) -> Inputs:
        ports = {
            "measure": Port(kind="measures", required=config.note, child=True),
            "latent": Port(kind="latent", required=False),
        }
        return Inputs(ports=ports, depends=("id", *config.depends), when=tuple(config.when))

    def process(self, row: Row) -> Row:
        return {"value": _made(self, row, "measure", "latent")}


class Draw(Step[Any]):
    """Keeps the seed of its generator."""

    kind = "latent"
    writes = pa.schema([("drawn", pa.int64())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"latent": Port(kind="latent", required=False)}, depends=("seed",), draws=True)

    def process(self, row: Row) -> Row:
        return {"drawn": self.seed_for(row)}


class Peek(Step[Any]):
    """Reads what it has not declared, in one of three ways."""

    kind = "peek"
    writes = pa.schema([("value", pa.string())])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        way: str = "item"

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(depends=("text",))

    def process(self, row: Row) -> Row:
        match self.config.way:
            case "item":
                return {"value": row["place"]}
            case "get":
                return {"value": row.get("place", "")}
            case "in":
                return {"value": str("place" in row)}
        return {"value": row["text"]}


class Load(Step[Any]):
    """Reads a file from where the unit says that it lies."""

    kind = "loaded"
    writes = pa.schema([("content", pa.string())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(depends=("text",), carries=("place",), when=("place",))

    def process(self, row: Row) -> Row:
        CALLS[self.name, row["place"]] += 1
        return {"content": Path(row["place"]).read_text()}


class Score(Step[Any]):
    """The number that a take's text ends in, moved by its seed: what a gate ranks by."""

    kind = "score"
    writes = pa.schema([("score", pa.float64()), ("other", pa.float64())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(depends=("text", "seed"))

    def process(self, row: Row) -> Row:
        CALLS[self.name, f"{row['text']}/{row['seed']}"] += 1
        _refuse(row["text"])
        return {"score": float(row["seed"] * 7 % 5), "other": float(-row["seed"])}


REFUSED: dict[str, Exception] = {}
"""What `Score` and `Finish` raise for a text. Emptied by whoever fills it."""


def _refuse(text: str) -> None:
    if text in REFUSED:
        raise REFUSED[text]


class Gate(Job[Any]):
    """The best takes of each group go on: by a column of the score, or by how many reviews praise them."""

    kind = "gate"
    passes = True
    writes = pa.schema([("id", pa.string()), ("status", pa.string()), ("rank", pa.int64())])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        by: str = "score"
        top: int = 1
        per: list[str] = field(default_factory=lambda: ["text"])
        reviews: bool = False

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        tables = {"reviews": "take_id"} if config.reviews else {}
        return Inputs(ports={"score": Port(kind="score")}, units=("seed",), tables=tables, per=tuple(config.per))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        scores = [r for r in tables["score"].to_pylist() if r["status"] == "ok"]
        praise = Counter(r["take_id"] for r in tables["reviews"].to_pylist()) if self.config.reviews else Counter()
        ranked = sorted(scores, key=lambda r: (-praise[r["unit_id"]], -r[self.config.by], r["unit_id"]))
        CALLS[self.name, ",".join(sorted(r["unit_id"] for r in scores))] += 1
        rows = [
            {"id": r["unit_id"], "rank": i, "status": "ok" if i < self.config.top else "rejected"}
            for i, r in enumerate(ranked)
        ]
        lost = {u["id"] for u in tables["units"].to_pylist()} - {r["id"] for r in rows}
        rows += [{"id": unit, "rank": -1, "status": "rejected"} for unit in sorted(lost)]
        return pa.Table.from_pylist(rows, self.writes)


class Finish(Step[Any]):
    """What is made of a winner."""

    kind = "finished"
    writes = pa.schema([("film", pa.string())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"score": Port(kind="score")}, depends=("text",))

    def process(self, row: Row) -> Row:
        CALLS[self.name, row["text"]] += 1
        _refuse(f"film of {row['text']}")
        return {"film": f"{row['text']} {row['score']['score']}"}


def ref(name: str, use: str, **entry: Any) -> StepRef:
    """One of these as a config names it."""
    return make_ref(name, {"use": f"tests.toy_plans:{use}", **entry})


def takes(*values: Mapping[str, Any]) -> list[Row]:
    """Takes with these columns; their order is that in which they are given."""
    return [{"id": digest("take", sorted(v.items())), "position": i, **v} for i, v in enumerate(values)]


def shots(texts: Mapping[str, int]) -> list[Row]:
    """Takes of text -> how many seeds; all of the first text come first."""
    return takes(*({"text": text, "seed": seed} for text, n in texts.items() for seed in range(n)))
