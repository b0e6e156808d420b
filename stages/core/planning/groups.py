"""The groups of units that a job decides one by one, each as soon as its own units have ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from stages.core.planning import survey_sql
from stages.core.planning.plan import Node, Phase


@dataclass(frozen=True)
class Group:
    """One group: the text of its units' columns, the digest of what the job reads of it, whether none of its units has
    work left and none is still to come, whether the job has decided it as it is now, and whether some of its units wait
    for people then."""

    key: str
    mark: str
    ended: bool
    decided: bool = False
    held: bool = False


@dataclass(frozen=True)
class Groups:
    """All groups of one job."""

    job: Node
    all: tuple[Group, ...]

    @property
    def complete(self) -> bool:
        """Whether every one is decided, and nothing waits for people."""
        return all(g.decided and not g.held for g in self.all)

    @property
    def ready(self) -> list[Group]:
        """Those that can be decided now."""
        return [g for g in self.all if g.ended and not g.decided]

    def with_decided(self, marks: Collection[str], held: Collection[str]) -> Groups:
        """The same, knowing which digests have results, and in which of these units wait for people."""
        return replace(
            self,
            all=tuple(
                replace(g, decided=g.mark in marks and g.ended, held=g.mark in held and g.ended) for g in self.all
            ),
        )


def key_sql(job: Node) -> str:
    """A text on which the units of one group agree, as SQL over units `u`."""
    columns = ", ".join(f'"{c}" := u."{c}"' for c in job.per)
    return f"to_json(struct_pack({columns}))::VARCHAR"


def ended_sql(job: Node, phase: Phase) -> str:
    """(group, whether none of its units has work left in the phase), in the order of the units."""
    return (
        f'SELECT {key_sql(job)} AS g, NOT bool_or({survey_sql.left(phase)}) FROM "s_{phase.name}" s '
        f'JOIN "u_{phase.name}" u ON u.id = s.unit_id GROUP BY g ORDER BY min(unit_order), g'
    )
