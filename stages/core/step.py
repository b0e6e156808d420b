"""The contract between a piece of work and whatever runs it.

A `Step` turns each input row into one output row and can run anywhere, in any batch, twice. A `Job` looks at a whole
table. Neither knows Ray, Prefect or the catalog: a step reads its input rows, writes files through its `Workspace`, and
returns plain dictionaries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

import pyarrow as pa
from typing_extensions import TypeVar

from stages.core.identity import stage_seed
from stages.core.ledger.storage import Storage
from stages.core.rows import ARTIFACT as ARTIFACT
from stages.core.rows import REASON as REASON
from stages.core.rows import Row as Row


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a step asks for. Never part of a step's identity.

    cpus          CPUs of one worker; fractions are allowed
    gpus          GPUs of one worker; fractions are allowed
    memory_gb     gigabytes of memory of one worker; 0 asks for none in particular
    workers       workers of the step, at most
    batch_rows    rows that a worker is given at a time
    time_limit_s  seconds that one row may take, at most; 0: no limit. Only Ray enforces it; `local` ends no row
    attempts      attempts for a row that fails with a transient error
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0
    workers: int = 1
    batch_rows: int = 8
    time_limit_s: float = 0.0
    attempts: int = 3


@dataclass(frozen=True, kw_only=True)
class Port:
    """One kind of row that a step or job is handed.

    kind      what the row holds: `text`, `latent`, `signals`, `scores` ...: the `kind` of an earlier step
    required  without such a row the step does not apply to a unit; else it is handed None
    columns   only rows that have these columns count (all of them; any of them where `many`)
    child     the step's units are child rows, and it is handed the child row of its own unit
    many      jobs only: the rows of every earlier node that fits, each as a table of its own under the node's name
    """

    kind: str
    required: bool = True
    columns: tuple[str, ...] = ()
    child: bool = False
    many: bool = False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a step or job reads, and nothing else is handed to it.

    ports    name -> the kind of row; their ids enter the identity of what is made, in this order
    depends  columns of the unit whose values decide the result, and so enter its identity
    carries  columns that it is handed and that must not decide it: where a thing lies, as against what it is
    when     columns of which one must be there (neither null nor empty) for the step to apply to a unit
    draws    whether it draws random numbers: then `seed` is among `depends`, and the node's name enters its identity
    units    jobs only: columns of the units, handed as the table `units`
    tables   jobs only: tables of the store that no node makes -> the column that names a unit, "" for the whole table
    per      jobs only: each group of units that agree in these columns is decided once its own units have ended; ()
             for all units at once
    """

    ports: Mapping[str, Port] = field(default_factory=dict)
    depends: tuple[str, ...] = ()
    carries: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    draws: bool = False
    units: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    per: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.draws and "seed" not in self.depends:
            raise TypeError("a step that draws random numbers must have `seed` among `depends`")
        if both := set(self.depends) & set(self.carries):
            raise TypeError(f"{sorted(both)} cannot both decide a result and be carried")
        if clash := set(self.ports) & {*self.depends, *self.carries}:
            raise TypeError(f"{sorted(clash)} name both a port and a column of the unit")


class UndeclaredRead(KeyError):
    """Raised where a step reads what it has not declared: that would decide a result without entering its identity."""


class InputRow(dict[str, Any]):
    """The declared columns and ports of one unit. Reading anything else raises, also by `get` and `in`."""

    def __missing__(self, key: str) -> Any:
        raise UndeclaredRead(f"{key!r} is not among the inputs that the step declares ({', '.join(self)})")

    def get(self, key: str, default: Any = None) -> Any:
        """The value, `default` where it is null. Raises UndeclaredRead."""
        value = self[key]
        return default if value is None else value

    def __contains__(self, key: object) -> bool:
        return self[str(key)] is not None


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

    @contextmanager
    def opened(self, uri: str) -> Iterator[Path]:
        """`read` for what may be larger than memory: within it, the file lies on local disk."""
        if (there := self.storage.local_path(uri)) is not None:
            if not there.is_file():
                self.storage.read(uri)  # which says what is not there
            yield there
            return
        with tempfile.TemporaryDirectory(prefix="rushes-") as folder:
            copy = Path(folder) / Path(uri).name
            self.storage.fetch(uri, copy)
            yield copy


class Rejected(Exception):
    """Raised by `process` for a row that is sound but refused; carries typed reasons for the ledger.

    columns: what the row holds all the same, as an ok one would
    """

    def __init__(self, metric: str, value: object, op: str, threshold: object) -> None:
        super().__init__(f"{metric} is {value}, required {op} {threshold}")
        self.reasons = [reason(metric, value, op, threshold)]
        self.columns: Row = {}

    @classmethod
    def because(cls, reasons: Sequence[Row], columns: Row) -> Self:
        """For several reasons (at least one), each as `reason` makes it."""
        first = reasons[0]
        refused = cls(first["metric"], first["value"], first["op"], first["threshold"])
        refused.reasons, refused.columns = list(reasons), columns
        return refused


def reason(metric: str, value: object, op: str, threshold: object) -> Row:
    """Why a row is refused: a REASON, but for the step, which whoever runs it adds."""
    return {"metric": metric, "value": str(value), "op": op, "threshold": str(threshold)}


class Skipped(Rejected):
    """Raised by `process` for a row that needs no work here, a duplicate for example."""


class PermanentError(Exception):
    """Raised for bad input or bad media: running it again gives the same, so a rerun leaves it alone."""


