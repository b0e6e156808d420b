"""Plans and surveys. The model test: whatever a run goes through, it ends where a fresh run ends."""

import contextlib
import json
import threading
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stages.core.errors import BadInput, Stopped
from stages.core.identity import depends_digest
from stages.core.ledger.catalog import Catalog, ledger_schema
from stages.core.ledger.compaction import compact
from stages.core.ledger.storage import Storage
from stages.core.ledger.upkeep import verify
from stages.core.planning.plan import Node, Plan
from stages.core.planning.survey import Count, Survey
from stages.core.running.executor import LocalExecutor
from stages.core.running.run import Run
from tests import toys
from tests.toy_run import TAKES, run_all
from tests.toys import Words, toy_plan

STABLE = ("id", "parents", "depends", "status", "reasons", "error", "error_kind")


def tables(catalog, plan, jobs=None):
    """Every node's rows without what differs between two honest runs."""
    survey = Survey(catalog, plan, jobs=jobs)
    own = {"words": ["uri"], "split": ["id", "parent_id", "uri"], "keep": ["id", "status"], "mark": ["mark"]}
    found = {}
    for name, columns in own.items():
        if not survey._known(name):
            continue
        table = survey.table(name)
        kept = [c for c in (*STABLE, *columns) if c in table.column_names]
        found[name] = sorted(json.dumps(row, sort_keys=True) for row in table.select(sorted(set(kept))).to_pylist())
    return found


def fresh(tmp_path, takes, configs=None):
    catalog = Catalog(Storage(str(tmp_path)))
    plan = toy_plan(catalog, takes, configs)
    run_all(catalog, plan)
    return tables(catalog, plan)


def test_counts_before_and_after(catalog):
    plan = toy_plan(catalog, TAKES)
    before = Survey(catalog, plan).counts()
    assert before == {
        "words": Count(0, 4, 0, 0),  # one row for each text, not for each take
        "split": Count(0, 0, 8, 0),
        "keep": Count(0, 1, 0, 0),
        "mark": Count(0, 0, 0, 0),
    }
    run_all(catalog, plan)
    after = Survey(catalog, plan)
    assert after.counts() == {
        "words": Count(4, 0, 0, 0),
        "split": Count(8, 0, 0, 0),
        "keep": Count(1, 0, 0, 0),
        "mark": Count(8, 0, 0, 0),
    }
    assert [after.items(p) for p in plan.phases] == [[], []]
    assert len(after.items(plan.phases[0], unsettled=False)) == 8
    assert verify(catalog).faults == []


def test_items_come_in_order_and_carry_their_rows(local):
    plan = toy_plan(local, TAKES)
    run_all(local, plan, limit=3)
    survey = Survey(local, plan)
    items = survey.items(plan.phases[0], unsettled=False)
    assert [i["unit"]["position"] for i in items] == list(range(8))
    assert [i["words"]["length"] for i in items[:4]] == [8, 8, 8, 8]
    assert items[0]["words"]["retry"] is False
    assert items[0]["split"]["rows"][1]["part"] == 1
    assert items[4]["words"] is None
    assert "worker" not in items[0]["words"]


def test_a_to_b_and_back_shows_a_again_without_work(local):
    a, b = (toy_plan(local, TAKES, {"words": {"suffix": s}}) for s in ("", "!"))
    run_all(local, a)
    shown = tables(local, a)
    run_all(local, b)
    assert tables(local, b) != shown
    calls = Counter(toys.CALLS)
    run_all(local, a)
    assert calls == toys.CALLS
    assert tables(local, a) == shown


def test_a_change_below_keeps_what_is_above(local):
    run_all(local, toy_plan(local, TAKES))
    changed = toy_plan(local, TAKES, {"mark": {"add": 5}})
    assert {k: c.todo for k, c in Survey(local, changed).counts().items()} == {
        "words": 0,
        "split": 0,
        "keep": 0,
        "mark": 8,
    }


def test_adding_takes_costs_only_those(local):
    run_all(local, toy_plan(local, TAKES))
    toys.CALLS.clear()
    run_all(local, toy_plan(local, [*TAKES, ("violet ring", 0), ("red ball", 7)]))
    assert toys.CALLS == {"violet ring": 1}


def test_resources_do_not_enter_identity(local):
    one, other = (toy_plan(local, TAKES, {"words": {"resources": {"cpus": c}}}) for c in (1, 3))
    assert one == other


def test_a_version_enters_identity(local, monkeypatch):
    before = toy_plan(local, TAKES)
    monkeypatch.setattr(Words, "version", 3)
    assert toy_plan(local, TAKES).node("words").fingerprint != before.node("words").fingerprint


