"""Reading a plan against a catalog: what is done, what is to do, and the tables that people see."""

from __future__ import annotations

from typing import Any

from stages.core.identity import depends_key
from stages.core.ledger.catalog import Catalog
from stages.core.planning import survey_sql
from stages.core.planning.groups import Group, Groups
from stages.core.planning.plan import ROOT_UNITS, Phase, Plan
from stages.core.planning.survey_jobs import SurveyJobs
from stages.core.planning.survey_views import Count, Jobs

Item = dict[str, Any]
"""One unit on its way through a phase: {"unit": {...}, "<node>": its ledger row or None, ...}; with the rows of earlier
phases that its steps are handed."""


class Survey(SurveyJobs):
    """One consistent reading of a plan. `jobs` names the results of jobs (node -> digest) of a finished run; where a
    job is not named there, its result is looked up by the digest of its inputs as they are now. `retry` says which
    errors count as still to do: `none`, `transient` or `all`; never those of the run `run_id`, which has tried them.

    What is there is read once, narrowly, when the survey is made; whole rows are read when they are asked for. SQL for
    `query` may use, for a node and a phase: "v_<node>" its rows within the plan; "x_<node>" its child rows; "l_<node>"
    its rows whatever the plan, each once; "u_<phase>" the units; "p_<phase>" the units with their rows and states.
    """

    def __init__(
        self, catalog: Catalog, plan: Plan, *, retry: str = "transient", jobs: Jobs | None = None, run_id: str = ""
    ) -> None:
        super().__init__(catalog, plan, retry, jobs or {}, run_id)
        self._add_roots()
        self.refresh()

    def refresh(self) -> None:
        """Read again what is there now. Phases before the first new file stay as they are: what they hold depends on
        the files of their own nodes and of earlier ones alone."""
        for place, phase in enumerate(self.plan.phases):
            new, decided = self._is_new(phase.steps), self._is_new(phase.jobs)
            if new or phase.name not in self._phases:
                for later in self.plan.phases[place:]:
                    self._forget(later)
                if not self._add_phase(phase):
                    break
            elif decided:
                self._forget_jobs(phase)
                for later in self.plan.phases[place + 1 :]:
                    self._forget(later)
                for node in phase.jobs:
                    self._add_job(node)

    def _add_phase(self, phase: Phase) -> bool:
        """Tables and views for one phase; False where its units are not known yet, as a job before it has not run."""
        if phase.name != ROOT_UNITS and not self._known(phase.name):
            return False
        self._add_units(phase)
        for node in phase.steps:
            self._again(lambda node=node: self._add_rows(node, repeated=False))  # type: ignore[misc]
        self._add_standing(phase)
        self._create_view(f"p_{phase.name}", survey_sql.units_with_rows(phase))
        self._phases[phase.name] = phase
        for node in phase.steps:
            self._add_views(phase, node)
        for node in phase.jobs:
            self._add_job(node)
        return True

    def items(self, phase: Phase, *, unsettled: bool = True) -> list[Item]:
        """The units of a phase with the rows they have (all columns but BOOKKEEPING) and those of earlier phases that
        they are handed, in order; only those with work left, or all. Of a unit come the columns that steps declare."""
        extra = self._earlier(phase)
        names = ", ".join(["unit", *(f'"{n.name}"' for n in phase.steps), *(f'"{name}"' for name, *_ in extra)])
        condition = survey_sql.left(phase) if unsettled else "true"
        rows = survey_sql.units_with_rows(phase, "i", extra)
        columns = self._columns(f'"u_{phase.name}"')
        keys = [depends_key(s) for s in phase.depends]
        wanted = [c for c in dict.fromkeys(("id", "position", *phase.columns)) if c in columns]
        unit = ", ".join(f'"{c}" := unit."{c}"' for c in wanted)
        held = {c for c in keys if c in columns}
        digests = "".join(f', "{c}" := ' + (f'unit."{c}"' if c in held else f'k."{c}"') for c in keys)
        join = "" if len(held) == len(keys) else f' LEFT JOIN "k_{phase.name}" k USING (unit_id)'
        query = (
            f"SELECT * REPLACE (struct_pack({unit}{digests}) AS unit) FROM (SELECT {names}, unit_id, unit_order "
            f"FROM ({rows}) WHERE {condition}){join} ORDER BY unit_order, unit_id"
        )
        found = self.query(query).drop_columns(["unit_order", "unit_id", *(keys if join else [])]).to_pylist()
        return [{k: _row_or_none(v) for k, v in item.items()} for item in found]

    def _earlier(self, phase: Phase) -> list[tuple[str, str, str]]:
        """(node, view, condition) of the rows of earlier phases that fill ports of this one."""
        found: list[tuple[str, str, str]] = []
        for binding in (b for n in phase.steps for b in n.ports):
            for name in binding.nodes:
                of = self.plan.phase_of(name)
                if of.name == phase.name or any(name == f[0] for f in found):
                    continue
                unit = survey_sql.unit_in(of, phase, "s.unit_id", "s")
                if binding.child:
                    rows = (
                        f'SELECT s.unit_id AS of_unit, z."applies_{name}" AND NOT z."ok_{name}" AS of_applies, r.* '
                        f'FROM "s_{phase.name}" s JOIN "s_{of.name}" z ON z.unit_id = {unit} '
                        f'LEFT JOIN "c_{name}" r ON r.child_of = s.unit_id AND r.parent_id = z."id_{name}"'
                    )
                    unit = "s.unit_id"
                else:
                    rows = (
                        f'SELECT z.unit_id AS of_unit, z."applies_{name}" AS of_applies, r.* FROM "s_{of.name}" z '
                        f'LEFT JOIN "i_{name}" r ON r.id = z."id_{name}"'
                    )
                self._create_view(f"h_{name}", rows)
                found.append((name, f'"h_{name}"', f'"h_{name}".of_unit = {unit}'))
        return found


def _row_or_none(row: Any) -> Any:
    """A struct that a join made, None where there was nothing to join. Of an earlier step that applies to a unit and
    has no row of it, a row without id stays: it is waited for in vain, and not passed over."""
    return row if row and (row.get("id") is not None or row.get("of_applies")) else None


__all__ = ["Count", "Group", "Groups", "Item", "Survey"]
