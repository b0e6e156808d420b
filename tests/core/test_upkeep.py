import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.core.errors import BadInput
from stages.core.identity import row_id
from stages.core.ledger.catalog import ledger_schema
from stages.core.ledger.compaction import LOCK, compact
from stages.core.ledger.storage import Storage
from stages.core.ledger.upkeep import repair, verify
from stages.core.planning.survey import Survey
from stages.core.step import ARTIFACT
from tests import toys
from tests.core.test_survey import tables
from tests.toy_run import TAKES, run_all
from tests.toys import toy_plan

FILES = ledger_schema(pa.schema(ARTIFACT), False)


@pytest.fixture
def made(local):
    """A finished toy run: (catalog, plan)."""
    plan = toy_plan(local, TAKES[:4])
    run_all(local, plan)
    return local, plan


def path_of(catalog, uri: str):
    return catalog.storage.local_path(uri)


def age(catalog, uri: str, days: float) -> None:
    when = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    os.utime(path_of(catalog, uri), (when, when))


def test_a_sound_store(catalog):
    plan = toy_plan(catalog, TAKES[:4])
    run_all(catalog, plan)
    report = verify(catalog)
    assert report.ok
    assert (report.faults, report.orphans, report.temporaries, report.twice) == ([], [], [], [])
    assert report.rows == 2 + 4 + 8 + 4 + 2  # words, split, keep, mark, runs
    assert report.files == 2 + 8


def test_an_empty_store_is_sound(catalog):
    assert verify(catalog).ok


def test_missing_and_changed_files_are_faults(made):
    catalog, plan = made
    rows = Survey(catalog, plan).table("split").to_pylist()
    path_of(catalog, rows[0]["uri"]).unlink()
    path_of(catalog, rows[1]["uri"]).write_bytes(b"other")
    faults = verify(catalog).faults
    assert len(faults) == 2
    assert any("is missing" in f and rows[0]["uri"] in f for f in faults)
    assert any("hash" in f and rows[1]["uri"] in f for f in faults)


def test_what_kills_leave_is_listed_and_no_fault(made):
    catalog, plan = made
    catalog.storage.put_media(b"orphan", ".bin")
    (catalog.storage.local_root / "tmp" / "half").write_bytes(b"ha")
    for path in catalog.parts("words", plan.node("words").fingerprint):
        catalog.commit_table("words", plan.node("words").fingerprint, catalog.read_file(path), "part-ffff")
    report = verify(catalog)
    assert report.ok
    assert [i.size for i in report.orphans] == [6]
    assert [i.uri for i in report.temporaries] == ["tmp/half"]
    assert len(report.twice) == 2


def test_repair_takes_old_leftovers_only(made):
    catalog, _ = made
    old, young = (catalog.storage.put_media(data, ".bin")["uri"] for data in (b"old orphan", b"young orphan"))
    (catalog.storage.local_root / "tmp" / "old").write_bytes(b"x")
    (catalog.storage.local_root / "tmp" / "young").write_bytes(b"x")
    for uri in (old, "tmp/old"):
        age(catalog, uri, 1.1)
    rows = [i.uri for i in catalog.storage.files("media") if i.uri not in (old, young)]
    for uri in rows:
        age(catalog, uri, 30)
    assert sorted(repair(catalog, verify(catalog))) == sorted([old, "tmp/old"])
    report = verify(catalog)
    assert (report.ok, [i.uri for i in report.orphans]) == (True, [young])
    assert [i.uri for i in report.temporaries] == ["tmp/young"]


def test_repair_looks_again_before_it_removes(made):
    """A live run puts the same bytes again between the report and the repair."""
    catalog, _ = made
    made_file = catalog.storage.put_media(b"old orphan", ".bin")
    age(catalog, made_file["uri"], 3)
    report = verify(catalog)
    catalog.storage.put_media(b"old orphan", ".bin")
    assert repair(catalog, report) == []
    assert catalog.storage.read(made_file["uri"]) == b"old orphan"


def file_row(data: bytes, storage: Storage, i: int = 0, **columns):
    return {
        "id": row_id("f", str(i), ""),
        "parents": str(i),
        "status": "ok",
        "attempt": 1,
        **storage.put_media(data, ".x"),
        **columns,
    }


def test_the_same_work_with_other_bytes_is_a_fault(catalog):
    for data in (b"one", b"two"):
        catalog.commit("base", "f", [file_row(data, catalog.storage)], FILES)
    (fault,) = verify(catalog).faults
    assert "different files" in fault
    compact(catalog, grace_seconds=0)
    assert verify(catalog).faults == [fault]


