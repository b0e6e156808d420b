import subprocess
import sys
import threading
from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.core.errors import BadInput
from stages.core.identity import row_id
from stages.core.ledger import catalog as catalog_module
from stages.core.ledger.catalog import LEDGER, NO_ROWS, VOLATILE, connect, ledger_schema, to_table
from tests import toys

OWN = pa.schema([("count", pa.int64()), ("score", pa.float64()), ("name", pa.string()), ("good", pa.bool_())])
SCHEMA = ledger_schema(OWN, False)
NESTED = ledger_schema(pa.schema([("part", pa.int64()), ("box", pa.struct([("x", pa.int32())]))]), True)


def row(i: int, **columns):
    return {"id": row_id("f", str(i), ""), "parents": str(i), "status": "ok", "attempt": 1, **columns}


def read(catalog, step="base", mark="f"):
    sql = connect()
    return catalog.with_rows(sql, step, mark, lambda s: sql.sql(f"SELECT * FROM {s} ORDER BY id").to_arrow_table())


rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "score": st.none() | st.floats(allow_nan=False),
            "name": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            "good": st.none() | st.booleans(),
        },
    ),
    min_size=1,
    max_size=6,
)


def test_a_fork_reads_by_itself_and_both_end_well():
    """In a process of its own: what is tried is how it and its child end."""
    script = """
import os, sys
from stages.core.ledger.catalog import connect
def read():
    return connect().sql("SELECT sum(x)::INT FROM range(10) r(x)").fetchall()
before = read()
child = os.fork()
if not child:
    sys.exit(0 if read() == before == [(45,)] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert read() == before
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_connections_have_tables_and_views_of_their_own():
    one, other = connect(), connect()
    for connection, value in ((one, 1), (other, 2)):
        connection.register("t", pa.table({"x": [value]}))
        connection.execute("CREATE TEMP VIEW v AS SELECT x + 1 AS y FROM t")
    assert [c.sql("SELECT y FROM v").fetchall() for c in (one, other)] == [[(2,)], [(3,)]]
    assert other.sql("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]


def test_after_an_error_that_ends_an_instance_another_is_started(monkeypatch):
    class Ended:
        def cursor(self):
            raise duckdb.FatalException("database has been invalidated")

    monkeypatch.setattr(catalog_module, "_instances", [Ended()])
    assert connect().sql("SELECT 1").fetchall() == [(1,)]


@given(parts=st.lists(rows, min_size=1, max_size=3))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_what_is_committed_is_read(catalog, parts):
    mark = f"m{abs(hash(repr(parts)))}x{len(catalog.steps())}"
    written = []
    for number, part in enumerate(parts):
        part = [row(10 * number + i, **columns) for i, columns in enumerate(part)]
        catalog.commit("base", mark, part, SCHEMA)
        written += part
    found = {r["id"]: r for r in read(catalog, mark=mark).to_pylist()}
    assert len(catalog.parts("base", mark)) == len(parts)
    assert found.keys() == {r["id"] for r in written}
    for r in written:
        got = found[r["id"]]
        assert got["count"] == (r.get("count") or 0)
        assert got["score"] == r.get("score")
        assert (got["name"], got["good"]) == (r.get("name") or "", bool(r.get("good")))


def test_integers_are_never_null():
    table = to_table([row(1, rows=[{"part": None}, {"box": {}}])], NESTED)
    assert table["rows"].to_pylist() == [[{"id": "", "part": 0, "box": None}, {"id": "", "part": 0, "box": {"x": 0}}]]
    assert table["attempt"].null_count == 0
    assert table["started"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"more": 1}, "more"),
        ({"count": "one"}, "count does not fit"),
        ({"count": 1.5}, "count does not fit"),
        ({"count": np.float32(1.5)}, "count does not fit"),
        ({"count": float("nan")}, "count does not fit"),
        ({"count": 1 << 70}, "count does not fit"),
        ({"name": 3}, "name does not fit"),
        ({"name": "\udcff"}, "name does not fit"),
    ],
    ids=str,
)
def test_a_row_that_does_not_fit_is_bad_input(bad, says):
    with pytest.raises(BadInput, match=says):
        to_table([row(1, **bad)], SCHEMA)


def test_a_nested_field_too_many_is_bad_input():
    with pytest.raises(BadInput, match="mroe"):
        to_table([row(1, rows=[{"part": 1, "mroe": 2}])], NESTED)


def test_a_step_may_not_take_the_ledgers_columns():
    with pytest.raises(BadInput, match="status"):
        ledger_schema(pa.schema([("status", pa.string())]), False)


@pytest.mark.parametrize("name", ["..", "a/b", "", "a b", 'x"y'])
def test_names_that_are_no_folder(catalog, name):
    with pytest.raises(BadInput, match="cannot name a table"):
        catalog.commit(name, "f", [row(1)], SCHEMA)
    with pytest.raises(BadInput, match="cannot name a table"):
        catalog.parts("base", name)


def test_an_empty_catalog(catalog):
    assert catalog.steps() == []
    assert catalog.parts("base", "f") == []
    assert catalog.rows(connect(), "base", "f") == NO_ROWS
    catalog.commit("base", "f", [], SCHEMA)
    assert catalog.steps() == []


def test_concurrent_writers_do_not_clash(catalog):
    def write(worker: int) -> None:
        for i in range(4):
            catalog.commit("base", "f", [row(100 * worker + i, worker=str(worker))], SCHEMA)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.parts("base", "f")) == read(catalog).num_rows == 16
    assert catalog.steps() == [("base", "f")]


def test_times_come_back_in_utc(catalog):
    when = datetime(2026, 3, 1, 12, tzinfo=UTC)
    catalog.commit("base", "f", [row(1, started=when)], SCHEMA)
    assert read(catalog)["started"].to_pylist() == [when]
    assert read(catalog).schema.names == SCHEMA.names


def test_roots_are_kept_once(catalog):
    takes = toys.roots([("a", 0), ("b", 1)])
    path = catalog.put_roots(takes, toys.ROOTS, "d")
    before = catalog.storage.info(path)
    assert catalog.put_roots(takes, toys.ROOTS, "d") == path
    assert catalog.storage.info(path) == before
    assert catalog.read_file(path).to_pylist() == [{"extra": None, "place": None, **take} for take in takes]


def test_a_listed_part_that_vanished_is_looked_for_again(catalog):
    """As when compaction deletes a source between the listing and the read."""
    for i in range(3):
        catalog.commit("base", "f", [row(i)], SCHEMA)
    real, calls = type(catalog).parts, []

    def stale(self, step, mark, prefix="part-"):
        found = real(self, step, mark, prefix)
        if not calls:
            calls.append(1)
            self.commit(step, mark, [row(0)], SCHEMA)
            self.storage.remove(found[0])
            whole = [row(i) for i in range(3)]
            self.commit(step, mark, whole, SCHEMA)
        return found

    type(catalog).parts = stale
    try:
        assert {r["parents"] for r in read(catalog).to_pylist()} == {"0", "1", "2"}
    finally:
        type(catalog).parts = real
    assert calls


def test_the_ledger_names_each_column_once():
    names = [f.name for f in LEDGER]
    assert len(names) == len(set(names))
    assert {"id", "parents", "depends", "status", "attempt"} <= set(names)
    assert set(VOLATILE) <= set(names)