class AbsentError(PermanentError):
    """Raised where a file holds something else than what the row was planned for: every run looks again."""


C = TypeVar("C", default=Any)
"""A step's own `Config`."""


class Step(Generic[C]):
    """Row-parallel work. Subclasses set the class variables, nest a frozen `Config`, declare `inputs`, write `process`.

    kind       what an output row holds; ports of later steps ask for it
    version    bump it when the same config would now give other output
    writes     the columns of an output row; enforced when it is committed
    fan_out    whether an output row is {"rows": [...]}, each of them with the columns of `writes`
    child_key  of a step whose child rows become units: the column in which child rows of other steps name them
    heft       the input column (a number) that tells how long a row takes, where rows differ widely: the longest are
               handed out first, so that none of them is left running alone at the end
    resources  the defaults of what a worker asks for; `resources:` in a config entry replaces single fields
    weights    config fields that hold a checkpoint folder or file -> the parts below it that this step loads (() for
               all). The content of these enters the step's identity, the path does not.
    """

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    writes: ClassVar[pa.Schema] = pa.schema([])
    fan_out: ClassVar[bool] = False
    child_key: ClassVar[str] = ""
    heft: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources()
    weights: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The step's settings: everything here changes the output and so enters its identity."""

    def __init__(self, config: C, workspace: Workspace, name: str = "") -> None:
        self.config = config
        self.workspace = workspace
        self.name = name or type(self).__name__.lower()

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        """What a step with this config reads. Answers without torch; a family looks into its checkpoint's JSON."""
        return Inputs()

    @classmethod
    def needed(cls, config: Any) -> bool:
        """Whether a plan with this config has any use for the step; where not, the plan is made without it."""
        return True

    @classmethod
    def weights_of(cls, config: Any) -> Mapping[str, tuple[str, ...]]:
        """`weights`, where these depend on the config."""
        return cls.weights

    @classmethod
    def check_unit(cls, config: Any, values: Row) -> None:
        """Raise BadInput where this step cannot make what a unit asks for. values: the columns of `depends`. Called
        while planning, before any work, once for each combination of values; answers without torch."""

    def seed_for(self, row: Row, counter: int = 0) -> int:
        """The seed of this node's generator for a unit, 0 <= value < 2**63; counter for further draws for the same."""
        return stage_seed(int(row["seed"]), self.name, counter)

    def setup(self) -> None:
        """Load weights. Called once per worker, before the first row, on the worker."""

    def process(self, row: Row) -> Row:
        """The output of one unit: a value for each column of `writes`, or {"rows": [...]} where `fan_out`.

        row holds the declared columns of the unit, and by the name of each port the row that fills it, or None; any
        other key raises UndeclaredRead. Raises Rejected or Skipped for a typed reason, PermanentError for bad input;
        any other exception counts as transient and is tried again. Must give the same bytes whenever it is run on the
        same row, and must not let a carried value enter them.
        """
        raise NotImplementedError


class Job(Generic[C]):
    """Work on many rows at once: the tables that it names, to one table. A job decides whether, never what: its ids
    enter no identity.

    `run` must not depend on the order of rows. The result is kept under the step's fingerprint and a digest of what it
    read, so that the same question is never computed twice. `writes` holds the columns of the result; it must have an
    `id` column.

    passes  whether its `ok` rows are the units of the steps behind it; it then writes a `status`
    units   of a job that passes: "" where its ids are those of its own units, a kind where they are those of that
            kind's child rows, `own` where it makes new units
    recalls of a job that decides by group: whether `run` is also given the table `earlier`, the rows of all its results
            so far that name a unit of the group; they enter no digest

    Of a unit that it decides by group, a job may say WAITING for its status: what people write in a table that it reads
    is to come. Such a unit goes nowhere, a run ends without it, and it is decided again once that table has changed.
    """

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    writes: ClassVar[pa.Schema] = pa.schema([])
    passes: ClassVar[bool] = False
    units: ClassVar[str] = ""
    recalls: ClassVar[bool] = False
    resources: ClassVar[Resources] = Resources()
    weights: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The job's settings."""

    def __init__(self, config: C, workspace: Workspace, name: str = "") -> None:
        self.config = config
        self.workspace = workspace
        self.name = name or type(self).__name__.lower()

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        """What a job with this config reads."""
        return Inputs()

    @classmethod
    def writes_of(cls, config: Any) -> pa.Schema:
        """`writes`, where the columns depend on the config."""
        return cls.writes

    @classmethod
    def weights_of(cls, config: Any) -> Mapping[str, tuple[str, ...]]:
        """`weights`, where these depend on the config."""
        return cls.weights

    def columns(self, table: str) -> tuple[str, ...]:
        """The columns of one of its tables that `run` looks at, as far as that table has them; () for all. Where tables
        have millions of rows, reading no more than this is what a job costs."""
        return ()

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """The result for these input tables: by port, by node where a port takes many, and `units`."""
        raise NotImplementedError


WAITING = "waiting"
"""The status of a unit that waits for what people are to say of it."""
OWN_UNITS = "own"
"""`Job.units` of a job whose rows are new units."""


@dataclass(frozen=True)
class StepRef:
    """A step as a config names it: import path, checked config, resources. Plain data, so it crosses processes.

    after   the nodes that its ports are bound to, where not to the nearest that fit
    before  the node before which it has its place in the plan, where not the one in which it is written
    """

    name: str
    use: str
    config: Any
    resources: Resources
    fingerprint: str = ""
    after: tuple[str, ...] = ()
    before: str = ""
