"""What holds for every step in the packages: what it declares is all that decides its rows, and is there to be read."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa
import pytest
from omegaconf import OmegaConf

from data_prep.publish.index import CLIP_ROOTS
from data_prep.sources.listing import ROOTS
from flows.evaluate.evaluation import CLIPS
from stages.core.config import load_class, make_ref
from stages.core.config_files import CONFIGS, read_yaml
from stages.core.errors import BadInput
from stages.core.identity import depends_digest, depends_key, join_parents, row_id
from stages.core.ledger.catalog import BOOKKEEPING, LEDGER, with_depends
from stages.core.step import InputRow, Inputs, Job, Step, UndeclaredRead
from tests.test_configs import STEPS

CLASSES = {use: load_class(use) for use in STEPS}
ENTRIES = [
    (name, entry)
    for path in sorted(CONFIGS.rglob("*.yaml"))
    for name, entry in (OmegaConf.to_container(read_yaml(path), resolve=False).get("steps") or {}).items()
    if entry and "use" in entry
]
"""Every entry of every config, with its model left out: what a step reads is known without one."""
COLUMNS = {
    f.name: f.type for schema in (ROOTS, CLIPS, CLIP_ROOTS, *(cls.writes for cls in CLASSES.values())) for f in schema
} | {"id": pa.string(), "position": pa.int64()}
"""Every column that a unit may have: of roots, of child rows, of what jobs write."""


def declared(use: str) -> list[Inputs]:
    """What a step reads, by its default config and by each entry that names it, as far as they can be made here."""
    cls = CLASSES[use]
    found = []
    for values in [{}, *(dict(e) for n, e in ENTRIES if e["use"] == use)]:
        plain = {k: v for k, v in values.items() if not (isinstance(v, str) and "${" in v) and k != "model"}
        try:
            config = make_ref("one", {**plain, "use": use}).config if plain else cls.Config()
        except (BadInput, TypeError):
            continue  # needs weights, or another step's settings
        found.append(cls.inputs(config))
    return found


@pytest.mark.parametrize("use", STEPS)
def test_a_step_says_what_it_makes_and_reads_what_there_is(use):
    cls = CLASSES[use]
    kinds = {c.kind for c in CLASSES.values()}
    assert cls.kind
    for inputs in declared(use):
        assert {p.kind for p in inputs.ports.values()} <= kinds
        columns = {*inputs.depends, *inputs.carries, *inputs.when, *inputs.units, *inputs.per}
        assert columns <= set(COLUMNS), "a column that no unit has"
        if issubclass(cls, Step):
            assert (inputs.units, dict(inputs.tables), inputs.per) == ((), {}, ())
            assert not any(p.many for p in inputs.ports.values())
            assert inputs.ports or inputs.depends, "all units would share one row"
        else:
            assert (inputs.depends, inputs.carries, inputs.when, inputs.draws) == ((), (), (), False)


EDGES: dict[str, list[Any]] = {
    "string": [None, "", "0", "a", "ä"],
    "int64": [None, 0, 1, -1, 2**62],
    "double": [None, 0.0, 0.5, 1e300],
    "bool": [None, False, True],
}


def values_of(kind: pa.DataType) -> list[Any]:
    """Values that must differ from each other: null, empty and zero among them."""
    if pa.types.is_list(kind) or pa.types.is_struct(kind):
        return [None, []] if pa.types.is_list(kind) else [None]
    return EDGES.get(str(kind), [None])


def row_ids(inputs: Inputs, rows: list[dict[str, Any]]) -> list[str]:
    """The ids of the rows that a step would make of these units, from the columns that planning stores."""
    if not inputs.depends:
        return [row_id("step", "parent", "")] * len(rows)
    fields = [pa.field(name, COLUMNS[name]) for name in COLUMNS]
    table = pa.table([pa.array([r.get(f.name) for r in rows], f.type) for f in fields], schema=pa.schema(fields))
    marks = with_depends(table, [tuple(inputs.depends)]).column(depends_key(inputs.depends)).to_pylist()
    assert marks == [depends_digest({c: r.get(c) for c in inputs.depends}) for r in rows]
    return [row_id("step", "parent", mark) for mark in marks]


@pytest.mark.parametrize("use", [u for u in STEPS if issubclass(CLASSES[u], Step)])
def test_declared_columns_decide_a_row_and_no_others_do(use):
    for inputs in declared(use):
        base: dict[str, Any] = {}
        others = [{c: v} for c in COLUMNS if c not in inputs.depends for v in values_of(COLUMNS[c])[1:]]
        assert len(set(row_ids(inputs, [base, *others]))) == 1
        for column in inputs.depends:
            values = values_of(COLUMNS[column])
            assert len(set(row_ids(inputs, [{column: v} for v in values]))) == len(values)
        if len(inputs.depends) > 1:
            first, second = inputs.depends[:2]
            kinds = [values_of(COLUMNS[c])[:3] for c in (first, second)]
            pairs = [{first: a, second: b} for a, b in itertools.product(*kinds)]
            assert len(set(row_ids(inputs, pairs))) == len(pairs)


def test_parents_and_their_order_decide_a_row():
    ids = [["a", None, None], ["a", "b", None], [None, "a", None], ["b", "a", None], ["a", None, "b"], [None] * 3]
    assert len({row_id("f", join_parents(i), "") for i in ids}) == len(ids)
    assert join_parents(["a", None]) == join_parents(["a"]), "an optional port that nothing fills changes nothing"


def test_a_further_column_that_a_unit_does_not_set_changes_nothing():
    """So a later version of a step may read one more, and keeps what was made."""
    assert depends_digest({"seed": 1, "camera": None}) == depends_digest({"seed": 1})
    assert len({depends_digest({"seed": 1, "camera": v}) for v in (None, "", "0")}) == 3
    assert depends_digest({"camera": None}) == depends_digest({}) == ""


def test_a_step_is_handed_what_it_declares():
    row = InputRow({"prompt": "a", "text": None})
    assert (row["prompt"], row.get("text", "none"), "text" in row, "prompt" in row) == ("a", "none", False, True)
    for read in (lambda: row["seed"], lambda: row.get("seed"), lambda: "seed" in row):
        with pytest.raises(UndeclaredRead, match="'seed' is not among the inputs"):
            read()


def test_steps_write_no_column_of_the_ledger():
    assert set(BOOKKEEPING) < set(LEDGER.names)
    for cls in (c for c in CLASSES.values() if issubclass(c, Step) and not c.fan_out):
        assert not set(cls.writes.names) & set(LEDGER.names)
    assert len([c for c in CLASSES.values() if issubclass(c, Job)]) > 8
