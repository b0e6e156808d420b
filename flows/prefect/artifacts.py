"""What a flow run shows in Prefect besides its tasks: progress while it goes on, and what was made at its end."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.prefect.endings import Ending
from flows.prefect.reporting import contact
from flows.run.session import Outcome
from flows.words import command
from stages.core.reach.harmless import for_markdown
from stages.core.reach.secrets import bare, bare_in
from stages.core.step import Row

log = logging.getLogger("rushes")

UPDATE_SECONDS, LOG_SECONDS, ERRORS_LOGGED = 3.0, 60.0, 20
WITHOUT_RUN = ("train", "publish")
"""Flows whose table is of the whole store."""
SHOWN = {"render": "videos", "evaluate": "judgements", "train": "checkpoints", "publish": "datasets"}
"""The table that shows what a flow has made."""


@dataclass
class Cost:
    """What one node's rows took in this run."""

    rows: int = 0
    failed: int = 0
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    seconds: float = field(default=0.0)

    def add(self, row: Row) -> None:
        """Count one row."""
        self.rows += 1
        self.failed += row.get("status") == "error"
        self.core_seconds += row.get("core_seconds") or 0.0
        self.gpu_seconds += row.get("gpu_seconds") or 0.0
        self.seconds += _seconds(row)


def _seconds(row: Row) -> float:
    if row.get("started") and row.get("ended"):
        return float((row["ended"] - row["started"]).total_seconds())
    return float(row.get("seconds") or 0.0)


class Watch:
    """A listener that keeps a flow run's progress artifact up to date, sums costs, and logs the rows that failed.

    It is called in the thread of the task that made the row, so its log lines belong to that task run.
    """

    def __init__(self, flow: str, totals: Mapping[str, int]) -> None:
        self.costs: dict[str, Cost] = {name: Cost() for name in totals}
        self._flow, self._expected, self._made = flow, max(1, sum(totals.values())), 0
        self._count, self._sending, self._sent = threading.Lock(), threading.Lock(), 0.0
        self._logged = time.monotonic()
        self._artifact: UUID | None = None

    def begin(self) -> None:
        """Make the progress artifact; called in the flow's own thread, so that it belongs to the flow run."""
        key, text = f"{self._flow}-progress", self._progress_text()
        artifact_id = contact.send(create_progress_artifact, 0.0, key=key, description=text)
        assert artifact_id is None or isinstance(artifact_id, UUID)  # a coroutine only inside an event loop
        self._artifact = artifact_id

    def __call__(self, node: str, row: Row) -> None:
        """One more row."""
        with self._count:
            cost = self.costs.setdefault(node, Cost())
            cost.add(row)
            self._made += 1
            failures = cost.failed
        if row.get("status") == "error" and failures <= ERRORS_LOGGED:
            more = "; further ones are not logged" if failures == ERRORS_LOGGED else ""
            log.warning("%s: row %s failed: %s%s", node, row.get("id"), row.get("error"), more)
        self._maybe_send()

    def _maybe_send(self) -> None:
        """Send at most every few seconds, from whichever thread comes first; the others do not wait for it."""
        if time.monotonic() - self._sent < UPDATE_SECONDS or not self._sending.acquire(blocking=False):
            return
        try:
            self._sent = time.monotonic()
            self._send()
            if self._sent - self._logged >= LOG_SECONDS:
                self._logged = self._sent
                self._log()
        finally:
            self._sending.release()

    def _send(self) -> None:
        if self._artifact is None:
            return
        percent = min(100.0, 100.0 * self._made / self._expected)
        contact.send(update_progress_artifact, self._artifact, percent, description=self._progress_text())

    def _log(self) -> None:
        """Log how far the run is, in a thread of its own, so that the line belongs to the flow run and to no task."""
        threading.Thread(target=log.info, args=("%s", self._progress_text()), name="progress log").start()

    def _progress_text(self) -> str:
        parts = [f"{name} {c.rows}" + (f" ({c.failed} failed)" if c.failed else "") for name, c in self.costs.items()]
        return f"{self._made} of about {self._expected} rows: {', '.join(parts)}"

    def end(self, complete: bool) -> None:
        """Send the last figures; rows that an earlier failure kept from being made do not count as missing."""
        with self._sending:
            self._expected = self._made if complete and self._made else self._expected
            self._send()