def test_a_row_in_the_wrong_folder_is_a_fault(catalog):
    catalog.commit("base", "g", [file_row(b"one", catalog.storage)], FILES)
    assert "does not follow from its parents" in verify(catalog).faults[0]


def test_a_row_that_leads_outside_is_a_fault(catalog):
    catalog.commit("base", "f", [file_row(b"one", catalog.storage, uri="../../etc/passwd")], FILES)
    assert "not a path inside" in verify(catalog).faults[0]


def test_sources_by_url_are_counted_and_not_opened(catalog):
    catalog.commit("base", "f", [file_row(b"one", catalog.storage, uri="file:///nowhere/at/all.mp4")], FILES)
    report = verify(catalog)
    assert (report.faults, report.outside) == ([], 1)


def test_broken_parts_are_faults(made):
    catalog, plan = made
    root = catalog.storage.local_root
    (part,) = catalog.parts("mark", plan.node("mark").fingerprint)
    (root / part).write_bytes((root / part).read_bytes()[:-20])
    (root / part).with_name("part-0.parquet").write_bytes(b"")
    assert [f.split(" cannot be read")[0] for f in verify(catalog).faults] == sorted(
        [part, part.rsplit("/", 1)[0] + "/part-0.parquet"]
    )


def test_parts_of_another_form_are_faults(made):
    catalog, plan = made
    (part,) = catalog.parts("mark", plan.node("mark").fingerprint)
    path = catalog.storage.local_root / part
    table = pq.read_table(path)
    index = table.schema.get_field_index("mark")
    nulls = table.set_column(index, "mark", pa.nulls(table.num_rows, pa.int64()))
    pq.write_table(nulls, path.with_name("part-f1.parquet"))
    pq.write_table(table.drop_columns(["status"]), path.with_name("part-f2.parquet"))
    faults = "\n".join(verify(catalog).faults)
    assert "column mark holds 4 nulls" in faults
    assert "column status is missing" in faults
    assert "differ from those of the parts beside it" in faults


def test_missing_roots_are_a_fault(made):
    catalog, plan = made
    catalog.storage.remove(plan.roots)
    assert any(plan.roots in f for f in verify(catalog).faults)


def test_strangers_among_the_parts_are_listed(made):
    catalog, plan = made
    catalog.storage.write(f"{catalog.folder('mark', plan.node('mark').fingerprint)}/notes.txt", b"x")
    report = verify(catalog)
    assert report.ok
    assert [i.uri.rsplit("/", 1)[-1] for i in report.orphans] == ["notes.txt"]


# -- compaction --------------------------------------------------------------------------------------------------------


def many_parts(catalog, parts: int = 4):
    for i in range(parts):
        catalog.commit("base", "f", [file_row(f"{i}".encode(), catalog.storage, i)], FILES)


def inputs(catalog) -> list[str]:
    return sorted(r["parents"] for t in catalog.tables("base", "f") for r in t.to_pylist())


def test_compaction_keeps_every_row_once(catalog):
    many_parts(catalog)
    before = catalog.parts("base", "f")
    catalog.commit("base", "f", [file_row(b"0", catalog.storage, 0, run_id="twin")], FILES)
    catalog.commit("base", "f", [file_row(b"0", catalog.storage, 0, attempt=2)], FILES)
    done = compact(catalog, grace_seconds=0)
    assert (done.folders, done.before, done.after, done.dropped) == (1, 6, 1, 1)
    (merged,) = catalog.parts("base", "f")
    assert merged > max(before)
    assert inputs(catalog) == ["0", "0", "1", "2", "3"]
    assert catalog.tables("base", "f")[0].schema.equals(FILES)
    assert verify(catalog).faults == []
    assert compact(catalog, grace_seconds=0).before == 0


def test_merged_parts_are_merged_again_and_sort_last(catalog):
    many_parts(catalog)
    compact(catalog, grace_seconds=0)
    (first,) = catalog.parts("base", "f")
    catalog.commit("base", "f", [file_row(b"9", catalog.storage, 9)], FILES)
    assert catalog.parts("base", "f")[-1] == first
    compact(catalog, grace_seconds=0)
    (second,) = catalog.parts("base", "f")
    assert second > first
    assert inputs(catalog) == ["0", "1", "2", "3", "9"]


