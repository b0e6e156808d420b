"""Plans: which rows a run needs, which are there, which are to do. A view is a plan that is read instead of run.

A plan is an ordered list of steps and jobs over *units* (a campaign's takes, a curation's files). Each step makes one
ledger row per unit to which it applies, from the rows that fill its ports. A job that `passes` ends a phase: its `ok`
rows are the units of what stands behind it. The same SQL serves resume, --dry-run, status and tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from stages.core.errors import BadInput
from stages.core.identity import is_safe_name
from stages.core.step import OWN_UNITS, StepRef

ROOT_UNITS = "roots"
RESERVED = ("unit", "unit_id", "unit_order", "parent_id", "units", ROOT_UNITS)


@dataclass(frozen=True)
class Binding:
    """What fills one port of a node: the row of the first of `nodes` that applies to a unit; all of them where `many`.

    child: the child row of the node that belongs to the unit, which is a child row itself.
    """

    port: str
    nodes: tuple[str, ...]
    required: bool = True
    child: bool = False
    many: bool = False


@dataclass(frozen=True)
class Node:
    """One step or job of a plan. The fields are those of `Step`, `Job` and `Inputs`, bound to this plan.

    passes   None for what does not end a phase; else the node whose child rows it passes on, "" for its own units,
             `own` for new ones
    config   the step's checked config as JSON text; for people who ask where a row came from
    weights  (config field, digest of the weights that it names), for the same
    """

    name: str
    use: str
    fingerprint: str
    kind: str = ""
    ports: tuple[Binding, ...] = ()
    depends: tuple[str, ...] = ()
    carries: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    fan_out: bool = False
    child_key: str = ""
    job: bool = False
    passes: str | None = None
    per: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    tables: tuple[tuple[str, str], ...] = ()
    attempts: int = 3
    config: str = "{}"
    weights: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Node:
        """From what `dataclasses.asdict` and JSON make of a node."""
        ports = tuple(Binding(**{**p, "nodes": tuple(p["nodes"])}) for p in raw.pop("ports"))
        for name in ("weights", "tables"):
            raw[name] = tuple((a, b) for a, b in raw[name])
        for name in ("depends", "carries", "when", "per", "units"):
            raw[name] = tuple(raw[name])
        return cls(**raw, ports=ports)

    @property
    def sources(self) -> tuple[str, ...]:
        """Every node whose rows may fill one of its ports."""
        return tuple(dict.fromkeys(name for p in self.ports for name in p.nodes))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the unit that it is handed or judged by."""
        return tuple(dict.fromkeys((*self.depends, *self.carries, *self.when)))


@dataclass(frozen=True)
class Phase:
    """Nodes over the same units.

    name   `roots`, or the job whose `ok` rows are the units
    level  how often units have become other units on the way: child rows, or new ones
    units  as `Node.passes` of that job; "" for roots
    """

    name: str
    level: int
    units: str
    nodes: tuple[Node, ...]

    @property
    def steps(self) -> list[Node]:
        """The nodes that make rows of units."""
        return [n for n in self.nodes if not n.job]

    @property
    def jobs(self) -> list[Node]:
        """The others."""
        return [n for n in self.nodes if n.job]

    @property
    def depends(self) -> list[tuple[str, ...]]:
        """The sets of columns on which its steps depend, each once."""
        return list(dict.fromkeys(tuple(sorted(n.depends)) for n in self.steps if n.depends))

    @property
    def columns(self) -> list[str]:
        """The columns of its units that its steps are handed or judged by."""
        return list(dict.fromkeys(c for n in self.steps for c in n.columns))


@dataclass(frozen=True)
class Plan:
    """What a run does. Serialises to JSON, so that a later process can read the run as a view."""

    flow: str
    roots: str
    nodes: tuple[Node, ...]
    refs: Mapping[str, StepRef] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        names: set[str] = set()
        for name in (n.name for n in self.nodes):
            if not is_safe_name(name) or name.lower() in RESERVED:
                why = "it is reserved" if is_safe_name(name) else "use letters, digits, - and _"
                raise BadInput(f"steps: no step can be called {name!r}; {why}")
            if name.lower() in names:
                raise BadInput(f"steps: two steps are called {name!r} (upper and lower case count as one); rename one")
            names.add(name.lower())

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Its nodes, cut behind every job that passes units on."""
        return tuple(_phases(self.nodes))

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Its nodes by name."""
        return {n.name: n for n in self.nodes}

    @cached_property
    def _phase_of(self) -> dict[str, Phase]:
        return {n.name: p for p in self.phases for n in p.nodes}

    def node(self, name: str) -> Node:
        """The node of this name. Raises KeyError."""
        return self.by_name[name]

    def phase_of(self, name: str) -> Phase:
        """The phase that a node stands in. Raises KeyError."""
        return self._phase_of[name]

    def of_kind(self, kind: str) -> list[Node]:
        """The nodes whose rows hold this, in order."""
        return [n for n in self.nodes if n.kind == kind]

    def to_json(self) -> str:
        """All but the live step references."""
        return json.dumps({"flow": self.flow, "roots": self.roots, "nodes": [asdict(n) for n in self.nodes]})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan of an earlier run."""
        raw = json.loads(text)
        return cls(raw["flow"], raw["roots"], tuple(Node.from_dict(n) for n in raw["nodes"]))


def _phases(nodes: tuple[Node, ...]) -> Iterator[Phase]:
    name, level, units, members = ROOT_UNITS, 0, "", list[Node]()
    for node in nodes:
        members.append(node)
        if node.passes is None:
            continue
        yield Phase(name, level, units, tuple(members))
        name, units, members = node.name, node.passes, []
        level += node.passes != ""
    yield Phase(name, level, units, tuple(members))  # also without steps: its units are what came out at the end


__all__ = ["OWN_UNITS", "ROOT_UNITS", "Binding", "Node", "Phase", "Plan"]
