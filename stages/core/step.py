"""The contract between a piece of work and whatever runs it.

A `Step` turns each input row into one output row and can run anywhere, in any batch, twice. A `Job` looks at a whole
table. Neither knows Ray, Prefect or the catalog: a step reads its input rows, writes files through its `Workspace`, and
returns plain dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from stages.core.ledger.storage import Storage

Row = dict[str, Any]

REASON = pa.struct(
    [
        ("step", pa.string()),
        ("metric", pa.string()),
        ("value", pa.string()),
        ("op", pa.string()),
        ("threshold", pa.string()),
    ]
)
"""Why a row is not `ok`. Values are text, so that one type holds numbers, labels and ids."""

ARTIFACT = [("uri", pa.string()), ("sha256", pa.string()), ("size", pa.int64())]
"""The columns of a row that points at a file in the store: what `Workspace.put` returns."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a step asks for. Never part of a step's identity.

    cpus and gpus may be fractions. memory_gb is 0 where nothing is asked for. batch_rows is how many rows a worker is
    handed at a time; time_limit_s, where not 0, is the longest that one row may take.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0
    workers: int = 1
    batch_rows: int = 8
    time_limit_s: float = 0.0
    attempts: int = 3


Launch = Callable[[str, Row, Mapping[str, Any], Callable[[], bool], Callable[[str], None]], Row]
"""Runs `module:function` in a group of workers: (entry, settings, what the group asks for, stop, say) -> its answer.

The function is given the settings, a `stop` to ask and a `say` for lines of progress; the first worker's answer counts.
"""


def never() -> bool:
    """What asks nobody to stop."""
    return False


@dataclass(frozen=True)
class Workspace:
    """All that a step may touch of the outside world: the store, and how many threads it may use.

    A job, which may take long, also learns whether it should `stop`, and may `launch` a group of workers where there
    is an executor that can.
    """

    storage: Storage
    threads: int = 1
    stop: Callable[[], bool] = never
    launch: Launch | None = None

    def put(self, data: bytes, suffix: str) -> Row:
        """Keep a file under the name of its content; the answer fills the columns `uri`, `sha256`, `size`."""
        return self.storage.put_media(data, suffix)

    def put_file(self, path: Path, suffix: str) -> Row:
        """`put` for what lies in a local file, which may be larger than memory."""
        return self.storage.put_media_file(path, suffix)

    def read(self, uri: str) -> bytes:
        """The bytes of a file that a row's `uri` names."""
        return self.storage.read(uri)


class Rejected(Exception):
    """Raised by `process` for a row that is sound but refused; carries typed reasons for the ledger."""

    def __init__(self, metric: str, value: object, op: str, threshold: object) -> None:
        super().__init__(f"{metric} is {value}, wanted {op} {threshold}")
        self.reason = {"metric": metric, "value": str(value), "op": op, "threshold": str(threshold)}


class Skipped(Rejected):
    """Raised by `process` for a row that needs no work here, a duplicate for example."""


class PermanentError(Exception):
    """Raised for bad input or bad media: running it again gives the same, so a rerun leaves it alone."""


class Step:
    """Row-parallel work. Subclasses set the class variables, nest a frozen `Config`, and write `process`.

    version   bump it when the same config would now give other output
    reads     the input columns that `process` looks at, for the reader; `latent` stands for whichever stage made it
    writes    the columns of an output row; enforced when it is committed
    fan_out   whether an output row is {"rows": [...]}, each of them with the columns of `writes`
    seeded    whether the take's seed enters the row's identity and arrives as row["seed"]
    heft      the input column (a number) that tells how long a row takes, where rows differ widely: the longest are
              handed out first, so that none of them is left running alone at the end
    resources the defaults of what a worker asks for; `resources:` in a config entry replaces single fields
    weights   config fields that hold a checkpoint folder or file -> the parts below it that this step loads (() for
              all). The content of these enters the step's identity, the path does not.
    """

    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[pa.Schema] = pa.schema([])
    fan_out: ClassVar[bool] = False
    seeded: ClassVar[bool] = False
    heft: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources()
    weights: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The step's settings: everything here changes the output and so enters its identity."""

    def __init__(self, config: Any, workspace: Workspace) -> None:
        self.config = config
        self.workspace = workspace

    def setup(self) -> None:
        """Load weights. Called once per worker, before the first row, on the worker."""

    def process(self, row: Row) -> Row:
        """The output of one input row: a value for each column of `writes`, or {"rows": [...]} where `fan_out`.

        Raises Rejected or Skipped for a typed reason, PermanentError for bad input; any other exception counts as
        transient and is tried again. Must give the same bytes whenever it is run on the same row.
        """
        raise NotImplementedError


class Job:
    """Whole-table work: its input is every row of the tables it names, its output one table.

    `run` must not depend on the order of rows. The result is kept under the step's fingerprint and a digest of the
    input ids, so that the same question is never computed twice. `writes` holds the columns of the result; it must
    have an `id` column.
    """

    version: ClassVar[int] = 1
    writes: ClassVar[pa.Schema] = pa.schema([])
    resources: ClassVar[Resources] = Resources()
    weights: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The job's settings."""

    def __init__(self, config: Any, workspace: Workspace) -> None:
        self.config = config
        self.workspace = workspace

    def columns(self, table: str) -> tuple[str, ...]:
        """The columns of one of its tables that `run` looks at, as far as that table has them; () for all. Where tables
        have millions of rows, reading no more than this is what a job costs."""
        return ()

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """The result for these input tables, by name."""
        raise NotImplementedError


@dataclass(frozen=True)
class StepRef:
    """A step as a config names it: import path, checked config, resources. Plain data, so it crosses processes."""

    name: str
    use: str
    config: Any
    resources: Resources
    fingerprint: str = ""
    extra: Row = field(default_factory=dict)