def test_large_parts_are_left_alone(catalog):
    many_parts(catalog)
    assert compact(catalog, grace_seconds=0, target_bytes=10).before == 0
    assert compact(catalog, grace_seconds=0, min_parts=5).before == 0


def test_sources_stay_for_the_grace(catalog):
    many_parts(catalog)
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        assert len(catalog.parts("base", "f")) == 5
        assert inputs(catalog) == sorted(["0", "1", "2", "3"] * 2)

    compact(catalog, grace_seconds=77, wait=wait)
    assert waited == [77]
    assert len(catalog.parts("base", "f")) == 1


def test_one_compactor_at_a_time(catalog):
    many_parts(catalog)

    def wait(_: float) -> None:
        with pytest.raises(BadInput, match="another compaction"):
            compact(catalog, grace_seconds=0)

    compact(catalog, wait=wait)
    many_parts(catalog)
    assert compact(catalog, grace_seconds=0).before


def test_jobs_and_views_survive(made):
    catalog, plan = made
    run_all(catalog, toy_plan(catalog, TAKES))
    expected = tables(catalog, plan)
    assert compact(catalog, grace_seconds=0).folders >= 3
    assert tables(catalog, plan) == expected
    assert verify(catalog).faults == []


COMPACT = (
    "import sys; from stages.core.ledger.catalog import Catalog; from stages.core.ledger.storage import Storage; "
    "from stages.core.ledger.compaction import compact; compact(Catalog(Storage(sys.argv[1])), grace_seconds=0)"
)


@pytest.mark.parametrize("point", ["before_commit", "mid_move", "after_commit", "before_delete", "before_delete:3"])
def test_a_killed_compaction_loses_nothing_and_is_finished(local, point):
    many_parts(local)
    done = subprocess.run([sys.executable, "-c", COMPACT, local.storage.url], env=toys.environment(RUSHES_CRASH=point))
    assert done.returncode == -9
    assert set(inputs(local)) == {"0", "1", "2", "3"}
    assert verify(local).faults == []
    merged = any("part-m" in p for p in local.parts("base", "f"))
    again = compact(local, grace_seconds=0)
    assert again.after == (0 if merged else 1)
    assert inputs(local) == ["0", "1", "2", "3"]
    assert len(local.parts("base", "f")) == 1


def test_a_lease_that_a_kill_left_runs_out(s3_endpoint):
    from stages.core.ledger import compaction
    from stages.core.ledger.catalog import Catalog
    from tests.core.conftest import s3_storage

    catalog = Catalog(s3_storage(s3_endpoint, "leases"))
    catalog.storage.write(LOCK, b"1")
    with pytest.raises(BadInput, match="another compaction"):
        compact(catalog, grace_seconds=0)
    before, compaction.LEASE = compaction.LEASE, timedelta(0)
    try:
        compact(catalog, grace_seconds=0)
    finally:
        compaction.LEASE = before


def read_beside_compaction(local, times: int) -> None:
    """Writers, a compactor and readers, until there were so many reads and merged parts. Every read has every row that
    was committed before it began."""
    plan = toy_plan(local, TAKES[:2])
    run_all(local, plan)
    words, stop, committed, failed = plan.node("words"), threading.Event(), [0], []
    schema, reads = ledger_schema(toys.Words.writes, False), [0]

    def write() -> None:
        while not stop.is_set():
            i = committed[0]
            row = {"id": row_id(words.fingerprint, f"in{i}", ""), "parents": f"in{i}", "status": "ok", "attempt": 1}
            local.commit("words", words.fingerprint, [row], schema)
            committed[0] = i + 1
            time.sleep(0.01)

    def read() -> None:
        while not stop.is_set():
            least = committed[0] + 1
            try:
                found = len(Survey(local, plan).query("SELECT DISTINCT id FROM l_words"))
            except Exception as error:
                failed.append(error)
                return
            reads[0] += 1
            if found < least:
                failed.append((found, least))

    threads = [threading.Thread(target=f) for f in (write, read, read)]
    for thread in threads:
        thread.start()
    compactions = 0
    while min(reads[0], compactions) < times and not failed:
        compactions += compact(local, grace_seconds=0).after
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []


def test_readers_miss_nothing_beside_writers_and_compaction(local):
    read_beside_compaction(local, 5)


@pytest.mark.soak
def test_readers_miss_nothing_for_long(local):
    read_beside_compaction(local, 150)