def result_table(outcome: Outcome, costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """One line per stage: its progress, and what this run's rows of it took."""
    lines = []
    for name, count in outcome.counts.items():
        cost = costs.get(name, Cost())
        lines.append(
            {
                "stage": name,
                "done": count.done,
                "to do": count.todo + count.waiting,
                "failed": count.failed,
                "rows in this run": cost.rows,
                "seconds": round(cost.seconds, 2),
                "core-seconds": round(cost.core_seconds, 2),
                "GPU-seconds": round(cost.gpu_seconds, 2),
            }
        )
    return lines


def show_result(flow: str, scope: str, store: str, outcome: Outcome, costs: Mapping[str, Cost], ending: Ending) -> None:
    """The result artifacts: a table of the stages, what came of them in words, a contact sheet, links."""
    lines = result_table(outcome, costs)
    contact.send(create_table_artifact, lines, key=f"{flow}-stages", description=f"Stages of {plain(scope)}")
    text = result_text(flow, scope, store, outcome, ending)
    contact.send(create_markdown_artifact, text, key=f"{flow}-result", description=plain(scope))
    show_ending(flow, ending)


def show_ending(flow: str, ending: Ending) -> None:
    """The contact sheet and the links."""
    if ending.sheet:
        picture = f"data:image/jpeg;base64,{base64.b64encode(ending.sheet).decode()}"
        contact.send(create_image_artifact, picture, key=f"{flow}-contact-sheet", description="Contact sheet")
    for name, place in ending.places.items():
        key, about = f"{flow}-{name}", f"{name}: {place}"
        if place.startswith(("http://", "https://")):
            contact.send(create_link_artifact, place, link_text=place, key=key, description=about)
        else:  # a browser opens no link from a page of the server to a file
            where = f"{plain(name)}: {plain(place)}\n\nIt is where the flow ran; open it there."
            contact.send(create_markdown_artifact, where, key=key, description=about)


def result_text(flow: str, scope: str, store: str, outcome: Outcome, ending: Ending) -> str:
    """How a run ended, what came of it, why the rest is missing, and where all of it is, as Markdown."""
    word = "nothing to do" if outcome.did_nothing and not outcome.held else outcome.status
    reason = f" ({plain(outcome.reason)})" if outcome.reason else ""
    parts = [f"## {flow}: {word}{reason}", bullets(ending.lines)]
    if ending.reasons:
        parts += ["### Why the rest is missing", *_table(("how many", "reason"), ending.reasons)]
    places = {"of": scope, "store": store, **ending.places}
    parts += ["### Where", "\n".join(f"- {name}: {plain(place)}" for name, place in places.items())]
    table, run = SHOWN.get(flow, "clips"), "" if flow in WITHOUT_RUN else f" --run {outcome.run_id}"
    commands = (command(words, bare(store)).strip("`") for words in (f"table {table}{run}", "status"))
    parts.append("\n".join(["```", *commands, "```"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def bullets(lines: Iterable[str]) -> str:
    """Sentences as a list."""
    return "\n".join(f"- {plain(line)}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    marks = " | ".join("---" for _ in head)
    body = "\n".join(f"| {' | '.join(plain(str(cell)) for cell in row)} |" for row in rows)
    return [f"| {' | '.join(head)} |\n| {marks} |\n{body}"]


def plain(text: str) -> str:
    """A text that came with data, such that Markdown and HTML in it mean nothing, and no address has a key."""
    return for_markdown(bare_in(text))