@pytest.mark.parametrize(
    ("trouble", "first", "second", "third"),
    [
        ("transient", (1, 0, 0), (1, 0, 0), (0, 0, 1)),  # two attempts are left, then one, then none
        ("permanent", (0, 0, 1), (0, 0, 1), (0, 0, 1)),
        ("memory", (1, 0, 0), (1, 0, 0), (0, 0, 1)),
        ("reject", (0, 1, 0), (0, 1, 0), (0, 1, 0)),
        ("skip", (0, 1, 0), (0, 1, 0), (0, 1, 0)),
    ],
)
def test_what_a_rerun_tries_again(local, trouble, first, second, third):
    """(to do, set aside as done, failed) of the troubled text after each of three runs."""
    toys.TROUBLE["red ball"] = trouble
    plan = toys.planned(local, toys.roots([("red ball", 0)]), {"words": toys.ref("words")})
    for todo, done, failed in (first, second, third):
        run_all(local, plan)
        count = Survey(local, plan).count("words")
        assert (count.todo, count.done, count.failed) == (todo, done, failed)
    tries = 3 if trouble in ("transient", "memory") else 1
    assert toys.CALLS["red ball"] == tries
    run_all(local, plan, retry_errors=True)
    assert toys.CALLS["red ball"] == tries + (trouble in ("transient", "permanent", "memory"))
    toys.TROUBLE.clear()
    run_all(local, plan, retry_errors=True)
    expected = "ok" if trouble not in ("reject", "skip") else {"reject": "rejected", "skip": "skipped"}[trouble]
    assert Survey(local, plan).table("words")["status"].to_pylist() == [expected]


def test_typed_reasons_arrive(local):
    toys.TROUBLE["red ball"] = "reject"
    plan = toy_plan(local, [("red ball", 0)])
    run_all(local, plan)
    reason = {"step": "words", "metric": "length", "value": "8", "op": ">=", "threshold": "100"}
    assert Survey(local, plan).table("words")["reasons"].to_pylist() == [[reason]]


def test_what_is_behind_a_rejected_row_is_not_work(local):
    toys.TROUBLE["red ball"] = "reject"
    plan = toy_plan(local, TAKES)
    run_all(local, plan)
    assert Survey(local, plan).counts()["split"] == Count(6, 0, 0, 0)
    assert Survey(local, plan).items(plan.phases[0]) == []


def test_an_ok_row_wins_over_a_later_error(local):
    """Two runs side by side: one made it, the other's later attempt did not."""
    plan = toy_plan(local, [("red ball", 0)])
    run_all(local, plan)
    words = plan.node("words")
    row = Survey(local, plan).table("words").to_pylist()[0]
    error = {
        "id": row["id"],
        "parents": row["parents"],
        "depends": row["depends"],
        "status": "error",
        "error_kind": "transient",
        "attempt": 9,
    }
    local.commit("words", words.fingerprint, [error], ledger_schema(Words.writes, False))
    assert Survey(local, plan).count("words") == Count(1, 0, 0, 0)
    assert Survey(local, plan).table("words").to_pylist() == [row]


def test_rows_computed_twice_are_shown_once(local):
    plan = toy_plan(local, TAKES)
    run_all(local, plan)
    shown = tables(local, plan)
    for path in local.parts("split", plan.node("split").fingerprint):
        local.commit_table("split", plan.node("split").fingerprint, local.read_file(path), "part-again")
    assert tables(local, plan) == shown
    assert Survey(local, plan).counts()["split"] == Count(8, 0, 0, 0)
    report = verify(local)
    assert (report.faults, len(report.twice)) == ([], 8)


def test_units_that_come_twice_are_one(local):
    """Two parents that give children of one id, as steps may that name children by their content."""
    plan = toy_plan(local, TAKES)
    run_all(local, plan)
    split = plan.node("split")
    row = Survey(local, plan).query("SELECT * FROM l_split ORDER BY id").to_pylist()[0]
    twin = {k: v for k, v in row.items() if k != "retry"} | {"id": "twin", "depends": depends_digest({"seed": 77})}
    local.commit("split", split.fingerprint, [twin], ledger_schema(toys.Split.writes, True))
    words = {r["id"]: r["uri"] for r in Survey(local, plan).query("SELECT id, uri FROM l_words").to_pylist()}
    text = local.storage.read(words[row["parents"]]).decode()
    twice = toy_plan(local, [*TAKES, (text, 77)])
    run_all(local, twice)
    survey = Survey(local, twice)
    ids = [i["unit"]["id"] for i in survey.items(twice.phases[1], unsettled=False)]
    assert len(ids) == len(set(ids)) == 8
    assert survey.units(twice.phases[1], ["part"]).num_rows == 8


