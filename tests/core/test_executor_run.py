import threading

import pytest

from stages.core.config import make_ref
from stages.core.errors import ABSENT, PERMANENT, TRANSIENT, BadInput, Stopped, is_out_of_memory, kind_of
from stages.core.identity import child_id, row_id
from stages.core.ledger.records import RUN_SCHEMA, RUNS, RUNS_FINGERPRINT
from stages.core.planning.survey import Count, Survey
from stages.core.running.executor import LocalExecutor, Work
from stages.core.running.run import COMMIT_ROWS, Budget, Run
from stages.core.running.runs import find_run, runs_table
from stages.core.step import AbsentError
from stages.core.weights.digests import fingerprint
from tests import toys
from tests.toy_plans import ROOTS, ref, takes
from tests.toy_run import TAKES, run_all


def odd(local, gives: str):
    """The one ledger row of the Odd step."""
    work = Work("in", "d", 0, {"id": "in"})
    return next(LocalExecutor(local.storage).map(odd_ref(gives), [work], threading.Event()))


def odd_ref(gives: str = "good"):
    """The Odd step, as a plan holds it."""
    return toys.plan_of(toys.ref("odd", "Odd", gives=gives)).refs["odd"]


@pytest.mark.parametrize(
    ("gives", "kind", "says"),
    [
        ("extra", PERMANENT, "more"),
        ("text", PERMANENT, "number does not fit"),
        ("huge", PERMANENT, "number does not fit"),
        ("ledger", PERMANENT, "may not write the reserved columns"),
        ("none", PERMANENT, "TypeError"),
        ("unknown", TRANSIENT, "KeyError"),
        ("no setup", TRANSIENT, "no weights"),
        ("surrogate", TRANSIENT, "bad name ?"),
    ],
)
def test_a_bad_output_is_one_error_row(local, gives, kind, says):
    row = odd(local, gives)
    assert (row["status"], row["error_kind"]) == ("error", kind)
    assert says in row["error"]
    assert (row["parents"], row["depends"], row["attempt"]) == ("in", "d", 1)


def test_a_good_row_has_its_identity_and_cost(local):
    row = odd(local, "good")
    assert (row["status"], row["number"]) == ("ok", 1)
    assert row["id"] == row_id(odd_ref().fingerprint, "in", "d")
    assert row["ended"] >= row["started"]
    assert row["core_seconds"] >= 0
    assert row["peak_memory_mb"] > 1


def test_children_get_ids_of_their_parent(local):
    plan = toys.toy_plan(local, TAKES[:1])
    run_all(local, plan)
    parent = Survey(local, plan).query("SELECT * FROM v_split").to_pylist()[0]
    assert [r["id"] for r in parent["rows"]] == [child_id(parent["id"], i) for i in range(2)]


def test_one_bad_row_never_stops_a_batch(local):
    toys.TROUBLE["blue box"] = "permanent"
    plan = toys.toy_plan(local, TAKES)
    run_all(local, plan)
    status = {r["status"] for r in Survey(local, plan).table("words").to_pylist()}
    assert status == {"ok", "error"}
    assert Survey(local, plan).count("split").done == 6


def test_stop_ends_between_rows(local):
    stop, ref = threading.Event(), odd_ref()
    rows = LocalExecutor(local.storage).map(ref, [Work(str(i), "", 0, {}) for i in range(9)], stop)
    next(rows)
    stop.set()
    assert list(rows) == []


def test_set_up_once_for_a_fingerprint(local, monkeypatch):
    calls = []
    monkeypatch.setattr(toys.Odd, "setup", lambda self: calls.append(1))
    executor, ref = LocalExecutor(local.storage), odd_ref()
    for _ in range(2):
        assert len(list(executor.map(ref, [Work("a", "", 0, {}), Work("b", "", 0, {})], threading.Event()))) == 2
    assert len(calls) == 1
    executor.release(ref)
    list(executor.map(ref, [Work("a", "", 0, {})], threading.Event()))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("cut"), TRANSIENT),
        (TimeoutError(), TRANSIENT),
        (MemoryError(), TRANSIENT),
        (RuntimeError("CUDA out of memory"), TRANSIENT),
        (FileNotFoundError(2, "gone"), PERMANENT),
        (AbsentError("moved"), ABSENT),
        (ValueError("bad"), PERMANENT),
        (BadInput("bad"), PERMANENT),
        (OSError(28, "no space"), TRANSIENT),
    ],
    ids=repr,
)
def test_kinds_of_errors(error, kind):
    assert kind_of(error) == kind
    assert is_out_of_memory(error) == ("emory" in repr(error))


def test_a_budget_stops_the_run_and_leaves_it_resumable(local):
    plan = toys.toy_plan(local, TAKES, {"words": {"pause": 0.01}})
    with pytest.raises(Stopped, match="budget of 1e-06 core seconds is used up"):
        run_all(local, plan, budget=Budget(core_seconds=1e-6))
    assert Survey(local, plan).count("words").done == 4
    assert Survey(local, plan).count("split").done == 0
    run_all(local, plan)
    assert Survey(local, plan).count("mark").done == 8


def test_budget_limits():
    assert Budget(core_seconds=2).exceeded({"core_seconds": 1.9, "gpu_seconds": 99}) == ""
    assert "gpu seconds" in Budget(gpu_seconds=2).exceeded({"gpu_seconds": 2.0})
    assert "wall seconds" in Budget(wall_seconds=1e-9).exceeded({})
    assert Budget().exceeded({"core_seconds": 1e9}) == ""


