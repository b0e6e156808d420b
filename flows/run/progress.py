"""What a person sees while a run goes on: a bar a stage with the time that is left, or plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from stages.core.planning.survey import Count
from stages.core.step import Row

LINE_SECONDS = 5.0


class Bars:
    """A listener that counts rows per node. Safe to call from several threads."""

    def __init__(self, console: Console, totals: Mapping[str, int]) -> None:
        self._console, self._lock, self._last = console, threading.Lock(), 0.0
        self._totals, self._done, self._bad = dict(totals), dict.fromkeys(totals, 0), dict.fromkeys(totals, 0)
        self._began = time.monotonic()
        self._progress = _progress(console) if console.is_terminal else None
        self._ids = (
            {n: self._progress.add_task(n, total=t or None) for n, t in totals.items()} if self._progress else {}
        )

    def __enter__(self) -> Bars:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def __call__(self, node: str, row: Row) -> None:
        """One more row of a node."""
        with self._lock:
            self._done[node] = self._done.get(node, 0) + 1
            self._bad[node] = self._bad.get(node, 0) + (row.get("status") != "ok")
            if self._progress:
                self._progress.update(self._ids[node], completed=self._done[node], description=self._label(node))
            elif time.monotonic() - self._last > LINE_SECONDS:
                self._last = time.monotonic()
                self._console.print(self._line(), highlight=False)

    def _label(self, node: str) -> str:
        return f"{node} [red]({self._bad[node]} not ok)[/red]" if self._bad[node] else node

    def _line(self) -> str:
        parts = [f"{n} {d}" + (f"/{t}" if (t := self._totals.get(n)) else "") for n, d in self._done.items() if d]
        done, total = sum(self._done.values()), sum(self._totals.values())
        spent = time.monotonic() - self._began
        left = f", about {spent / done * (total - done):.0f} s left" if 0 < done < total else ""
        return f"  {spent:.0f} s: {', '.join(parts)}{left}"


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console)


def totals(counts: Mapping[str, Count]) -> dict[str, int]:
    """How many rows each node is expected to make."""
    return {name: c.todo + c.waiting for name, c in counts.items()}


def counts_table(counts: Mapping[str, Count], fingerprints: Mapping[str, str], title: str) -> Table:
    """How every step of a plan stands."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("step", "fingerprint"):
        table.add_column(name)
    for name in ("done", "to do", "waiting", "failed"):
        table.add_column(name, justify="right")
    for name, c in counts.items():
        table.add_row(name, fingerprints[name][:12], *(str(v) for v in (c.done, c.todo, c.waiting, c.failed)))
    return table