def test_a_survey_outlives_compaction(local):
    """Its parts are gone by the time it is asked."""
    plan = toy_plan(local, TAKES)
    run_all(local, plan, limit=2)
    run_all(local, plan)
    survey = Survey(local, plan)
    expected = tables(local, plan)
    assert compact(local, grace_seconds=0).folders
    assert len(survey.table("split")) == len(expected["split"])
    assert len(survey.items(plan.phases[0], unsettled=False)) == 8
    assert tables(local, plan) == expected


def test_plans_survive_json(local):
    plan = toy_plan(local, TAKES, {"words": {"suffix": "!"}})
    assert Plan.from_json(plan.to_json()) == plan
    assert json.loads(plan.node("words").config) == {"suffix": "!", "pause": 0.0}


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "A"), ("unit", "b"), ("roots", "b"), ('a"b', "c"), ("", "b"), ("a/b", "c")], ids=str
)
def test_names_that_a_plan_refuses(names):
    with pytest.raises(BadInput):
        Plan("toy", "roots/x", tuple(Node(n, "x:Y", "f") for n in names))


class Resume(RuleBasedStateMachine):
    """Partial runs, stops, changes of mind, new takes, trouble and its end, compaction: all end as a fresh run does."""

    folder = None

    @initialize()
    def start(self):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.catalog = Catalog(Storage(self.folder.name + "/store"))
        self.takes, self.suffix = list(TAKES[:2]), ""
        toys.TROUBLE.clear()

    @property
    def plan(self):
        return toy_plan(self.catalog, self.takes, {"words": {"suffix": self.suffix}})

    @rule(limit=st.integers(1, 3))
    def run_partly(self, limit):
        run_all(self.catalog, self.plan, limit=limit)

    @rule(after=st.integers(0, 5))
    def stop_after(self, after):
        """The run ends between two rows; what was committed stays."""
        plan = self.plan
        run, count = Run(self.catalog, LocalExecutor(self.catalog.storage), plan), iter(range(100))
        run._listener = lambda *_: run.ask_to_stop("enough") if next(count) >= after else None
        items = Survey(self.catalog, plan).items(plan.phases[0])
        with contextlib.suppress(Stopped):
            for item in items:
                units = [item]
                for node in plan.phases[0].nodes[:2]:
                    units = run.do(node, units)

    @rule(suffix=st.sampled_from(["", "!", "?"]))
    def change_config(self, suffix):
        self.suffix = suffix

    @rule(take=st.sampled_from(TAKES))
    def add_take(self, take):
        if take not in self.takes:
            self.takes.append(take)

    @rule(text=st.sampled_from([t for t, _ in TAKES]), kind=st.sampled_from(["transient", "permanent", "memory"]))
    def trouble(self, text, kind):
        toys.TROUBLE[text] = kind
        run_all(self.catalog, self.plan)
        toys.TROUBLE.clear()

    @rule()
    def compact(self):
        compact(self.catalog, grace_seconds=0)

    @invariant()
    def store_is_sound(self):
        if self.folder:
            report = verify(self.catalog)
            assert report.faults == []
            assert report.twice == []

    def teardown(self):
        if not self.folder:
            return
        import pathlib

        toys.TROUBLE.clear()
        run_all(self.catalog, self.plan, retry_errors=True)
        again = tables(self.catalog, self.plan)
        assert again == fresh(pathlib.Path(self.folder.name) / "fresh", self.takes, {"words": {"suffix": self.suffix}})
        calls = Counter(toys.CALLS)
        run_all(self.catalog, self.plan)
        assert calls == toys.CALLS
        self.folder.cleanup()


quick = settings(max_examples=3, stateful_step_count=5, deadline=None, suppress_health_check=list(HealthCheck))
long = settings(max_examples=60, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))


class TestResume(Resume.TestCase):
    settings = quick


@pytest.mark.soak
class TestResumeLong(Resume.TestCase):
    settings = long


def test_concurrent_shards_make_a_shared_row_once(local):
    """Eight shards at once, two takes of each text: four calls, not eight."""
    plan = toy_plan(local, TAKES, {"words": {"pause": 0.02}})
    run, items = Run(local, _Parallel(local.storage), plan), Survey(local, plan).items(plan.phases[0])
    done = []

    def shard(item):
        units = run.do(plan.node("words"), [item])
        done.extend(run.do(plan.node("split"), units))

    threads = [threading.Thread(target=shard, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(toys.CALLS.values()) == [1, 1, 1, 1]
    assert len(done) == 8
    assert all(item["split"]["status"] == "ok" for item in done)
    assert Survey(local, plan).counts()["split"] == Count(8, 0, 0, 0)
    assert verify(local).twice == []


class _Parallel(LocalExecutor):
    """Without the lock, so that shards really meet."""

    def map(self, ref, work, stop):
        for item in work:
            yield self._worker(ref).run_one(item)