def test_rows_are_committed_in_parts_not_one_by_one(local):
    takes = [(f"text {i}", 0) for i in range(COMMIT_ROWS + 3)]
    plan = toys.toy_plan(local, takes)
    run = Run(local, LocalExecutor(local.storage), plan)
    run.do(plan.node("words"), Survey(local, plan).items(plan.phases[0]))
    assert len(local.parts("words", plan.node("words").fingerprint)) == 2


def test_the_longest_rows_are_handed_out_first(local, monkeypatch):
    monkeypatch.setattr(toys.Split, "heft", "seed")
    plan, given = toys.toy_plan(local, [("short", 1), ("longest", 9), ("long", 5)]), []

    class Notes(LocalExecutor):
        def map(self, ref, work, stop):
            given.extend(w.row["seed"] for w in work if ref.name == "split")
            return super().map(ref, work, stop)

    run = Run(local, Notes(local.storage), plan)
    items = run.do(plan.node("words"), Survey(local, plan).items(plan.phases[0]))
    run.do(plan.node("split"), items)
    assert given == [9, 5, 1]


def test_what_came_back_before_an_exception_is_kept(local):
    plan = toys.toy_plan(local, TAKES)

    class Breaks(LocalExecutor):
        def map(self, ref, work, stop):
            yield from list(super().map(ref, work[:2], stop))
            raise RuntimeError("the cluster is gone")

    run = Run(local, Breaks(local.storage), plan)
    with pytest.raises(RuntimeError, match="cluster"):
        run.do(plan.node("words"), Survey(local, plan).items(plan.phases[0]))
    assert Survey(local, plan).count("words").done == 2


def test_the_same_step_twice_beside_itself_makes_rows_of_both(local):
    """Two nodes of one class and config that read the same: their rows have the same ids, in a table each."""
    steps = {"source": ref("source", "Source"), "one": ref("one", "Note"), "two": ref("two", "Note")}
    plan = toys.planned(local, takes({"text": "a", "seed": 0}, {"text": "a", "seed": 1}), steps, ROOTS)
    survey = run_all(local, plan).survey
    assert [survey.counts()[n] for n in ("one", "two")] == [Count(1, 0, 0, 0)] * 2
    assert survey.table("one")["id"].to_pylist() == survey.table("two")["id"].to_pylist()


def test_every_run_is_a_row_that_can_be_read_as_a_view(local):
    catalog = local
    plan = toys.toy_plan(catalog, TAKES[:2])
    first = run_all(catalog, plan)
    second = run_all(catalog, toys.toy_plan(catalog, TAKES[:4]))
    assert [r["run_id"] for r in runs_table(catalog).to_pylist()] == [first.run_id, second.run_id]
    assert find_run(catalog).row["run_id"] == second.run_id
    early = find_run(catalog, run_id=first.run_id)
    assert early.plan == plan
    assert early.survey(catalog).count("split").done == 2
    assert find_run(catalog, flow="toy").survey(catalog).count("split").done == 4
    with pytest.raises(BadInput, match="no other run"):
        find_run(catalog, flow="other")
    with pytest.raises(BadInput, match="is the beginning of 2 run ids"):
        find_run(catalog, run_id=first.run_id[:4])


def test_a_run_whose_process_is_gone_is_lost(local):
    plan = toys.toy_plan(local, TAKES[:1])
    run = Run(local, LocalExecutor(local.storage), plan)
    run.begin()
    assert find_run(local).row["status"] == "running"
    row, gone = find_run(local).row, 2**22 + 1
    others = [
        {**row, "run_id": "dead", "pid": gone},
        {**row, "run_id": "reused", "pid": 1, "started": row["started"].replace(year=1999)},
        {**row, "run_id": "elsewhere", "pid": gone, "host": "another"},
    ]
    local.commit(RUNS, RUNS_FINGERPRINT, others, RUN_SCHEMA)
    found = {r["run_id"]: r["status"] for r in runs_table(local).to_pylist()}
    assert found == {run.run_id: "running", "dead": "lost", "reused": "lost", "elsewhere": "running"}


def test_weights_enter_by_content_and_not_by_path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def checkpoint(name: str, data: bytes):
        folder = tmp_path / name / "encoder"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(toys.safetensors(data))
        (tmp_path / name / "other").write_bytes(name.encode())  # not a part that this step loads
        return make_ref("w", {"use": "tests.toys:Weighted", "model": str(tmp_path / name)})

    one, copy, other = checkpoint("a", b"1"), checkpoint("b", b"1"), checkpoint("c", b"2")
    assert fingerprint(one) == fingerprint(copy) != fingerprint(other)
    notes = tmp_path / "a" / "encoder" / ".cache" / "notes"
    notes.parent.mkdir()
    notes.write_text("downloaded today")
    assert fingerprint(one) == fingerprint(copy)
    assert dict(toys.plan_of(one).node("w").weights)["model"]
    (tmp_path / "a" / "encoder" / "model.safetensors").write_bytes(toys.safetensors(b"3"))
    assert fingerprint(one) != fingerprint(copy)


@pytest.mark.parametrize(
    ("model", "revision", "says"),
    [("nowhere", "", "not a folder"), ("org/model", "", "revision"), ("/no/where", "x", "not a folder")],
)
def test_weights_without_identity_are_refused(model, revision, says):
    with pytest.raises(BadInput, match=says):
        fingerprint(make_ref("w", {"use": "tests.toys:Weighted", "model": model, "revision": revision}))


def test_an_incomplete_checkpoint_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"incomplete.*encoder"):
        fingerprint(make_ref("w", {"use": "tests.toys:Weighted", "model": str(tmp_path)}))


def test_hub_weights_are_pinned_by_their_revision():
    one, other = (make_ref("w", {"use": "tests.toys:Weighted", "model": "org/model", "revision": r}) for r in "ab")
    assert fingerprint(one) != fingerprint(other)
