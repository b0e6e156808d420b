"""A lineage as lines for a terminal."""

from __future__ import annotations

import json

from stages.core.ledger.catalog import BOOKKEEPING, LEDGER
from stages.core.running.lineage import Lineage, Link


def as_text(found: Lineage) -> list[str]:
    """Lines for a terminal: the chain from the root down to the thing, then what was made from it."""
    lines = [f"run {found.run['run_id']} ({found.run['flow']}, {found.run['status']})"]
    for link in found.above:
        lines += ["", *_link_lines(link)]
    if found.below:
        lines += ["", "made from it:"]
        lines += [f"  {link.name:<12} {link.id}  {_standing(link)}" for link in found.below]
    return lines


def _standing(link: Link) -> str:
    row = link.row
    reasons = [f"{r['metric']} {r['value']} (required: {r['op']} {r['threshold']})" for r in row.get("reasons") or []]
    told = "; ".join([*reasons, *([row["error"]] if row.get("error") else [])])
    tries = f" after {row['attempt']} attempts" if row.get("attempt", 1) > 1 else ""
    return f"{row.get('status', '')}{tries}{': ' + told if told else ''}{'  ' + row['uri'] if row.get('uri') else ''}"


def _link_lines(link: Link) -> list[str]:
    shared = f"  (shared by {link.shared})" if link.shared > 1 else ""
    lines = [f"{link.name} {link.id}  {_standing(link)}".rstrip() + shared]
    lines += [f"  attempt {a['attempt']}: {a['error']}" for a in link.attempts[:-1]]
    hidden = {*LEDGER.names, *BOOKKEEPING, "rows", "uri", "position", "parent_id", "unit_id", "mark"}
    lines += [
        f"  {k}: {v}"
        for k, v in link.row.items()
        if k not in hidden and not k.startswith("depends_") and v not in (None, "", [], ())
    ]
    if link.node is not None and link.kind in ("row", "job"):
        settings = ", ".join(f"{k}={v}" for k, v in json.loads(link.node.config).items())
        lines.append(f"  step: {link.node.use} {link.node.fingerprint}" + (f" ({settings})" if settings else ""))
        lines += [f"  weights {name}: {mark}" for name, mark in link.node.weights if mark]
        lines += [f"  made by {link.row['worker']} in run {link.row['run_id']}"] if link.row.get("run_id") else []
    return lines
