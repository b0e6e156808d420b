"""How the nodes of a plan stand: what is known, what is complete, and how many rows are done."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from stages.core.identity import depends_key
from stages.core.planning import survey_sql
from stages.core.planning.groups import Groups
from stages.core.planning.plan import ROOT_UNITS, Node, Phase
from stages.core.planning.survey_views import Count, SurveyViews


class SurveyStanding(SurveyViews):
    """Questions about nodes and phases; see `stages.core.planning.survey.Survey`."""

    def _known(self, name: str) -> bool:
        """Whether there is something to read of a node; of a job that decides by group, what it has decided so far."""
        if name == ROOT_UNITS:
            return True
        node = self.plan.node(name)
        if node.per:
            return name in self._groups
        return name in self._jobs if node.job else self.plan.phase_of(name).name in self._phases

    def _complete(self, name: str) -> bool:
        """Whether all rows of a node are there that this plan will ever have."""
        node = self.plan.node(name)
        if node.per:
            return name in self._groups and self._groups[name].complete and self._ended(self.plan.phase_of(name))
        if node.job:
            return name in self._jobs
        phase = self.plan.phase_of(name)
        if phase.name not in self._phases or not self.units_complete(phase):
            return False
        count = self.count(name)
        return not (count.todo or count.waiting)

    def _ended(self, phase: Phase) -> bool:
        return self.units_complete(phase) and not any(
            c.todo or c.waiting for n in phase.steps if (c := self.count(n.name))
        )

    def units_known(self, phase: Phase) -> bool:
        """Whether some units of a phase can be listed already."""
        return phase.name in self._phases

    def units_complete(self, phase: Phase) -> bool:
        """Whether all units of a phase are known."""
        return phase.name in self._phases and (phase.name == ROOT_UNITS or self._complete(phase.name))

    def shared(self, phase: Phase) -> dict[str, bool]:
        """Of each step of a phase, whether some units share a row of it. Distinct roots need no counting."""
        if phase.name not in self._shared:
            asked = [n for n in phase.steps if not self._is_distinct(phase, n)]
            columns = ", ".join(f'count(DISTINCT "share_{n.name}") < count(*)' for n in asked)
            row = self._one(f'SELECT {columns} FROM "s_{phase.name}"') if asked else ()
            counted = {n.name: bool(v) for n, v in zip(asked, row, strict=True)}
            self._shared[phase.name] = {n.name: counted.get(n.name, False) for n in phase.steps}
        return self._shared[phase.name]

    def _is_distinct(self, phase: Phase, node: Node) -> bool:
        """Whether no two roots share the values that a node is made from, its own or those of its required inputs."""
        if phase.name != ROOT_UNITS:
            return False
        if node.depends and depends_key(node.depends) in self._distinct:
            return True
        required = [self.plan.node(b.nodes[0]) for b in node.ports if b.required and len(b.nodes) == 1]
        return any(self._is_distinct(phase, n) for n in required)

    def count(self, name: str) -> Count:
        """How one node stands. Units that share a row count once; a job counts its groups, or itself."""
        node, phase = self.plan.node(name), self.plan.phase_of(name)
        if node.per:
            groups = self._groups.get(name) or Groups(node, ())
            decided = sum(g.decided and not g.held for g in groups.all)
            ready = sum(g.ended and not g.decided for g in groups.all)
            return Count(decided, ready, len(groups.all) - decided - ready, 0)
        if node.job:
            return Count(*((1, 0, 0, 0) if name in self._jobs else (0, 1, 0, 0)))
        if name not in self._counts and phase.name in self._phases:
            row = self._one(survey_sql.counts(phase, self.shared(phase)))
            self._counts |= {n.name: Count(*row[4 * i : 4 * i + 4]) for i, n in enumerate(phase.steps)}
        return self._counts.get(name, Count(0, 0, 0, 0))

    def counts(self) -> dict[str, Count]:
        """How every node stands, in the plan's order."""
        return {node.name: self.count(node.name) for node in self.plan.nodes}

    def view(self, name: str) -> str:
        """The SQL name of a node's rows: child rows where it fans out. Raises KeyError where they are not known."""
        if not self._known(name):
            raise KeyError(name)
        if name == ROOT_UNITS:
            return ROOT_UNITS
        return f'"v_{name}"' if not self.plan.node(name).fan_out else f'"x_{name}"'

    def table(self, name: str, columns: Sequence[str] = ()) -> pa.Table:
        """A node's rows as a table: all columns, or those of the given ones that there are."""
        view = self.view(name)
        if (known := self._results.get(name)) is not None:
            return known.select([c for c in known.column_names if c in columns] or known.column_names)
        there = [c for c in self._columns(view) if c in columns]
        names = ", ".join('"' + c + '"' for c in there)
        return self.query(f"SELECT {names or '*'} FROM {view}")

    def units(self, phase: Phase, columns: Sequence[str] = ()) -> pa.Table:
        """The units of a phase: `id`, and these columns of them, or all."""
        names = ", ".join(f'"{c}"' for c in dict.fromkeys(("id", *columns))) if columns else "*"
        return self.query(f'SELECT {names} FROM "u_{phase.name}" ORDER BY id')
