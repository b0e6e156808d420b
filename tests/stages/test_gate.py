"""What a gate decides on one group of takes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from stages.core.config import make_ref
from stages.core.ledger.storage import Storage
from stages.core.step import Workspace
from stages.gate import REDECISIONS, Gate

REASONS = pa.list_(pa.struct([(n, pa.string()) for n in ("metric", "value", "op", "threshold")]))
TEXTS = [(n, pa.string()) for n in ("unit_id", "id", "status")]
QC = pa.schema([*TEXTS, ("sharp", pa.float64()), ("reasons", REASONS)])
EARLIER = pa.schema([*Gate.writes, ("mark", pa.string())])


def gate(**settings: Any) -> Gate:
    return Gate(make_ref("g", {"use": "stages.gate:Gate", **settings}).config, Workspace(Storage("memory://g")), "g")


def rows(names: str, **sharp: float | None) -> list[dict[str, Any]]:
    return [{"unit_id": n, "id": f"row of {n}", "status": "ok", "sharp": sharp.get(n), "reasons": []} for n in names]


def decide(job: Gate, qc: list[dict[str, Any]], made: str = "", **tables: Any) -> dict[str, dict[str, Any]]:
    """take -> its row. made: the takes that have a row of the step before; by default all that were checked."""
    names = "".join(r["unit_id"] for r in qc)
    found = {
        "units": pa.table({"id": list(names)}),
        "takes": pa.Table.from_pylist(rows(made or names), QC),
        "qc": pa.Table.from_pylist(qc, QC),
        "earlier": EARLIER.empty_table(),
        REDECISIONS: pa.table({"id": pa.array([], pa.string())}),
        **{name: pa.Table.from_pylist(table) for name, table in tables.items()},
    }
    return {r["id"]: r for r in job.run(found).to_pylist()}


def test_the_best_go_on_nulls_last_and_ties_by_id():
    top = gate(top=2, by="sharp", scored=["qc"])
    made = decide(top, rows("dcbae", a=0.5, b=float("nan"), c=0.7, d=0.5))
    order = sorted(made, key=lambda take: made[take]["place"])
    assert order == ["c", "a", "d", "b", "e"]
    assert [made[t]["status"] for t in order] == ["ok", "ok", "rejected", "rejected", "rejected"]
    assert made["d"]["why"] == "rank 3 of 5, top 2"
    assert made["b"]["why"] == "rank 4 of 5, top 2; its score has no value"
    assert made["d"]["reasons"][0] == {"step": "g", "metric": "rank", "value": "3 of 5", "op": "<=", "threshold": "2"}
    assert json.loads(made["c"]["measured"]) == {"sharp": 0.7, "score": 0.7}
    assert json.loads(made["b"]["measured"]) == {"sharp": None, "score": None}
    assert decide(top, rows("abcde", a=0.5, b=float("nan"), c=0.7, d=0.5)) == made, "whatever the order of rows"


def test_what_has_failed_or_was_refused_is_not_eligible_and_takes_no_place():
    checked = rows("abc", a=0.9, b=0.8, c=0.7)
    checked[0] |= {"status": "rejected", "reasons": [{"metric": "cuts", "value": "2", "op": "<=", "threshold": "0"}]}
    for job in (gate(top=1, by="sharp", scored=["qc"]), gate(all=True, scored=["qc"])):
        made = decide(job, checked, made="ac")
        assert {t: r["status"] for t, r in made.items()} == {"a": "rejected", "b": "rejected", "c": "ok"}
        assert made["a"]["why"] == "qc: cuts is 2, required <= 0"
        assert made["a"]["reasons"][0]["metric"] == "cuts"
        assert made["b"]["why"] == "it was not made"
    assert decide(gate(top=1, by="sharp", scored=["qc"]), checked, made="ac")["c"]["why"] == "rank 1 of 1, top 1"


def test_a_threshold_says_what_was_wanted():
    made = decide(gate(threshold="2 * sharp >= 1", scored=["qc"]), rows("abc", a=0.5, b=0.25))
    assert {t: (r["status"], r["why"]) for t, r in made.items()} == {
        "a": ("ok", "2 * sharp is 1, required >= 1"),
        "b": ("rejected", "2 * sharp is 0.5, required >= 1"),
        "c": ("rejected", "2 * sharp is without a value, required >= 1"),
    }


def review(take: str, choice: str, *supersedes: str, who: str = "ada", note: str = "") -> dict[str, Any]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return {"id": f"{take}{choice}", "take_id": take, "choice": choice, "who": who, "at": at, "note": note,
            "supersedes": list(supersedes)}  # fmt: skip


def test_people_decide_and_those_that_they_disagree_on_wait():
    said = [review("a", "approve"), review("b", "reject", note="blurred", who="bob"), review("c", "approve")]
    said += [review("c", "reject", who="bob"), review("d", "star")]
    made = decide(gate(review=True), rows("abcde"), reviews=said)
    assert {t: (r["status"], r["why"]) for t, r in made.items()} == {
        "a": ("ok", "approved by ada"),
        "b": ("rejected", "rejected by bob: blurred"),
        "c": ("waiting", "waits for a review, as people disagree"),
        "d": ("waiting", "waits for a review"),
        "e": ("waiting", "waits for a review"),
    }


def test_what_was_promoted_stays_for_the_same_row_until_the_gate_decides_anew():
    top = gate(top=1, by="sharp", scored=["qc"])
    first = decide(top, rows("ab", a=0.2, b=0.1))
    earlier = [{**first["a"], "mark": "m"}, {**first["b"], "mark": "m"}]
    second = decide(top, rows("abc", a=0.2, b=0.1, c=0.9), earlier=earlier)
    assert {t: r["status"] for t, r in second.items()} == {"a": "ok", "b": "rejected", "c": "ok"}
    assert (second["a"]["kept"], second["c"]["kept"]) == (True, False)
    assert second["a"]["why"] == "went on before, and what has gone on stays; now: rank 2 of 3, top 1"
    other = decide(top, rows("abc", a=0.2, b=0.1, c=0.9), earlier=[{**r, "of_row": "made otherwise"} for r in earlier])
    assert other["a"]["status"] == "rejected", "what was promoted was another row"
    asked = [{"id": "1", "take_id": "a", "gate": Gate.settings_mark(top.config)}]
    anew = decide(top, rows("abc", a=0.2, b=0.1, c=0.9), earlier=earlier, **{REDECISIONS: asked})
    assert (anew["a"]["status"], anew["a"]["round"]) == ("rejected", 1)
    of_another = [{**asked[0], "gate": "another"}]
    assert decide(top, rows("ac", a=0.2, c=0.9), earlier=earlier, **{REDECISIONS: of_another})["a"]["status"] == "ok"
