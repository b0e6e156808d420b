"""Plans: which rows a run needs, which are there, which are to do. A view is a plan that is read instead of run.

A plan is a list of phases. A phase takes *units* (a campaign's takes, the sources of a curation, its kept clips)
through *nodes*; each node makes one ledger row per unit from the row of the node before it. A job stands between
phases: it looks at whole tables and makes the units of the next. The same SQL serves resume, --dry-run, status, table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stages.core.config import load_class
from stages.core.errors import BadInput
from stages.core.identity import digest, is_safe_name
from stages.core.step import Job, Step, StepRef
from stages.core.weights.digests import fingerprint, weights_identity

ROOT_UNITS = "roots"
RESERVED = ("unit", "unit_id", "unit_order", "parent_id")


@dataclass(frozen=True)
class Node:
    """One step or job of a plan.

    after    the nodes whose rows it is given; the first decides its rows' identity, the others must be among that
             one's ancestors. Empty: it is given the unit itself.
    key      for a node without `after`: the unit's column that is its input's id (units that agree share one row)
    config   the step's checked config as JSON text; for people who ask where a row came from
    weights  (config field, digest of the weights that it names), for the same
    """

    name: str
    use: str
    fingerprint: str
    after: tuple[str, ...] = ()
    key: str = "id"
    seeded: bool = False
    fan_out: bool = False
    job: bool = False
    attempts: int = 3
    config: str = "{}"
    weights: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Node:
        """From what `dataclasses.asdict` and JSON make of a node."""
        weights = tuple((name, mark) for name, mark in raw.get("weights", ()))
        return cls(**{**raw, "after": tuple(raw["after"]), "weights": weights})


@dataclass(frozen=True)
class Phase:
    """Nodes over the same units.

    units    `roots`, or the node whose rows (child rows, where it fans out) are the units
    where    an SQL condition on the units, written by a flow, never by a user
    """

    name: str
    units: str
    nodes: tuple[Node, ...]
    where: str = "true"

    def __post_init__(self) -> None:
        seen: dict[str, set[str]] = {}
        for node in self.nodes:
            if node.job:
                continue
            unknown = [a for a in node.after if a not in seen]
            if unknown:
                raise BadInput(f"steps.{node.name}.after names {unknown[0]!r}, which is no earlier step")
            strangers = [a for a in node.after[1:] if a not in seen[node.after[0]]]
            if strangers:
                raise BadInput(f"steps.{node.name}.after: {strangers[0]!r} must come before {node.after[0]!r} too")
            seen[node.name] = {node.name, *(x for a in node.after for x in seen[a])}

    def chain(self, name: str) -> list[Node]:
        """The nodes whose rows lead to this node's rows, from the one that is given the unit to the node itself."""
        nodes = {n.name: n for n in self.nodes}
        found = [nodes[name]]
        while found[0].after:
            found.insert(0, nodes[found[0].after[0]])
        return found

    def shared_key(self, name: str) -> tuple[str, bool]:
        """The unit's column that decides a node's row, and whether the unit's seed does so too. Units that agree on
        these share the row; where the column is `id` each has its own."""
        chain = self.chain(name)
        return chain[0].key, any(n.seeded for n in chain)


@dataclass(frozen=True)
class Plan:
    """What a run does. Serialises to JSON, so that a later process can read the run as a view."""

    flow: str
    roots: str
    phases: tuple[Phase, ...]
    refs: Mapping[str, StepRef] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        names: set[str] = set()
        for name in (n.name for n in self.nodes):
            if not is_safe_name(name) or name.lower() in RESERVED:
                raise BadInput(f"steps.{name}: a step cannot have this name; use letters, digits, - and _")
            if name.lower() in names:
                raise BadInput(f"steps.{name}: two steps have this name (upper and lower case count as one)")
            names.add(name.lower())

    @property
    def nodes(self) -> Iterator[Node]:
        """Every node in order."""
        return (node for phase in self.phases for node in phase.nodes)

    def node(self, name: str) -> Node:
        """The node of this name. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def phase_of(self, name: str) -> Phase:
        """The phase that a node stands in."""
        return next(p for p in self.phases if any(n.name == name for n in p.nodes))

    def to_json(self) -> str:
        """All but the live step references."""
        return json.dumps({"flow": self.flow, "roots": self.roots, "phases": [asdict(p) for p in self.phases]})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan of an earlier run."""
        raw = json.loads(text)
        phases = []
        for phase in raw["phases"]:
            nodes = tuple(Node.from_dict(n) for n in phase.pop("nodes"))
            phases.append(Phase(**phase, nodes=nodes))
        return cls(raw["flow"], raw["roots"], tuple(phases))


def make_node(ref: StepRef, after: Sequence[str] = (), key: str = "id") -> tuple[Node, StepRef]:
    """The node of a step, fingerprinted, and its reference with that fingerprint."""
    cls = load_class(ref.use, ref.name)
    own = fingerprint(ref)
    mark = digest(own, list(after[1:])) if len(after) > 1 else own
    is_step = issubclass(cls, Step)
    node = Node(
        name=ref.name,
        use=ref.use,
        fingerprint=mark,
        after=tuple(after),
        key=key,
        seeded=is_step and cls.seeded,  # type: ignore[union-attr]
        fan_out=is_step and cls.fan_out,  # type: ignore[union-attr]
        job=issubclass(cls, Job),
        attempts=ref.resources.attempts,
        config=json.dumps(asdict(ref.config), default=str, sort_keys=True),
        weights=tuple(weights_identity(ref).items()),
    )
    filled = StepRef(ref.name, ref.use, ref.config, ref.resources, mark, dict(ref.extra))
    return node, filled
