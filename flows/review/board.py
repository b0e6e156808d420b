"""What the page shows of a store, kept up as runs and people write to it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flows.render.reviews import read_reviews
from flows.review.campaigns import Standing, standing
from flows.review.media import Medium
from flows.review.plan_takes import PlanTakes, plan_takes
from flows.words import counted
from stages.core.errors import BadInput
from stages.core.ledger.catalog import RESULTS, Catalog
from stages.core.ledger.records import STORE_TABLE
from stages.core.planning.plan import Plan
from stages.core.reviews import REVIEWS, standing_of
from stages.core.reviews import Standing as Chosen
from stages.core.running.runs import RunRecord, find_run, runs_table
from stages.core.step import Row

MOST_PLANS = 30
"""So many plans of a store, the newest, are shown."""
SHORTEST_PAUSE, REST = 1.5, 3
"""Seconds between two looks at the store; and how many times as long as a look the pause after it is, at least."""
Mark = tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """What was read of a plan, and by which files."""

    mark: Mark
    takes: PlanTakes
    standing: Standing


class Board:
    """The takes of a store, each once: as its newest plan says, with the video of an earlier one until it has its own.

    Every record that changes gets the number of the change, so that a page asks for what it has not seen. Safe to use
    from several threads.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.notes: list[str] = []
        self._work, self._next = threading.Lock(), 0.0
        self._guard = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._bare: dict[str, Row] = {}
        self._reviews: list[Row] = []
        self._reviewed: Mark = ("unread",)
        self._shown: dict[str, Row] = {}
        self._units: dict[str, tuple[RunRecord, Row]] = {}
        self._media: dict[str, Medium] = {}
        self._latest: dict[str, Standing] = {}
        self._changed: dict[str, int] = {}
        self._gone: dict[str, int] = {}
        self.version = 0

    # -- reading -------------------------------------------------------------------------------------------------------

    def changes(self, since: int) -> Row:
        """The records that have changed since this number, and the ids of those that are gone."""
        with self._guard:
            since = since if 0 <= since <= self.version else 0
            return {
                "version": self.version,
                "takes": [r for name, r in self._shown.items() if self._changed[name] > since],
                "gone": [name for name, version in self._gone.items() if version > since > 0],
                "notes": self.notes,
            }

    def records(self, take_ids: Iterable[str]) -> list[Row]:
        """The records of takes. Raises BadInput for one that is not shown."""
        with self._guard:
            wanted = list(take_ids)
            if missing := [t for t in wanted if t not in self._shown]:
                raise BadInput(f"there is no take {missing[0][:64]!r} on this page")
            return [self._shown[t] for t in wanted]

    def unit(self, take_id: str) -> tuple[RunRecord, Row]:
        """All that a take asks for, and the newest run with it. Raises BadInput where it is not shown."""
        self.records([take_id])
        return self._units[take_id]

    def units_of(self, campaign: str) -> list[Row]:
        """What all takes of a campaign ask for."""
        return [unit for record, unit in self._units.values() if record.row["scope"] == campaign]

    def medium(self, video_id: str) -> Medium | None:
        """The files of a video that is shown."""
        return self._media.get(video_id)

    def reviews(self, take_id: str) -> list[Row]:
        """The reviews of a take, the oldest first."""
        return [r for r in self._reviews if r["take_id"] == take_id]

    def campaigns(self) -> list[Row]:
        """How every campaign stands, the newest first."""
        with self._guard:
            total = Counter(r["campaign"] for r in self._shown.values())
            done = Counter(r["campaign"] for r in self._shown.values() if r["status"] == "ok")
            return [s.shown(total[name], done[name]) for name, s in self._latest.items()]

    # -- keeping up ----------------------------------------------------------------------------------------------------

    def keep_up(self) -> None:
        """Look at the store again, if the last look is long enough ago; while another thread looks, do nothing."""
        if time.monotonic() < self._next or not self._work.acquire(blocking=False):
            return
        try:
            began = time.monotonic()
            self._look()
            spent = time.monotonic() - began
            self._next = time.monotonic() + max(SHORTEST_PAUSE, REST * spent)
        finally:
            self._work.release()

    def reread_reviews(self) -> None:
        """Show what was just chosen."""
        with self._work:
            self._read_reviews()
            self._publish()

    def _look(self) -> None:
        runs = [r for r in runs_table(self.catalog).to_pylist() if r["flow"] == "render"]
        newest = {run["plan"]: run for run in runs}  # of equal plans the last one
        ordered = sorted(newest.values(), key=lambda r: (r["started"], r["run_id"]), reverse=True)
        more = len(ordered) - MOST_PLANS
        notes = [f"{counted(more, 'older plan')} not shown"] if more > 0 else []
        seen: dict[str, _Seen] = {}
        for run in ordered[:MOST_PLANS]:
            try:
                seen[run["plan"]] = self._read(run)
            except (BadInput, FileNotFoundError) as error:  # a step of yours that is gone must not hide all others
                notes.append(f"run {run['run_id']} cannot be shown: {error}")
        self._seen, self.notes = seen, notes
        self._read_reviews()
        self._merge()
        self._publish()

    def _read(self, run: Row) -> _Seen:
        """What a plan shows; read again where one of its files, or its run, has changed."""
        plan = Plan.from_json(run["plan"])
        if not self.catalog.storage.exists(plan.roots):
            raise FileNotFoundError(f"its takes, {plan.roots}, are gone")
        mark: Mark = (run["run_id"], run["status"], str(run["ended"]))
        for node in plan.nodes:
            for prefix in ("part-", *RESULTS):
                mark += tuple(self.catalog.parts(node.name, node.fingerprint, prefix))
        if any(n.tables for n in plan.nodes):
            mark += tuple(self.catalog.parts(REVIEWS, STORE_TABLE))
        old = self._seen.get(run["plan"])
        if old and old.mark == mark:
            return old
        record = find_run(self.catalog, "", run["run_id"])
        survey = record.survey(self.catalog)
        return _Seen(mark, plan_takes(survey), standing(survey, record))

    def _read_reviews(self) -> None:
        mark = tuple(self.catalog.parts(REVIEWS, STORE_TABLE))
        if mark != self._reviewed:
            self._reviews, self._reviewed = read_reviews(self.catalog), mark

    def _merge(self) -> None:
        """Each take once, from the newest plan that has it, without what people chose."""
        bare: dict[str, Row] = {}
        units: dict[str, tuple[RunRecord, Row]] = {}
        media: dict[str, Medium] = {}
        latest: dict[str, Standing] = {}
        for seen in self._seen.values():
            latest.setdefault(seen.standing.record.row["scope"], seen.standing)
            for row in seen.takes.takes:
                mine = bare.get(row["id"])
                if mine is None:
                    bare[row["id"]] = {**{k: v for k, v in row.items() if k != "unit"}, "earlier": ""}
                    units[row["id"]] = (seen.standing.record, row["unit"])
                elif not mine["video"] and row["video"]:
                    kept = ("video", "poster", "width", "height", "frames", "fps")
                    mine |= {k: row[k] for k in kept} | {"earlier": seen.standing.record.row["run_id"]}
        wanted = {row["video"] for row in bare.values()}
        for seen in self._seen.values():
            media |= {name: m for name, m in seen.takes.media.items() if name in wanted}
        for order, row in enumerate(bare.values()):
            row["order"] = order
        self._bare, self._units, self._media, self._latest = bare, units, media, latest

    def _publish(self) -> None:
        """Put what people chose into the records, and number what is new."""
        chosen = standing_of(self._reviews)
        last = {r["take_id"]: r for r in self._reviews}
        shown = {name: {**row, **_choice(chosen.get(name), last.get(name))} for name, row in self._bare.items()}
        with self._guard:
            new = {name for name, row in shown.items() if self._shown.get(name) != row}
            gone = set(self._shown) - set(shown)
            if new or gone or not self.version:
                self.version += 1
            self._changed = {**{n: self._changed.get(n, 0) for n in shown}, **dict.fromkeys(new, self.version)}
            self._gone = {
                **{n: v for n, v in self._gone.items() if n not in shown},
                **dict.fromkeys(gone, self.version),
            }
            self._shown = shown


def _choice(chosen: Chosen | None, last: Mapping[str, Any] | None) -> Row:
    """What the reviews of a take come to, and who wrote the last one, when."""
    found = chosen or Chosen()
    return {
        "verdict": found.verdict,
        "star": found.star,
        "note": found.note,
        "conflict": found.conflict,
        "heads": list(found.heads),
        "who": last["who"] if last else "",
        "at": last["at"].isoformat() if last else "",
    }
