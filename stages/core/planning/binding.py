"""From checked steps in their order to a plan: which rows fill which ports, and what is missing or ambiguous."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from stages.core.config import load_class
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.planning.plan import OWN_UNITS, ROOT_UNITS, Binding, Node, Plan
from stages.core.reach.secrets import shown
from stages.core.step import Inputs, Job, Port, Step, StepRef
from stages.core.weights.digests import fingerprint, weights_identity

STANDARD_COLUMNS = frozenset({"id", "position"})


def make_plan(flow: str, roots: str, steps: Mapping[str, StepRef], columns: Iterable[str]) -> Plan:
    """The plan of these steps, in order, over units with these columns.

    Raises BadInput where a port can be filled by no earlier step or by several, where `after` names what fills none,
    and where a step reads a column that the units do not have.
    """
    binder = _Binder(set(columns) | STANDARD_COLUMNS)
    refs = {name: binder.add(ref) for name, ref in steps.items()}
    return Plan(flow, roots, tuple(binder.nodes), refs)


def until(steps: Mapping[str, StepRef], name: str) -> dict[str, StepRef]:
    """The steps up to this one. Raises BadInput where there is none of this name."""
    if name not in steps:
        raise BadInput(f"until: there is no step {name!r}; {nearest(name, steps)}")
    names = list(steps)
    return {n: steps[n] for n in names[: names.index(name) + 1]}


@dataclass
class _Binder:
    """The nodes so far, and what the units of the present phase are."""

    columns: set[str]
    nodes: list[Node] = field(default_factory=list)
    level: int = 0
    levels: dict[str, int] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    """level -> the column in which child rows of an earlier level name the units of this one."""

    def add(self, ref: StepRef) -> StepRef:
        """Bind one step; returns its reference with the fingerprint."""
        cls = load_class(ref.use, ref.name)
        inputs = cls.inputs(ref.config)
        mark = fingerprint(ref, drawing=inputs.draws)
        self._check_columns(ref.name, inputs)
        node = Node(
            name=ref.name,
            use=ref.use,
            fingerprint=mark,
            kind=cls.kind,
            ports=self._ports(ref, cls, inputs),
            depends=tuple(sorted(inputs.depends)),
            carries=inputs.carries,
            when=inputs.when,
            fan_out=issubclass(cls, Step) and cls.fan_out,
            child_key=cls.child_key if issubclass(cls, Step) else "",
            job=issubclass(cls, Job),
            per=inputs.per,
            units=inputs.units,
            tables=tuple(inputs.tables.items()),
            attempts=ref.resources.attempts,
            config=json.dumps(shown(asdict(ref.config)), default=str, sort_keys=True),
            weights=tuple(weights_identity(ref).items()),
        )
        if issubclass(cls, Job) and cls.passes:
            node = replace(node, passes=self._passes(ref.name, cls))
            if node.per and node.passes:
                raise BadInput(f"step {ref.name}: only a job that passes on units as they are can decide `per` group")
        self.nodes.append(node)
        self.levels[node.name] = self.level
        if node.passes is not None:
            self._next_phase(node, set(_writes(cls, ref)))
        return replace(ref, fingerprint=mark)

    # -- units -------------------------------------------------------------------------------------------------------

    def _check_columns(self, name: str, inputs: Inputs) -> None:
        for column in (*inputs.depends, *inputs.carries, *inputs.when, *inputs.units, *inputs.per):
            if column not in self.columns:
                raise BadInput(
                    f"step {name} reads the column {column!r}, which is not there; {nearest(column, self.columns)}"
                )

    def _passes(self, name: str, job: type[Job]) -> str:
        """Which node's child rows a job passes on: "" for none, `own` for units of its own."""
        if job.units in ("", OWN_UNITS):
            return job.units
        nodes = [n for n in self.nodes if n.kind == job.units and n.fan_out and self.levels[n.name] == self.level]
        if len(nodes) != 1:
            there = " and ".join(n.name for n in nodes)
            hint = f"{there} both do: leave all but one out (`enabled: false`)" if nodes else "there is none"
            raise BadInput(f"step {name} needs exactly one earlier step that makes {job.units}; {hint}")
        return nodes[0].name

    def _next_phase(self, node: Node, writes: set[str]) -> None:
        own = writes - {"status", "reasons"}
        self.level += node.passes != ""
        if node.passes == OWN_UNITS:
            self.columns = own | STANDARD_COLUMNS
        elif node.passes:
            parent = next(n for n in self.nodes if n.name == node.passes)
            self.columns |= own | set(load_class(parent.use, parent.name).writes.names)
            self.keys[self.level] = parent.child_key
        else:
            self.columns |= own

    # -- ports -------------------------------------------------------------------------------------------------------

    def _ports(self, ref: StepRef, cls: type[Step] | type[Job], inputs: Inputs) -> tuple[Binding, ...]:
        for name in ref.after:
            if not any(n.name == name for n in self.nodes):
                raise BadInput(
                    f"{ref.name}.after names {name!r}, which is not an earlier step; "
                    f"{nearest(name, [n.name for n in self.nodes])}"
                )
        bindings = tuple(self._bind(ref, name, port, issubclass(cls, Job)) for name, port in inputs.ports.items())
        bound = {name for b in bindings for name in b.nodes}
        for name in ref.after:
            if name not in bound:
                kinds = ", ".join(sorted({p.kind for p in inputs.ports.values()})) or "nothing"
                raise BadInput(f"{ref.name}.after: {name!r} makes nothing that the step reads ({kinds})")
        return bindings

    def _bind(self, ref: StepRef, name: str, port: Port, job: bool) -> Binding:
        fitting = [n for n in self.nodes if self._fits(n, port, job)]
        if port.many:
            named = [n for n in fitting if n.name in ref.after] or fitting
            return Binding(name, tuple(n.name for n in named), port.required, port.child, many=True)
        named = [n for n in fitting if n.name in ref.after]
        left = [n for n in named or fitting if not any(self._behind(n, o) for o in fitting if o in (named or fitting))]
        if len(left) > 1:
            raise BadInput(
                f"step {ref.name} needs {port.kind}, and {' and '.join(n.name for n in left)} both make it; say which: "
                f"{ref.name}.after={left[0].name}"
            )
        if not left and port.required:
            raise BadInput(f"step {ref.name} needs an earlier step that makes {port.kind}{self._hint(port, job)}")
        nodes = self._chain(left[0]) if left else ()
        return Binding(name, nodes, port.required and bool(nodes), port.child)

    def _fits(self, node: Node, port: Port, job: bool) -> bool:
        """Whether a node's rows are of the port's kind, and can be told apart by the units at hand."""
        if node.kind != port.kind:
            return False
        writes = set(load_class(node.use, node.name).writes.names)
        have = [c in writes for c in port.columns]
        if port.columns and not (any(have) if port.many else all(have)):
            return False
        if job:
            return True
        if node.job:
            return False
        level = self.levels[node.name]
        if level == self.level:
            return not port.child
        if any(self.keys.get(i, "") == "" for i in range(level + 1, self.level + 1)):
            return False  # new units lie between: nothing says which row belongs to which
        return (node.fan_out and self.keys[level + 1] in writes) == port.child

    def _behind(self, node: Node, other: Node) -> bool:
        """Whether another node of the same kind is made from this one, and so stands for it."""
        return other is not node and any(node.name in b.nodes for b in other.ports if other.kind == node.kind)

    def _chain(self, node: Node) -> tuple[str, ...]:
        """The node, then what it would itself be handed of its kind, for units to which it does not apply."""
        same = next((b for b in node.ports if b.nodes and self._kind(b) == node.kind), None)
        skipped = bool(node.when) or any(self._may_be_empty(b) for b in node.ports if b is not same)
        return (node.name, *(same.nodes if same and skipped else ()))

    def _kind(self, binding: Binding) -> str:
        return next(n.kind for n in self.nodes if n.name == binding.nodes[0])

    def _may_be_empty(self, binding: Binding) -> bool:
        """Whether there may be units for which nothing fills a port that is required."""
        by_name = {n.name: n for n in self.nodes}
        return binding.required and all(
            by_name[name].when or any(self._may_be_empty(b) for b in by_name[name].ports) for name in binding.nodes
        )

    def _hint(self, port: Port, job: bool) -> str:
        """Why the steps that make this kind do not count."""
        there = [n for n in self.nodes if n.kind == port.kind]
        if not there:
            kinds = sorted({n.kind for n in self.nodes if n.kind})
            return f"; earlier ones make {', '.join(kinds)}" if kinds else "; there is none"
        if not job and any(self.levels[n.name] != self.level for n in there):
            return f"; {there[0].name} belongs to other units: set `before`, so that this step comes earlier"
        return f" with the columns {', '.join(port.columns)}" if port.columns else ""


def _writes(cls: type[Step] | type[Job], ref: StepRef) -> list[str]:
    schema = cls.writes_of(ref.config) if issubclass(cls, Job) else cls.writes
    return list(schema.names)


__all__ = ["ROOT_UNITS", "make_plan", "until"]
