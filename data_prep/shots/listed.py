"""Use the shots in a list that came with the source, instead of those that the detector finds."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.shots.cuts import CUTS, cut_rows
from stages.core.step import Inputs, Port, Row, Step


class ListedCuts(Step):
    """One row per transition between the listed shots of a source; see `data_prep.sources.shot_lists`. Sources without
    a list keep the transitions that were found."""

    kind = "cuts"
    version = 1
    writes = CUTS
    fan_out = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to set: `shot_lists` of the curation says where the lists are."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The signals of a source that has a list; its rate is carried, as the source decides it."""
        ports = {"signals": Port(kind="signals"), "cuts": Port(kind="cuts", required=False)}
        return Inputs(ports=ports, depends=("source_id", "shots"), carries=("fps", "is_vfr"), when=("shots",))

    def process(self, row: Row) -> Row:
        """The transitions of one source. Raises PermanentError where the list does not fit it."""
        import numpy as np

        from data_prep.signals.store import read_signals
        from data_prep.sources.shot_lists import listed_shots, shots_rows
        from stages.core.measures.shots.detector import Shots, Transition

        table = read_signals(self.workspace, row["signals"], ("pts", "time_s"))
        times = np.asarray(table.column("time_s"), np.float64)
        shots = listed_shots(row["shots"], times, row["fps"], row["is_vfr"])
        transitions = [Transition(r["kind"], r["first_frame"], r["last_frame"], 1.0) for r in shots_rows(shots)]
        first = shots[0][0] + shots[0][2]
        return {"rows": cut_rows(row["source_id"], Shots(tuple(transitions), first, shots[-1][1]), table)}
