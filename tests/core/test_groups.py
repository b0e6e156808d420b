"""Jobs that decide group by group: what they let pass goes on at once, and nothing that was promoted is done again."""

import json
import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from stages.core.ledger.compaction import compact
from stages.core.ledger.records import STORE_TABLE
from stages.core.ledger.upkeep import verify
from stages.core.planning.survey import Count, Survey
from stages.core.running.executor import LocalExecutor
from stages.core.running.run import Run
from tests import toys
from tests.gate_run import TEXTS, go_on, plan_of, run_by_text
from tests.toy_plans import CALLS, REFUSED, ROOTS, ref, shots
from tests.toy_run import run_all


@pytest.fixture(autouse=True)
def _fresh():
    CALLS.clear()
    REFUSED.clear()
    yield
    REFUSED.clear()


def films(survey):
    """text -> (id, film) of what was finished."""
    rows = survey.query("SELECT u.text, v.id, v.film FROM v_finish v JOIN u_gate u ON u.id = v.unit_id").to_pylist()
    return {r["text"]: (r["id"], r["film"]) for r in rows}


def called(name):
    return {what: n for (node, what), n in CALLS.items() if node == name}


def everything(catalog, plan):
    """The rows of every node without what differs between two honest runs."""
    survey, volatile = Survey(catalog, plan), {"run_id", "worker", "setups", "started", "ended", "retry", "attempt"}
    found = {}
    for node in plan.nodes:
        rows = survey.query(f'SELECT * FROM "v_{node.name}"').to_pylist()
        kept = [{k: v for k, v in r.items() if k not in volatile and not k.endswith(("_seconds", "_mb"))} for r in rows]
        found[node.name] = sorted(json.dumps(r, sort_keys=True) for r in kept)
    return found


def standing(survey):
    """Everything that a run asks a survey for."""
    known = [p for p in survey.plan.phases if survey.units_known(p)]
    return (
        survey.counts(),
        survey.jobs,
        {n.name: survey.groups(n).all for p in known for n in p.jobs if n.per},
        {p.name: (survey.items(p), survey.items(p, unsettled=False), survey.shared(p)) for p in known},
    )


def test_a_survey_that_is_read_again_says_what_a_new_one_says(local):
    """After every few rows and every decision, after a review, a compaction, and what another run has added."""
    plan = plan_of(local, reviews=True)
    run = Run(local, LocalExecutor(local.storage), plan)
    run.begin()
    survey = run.survey

    def look():
        survey.refresh()
        assert standing(survey) == standing(Survey(local, plan, run_id=run.run_id))

    def work(node, phase):
        run.do_job(node) if node.job else run.do(node, survey.items(phase)[:3])
        look()

    def go_round():
        for phase in plan.phases:
            for node in (*phase.steps, *phase.jobs):
                if survey.units_known(phase):
                    work(node, phase)

    for _ in range(2):
        go_round()
    take = next(r for r in shots(TEXTS) if r["text"] == "blue box")
    local.commit_table("reviews", STORE_TABLE, pa.table({"id": ["r"], "take_id": [take["id"]], "stars": [5]}), "part-1")
    look()
    go_round()
    assert compact(local, grace_seconds=0).folders
    look()
    run_by_text(local, plan)
    look()
    counts = survey.counts()
    assert [(counts[n].done, counts[n].todo) for n in ("score", "gate", "finish")] == [(7, 0), (3, 0), (3, 0)]


def test_winners_go_on_while_later_takes_are_made(local):
    plan = plan_of(local)
    run = run_by_text(local, plan, texts=1)
    survey = run.survey
    assert survey.counts() == {
        "score": Count(3, 4, 0, 0),
        "gate": Count(1, 0, 2, 0),
        "finish": Count(1, 0, 0, 0),
    }
    assert films(survey).keys() == {"red ball"}
    assert not survey.units_complete(plan.phases[1])
    run_by_text(local, plan)
    assert Survey(local, plan).counts() == {
        "score": Count(7, 0, 0, 0),
        "gate": Count(3, 0, 0, 0),
        "finish": Count(3, 0, 0, 0),
    }
    assert called("finish") == dict.fromkeys(TEXTS, 1)
    assert set(called("gate").values()) == {1}
    assert verify(local).faults == []


def test_the_best_of_each_text_wins(local):
    plan = plan_of(local)
    run_all(local, plan)
    ranked = Survey(local, plan).query(
        "SELECT u.text, u.seed, g.rank, g.status FROM v_gate g JOIN u_roots u USING (id)"
    )
    best = {r["text"]: r["seed"] for r in ranked.to_pylist() if r["status"] == "ok"}
    assert best == {t: max(range(n), key=lambda s: s * 7 % 5) for t, n in TEXTS.items()}
    assert ranked.num_rows == 7


def test_one_more_seed_in_a_decided_group_redoes_nothing(local):
    run_all(local, plan_of(local))
    before = films(Survey(local, plan_of(local)))
    CALLS.clear()
    more = plan_of(local, {**TEXTS, "red ball": 4})  # the fourth does not win
    run_all(local, more)
    assert called("score") == {"red ball/3": 1}
    assert len(called("gate")) == 1
    assert called("finish") == {}
    assert films(Survey(local, more)) == before


def test_another_measure_redoes_nothing_that_was_promoted(local):
    run_all(local, plan_of(local))
    before = films(Survey(local, plan_of(local)))
    CALLS.clear()
    other = plan_of(local, by="other")  # the first seed wins everywhere
    run_all(local, other)
    both = plan_of(local, top=9)
    run_all(local, both)
    assert called("score") == {}
    rows = Survey(local, both).query("SELECT id FROM v_finish")["id"].to_pylist()
    assert {i for i, _ in before.values()} <= set(rows)
    CALLS.clear()
    run_all(local, plan_of(local))
    assert CALLS.total() == 0
    assert films(Survey(local, plan_of(local))) == before


def test_a_failed_row_with_attempts_left_keeps_its_group_open(local):
    REFUSED["blue box"] = ConnectionError("cut")
    plan = plan_of(local)
    survey = run_by_text(local, plan).survey
    assert {g.key for g in survey.groups(plan.node("gate")).all if g.ended} == {
        json.dumps({"text": t}, separators=(",", ":")) for t in TEXTS
    }
    later = Survey(local, plan)  # of the next run, in which what failed is to be done again
    assert later.count("gate") == Count(2, 0, 1, 0)
    assert films(later).keys() == {"red ball", "green cone"}
    REFUSED.clear()
    run_by_text(local, plan)
    assert films(Survey(local, plan)).keys() == TEXTS.keys()
    assert called("finish") == dict.fromkeys(TEXTS, 1)


def test_a_group_without_a_good_row_lets_nothing_pass_and_is_decided(local):
    REFUSED["blue box"] = ValueError("bad")
    plan = plan_of(local)
    survey = run_by_text(local, plan).survey
    assert films(survey).keys() == {"red ball", "green cone"}
    again = Survey(local, plan)
    assert again.count("gate") == Count(3, 0, 0, 0)
    calls = called("gate")
    run_by_text(local, plan)
    assert called("gate") == calls


@pytest.mark.parametrize("per", [["text"], ["text", "style"], []], ids=str)
def test_two_gates_behind_each_other(local, per):
    """The second decides among what the first let pass: by the same columns, by more, or over all."""
    rows = [{**r, "style": "ab"[r["seed"] % 2]} for r in shots({"red ball": 4, "blue box": 4})]
    steps = {
        "score": ref("score", "Score"),
        "gate": ref("gate", "Gate", top=3),
        "finish": ref("finish", "Finish"),
        "last": ref("last", "Gate", by="other", per=per),
        "more": ref("more", "Draw"),
    }
    plan = toys.planned(local, rows, steps, ROOTS)
    run = run_by_text(local, plan, texts=1)
    assert run.survey.count("score") == Count(4, 4, 0, 0)
    early = run.survey.count("more").done
    assert early == {1: 1, 2: 2, 0: 0}[len(per)]
    run_by_text(local, plan)
    survey = Survey(local, plan)
    assert not any(c.todo or c.waiting for c in survey.counts().values())
    won = survey.query("SELECT text, style, seed FROM u_last ORDER BY ALL").to_pylist()
    assert won == second_winners(rows, per)
    assert verify(local).faults == []


def second_winners(rows, per):
    """What the two gates let pass, said another way."""
    first = [
        r
        for text in ("blue box", "red ball")
        for r in sorted((r for r in rows if r["text"] == text), key=lambda r: -(r["seed"] * 7 % 5))[:3]
    ]
    groups = {}
    for r in first:
        groups.setdefault(tuple(r[c] for c in per), []).append(r)
    best = [min(g, key=lambda r: (r["seed"], r["id"])) for g in groups.values()]
    return sorted(({k: r[k] for k in ("text", "style", "seed")} for r in best), key=lambda r: tuple(r.values()))


def test_a_review_changes_the_decision_of_its_own_group_only(local):
    plan = plan_of(local, reviews=True)
    run_all(local, plan)
    before, marks = films(Survey(local, plan)), group_marks(local, plan)
    CALLS.clear()
    take = next(
        r for r in shots(TEXTS) if r["text"] == "blue box" and r["seed"] == 0
    )  # not the one with the best score
    praise = pa.table({"id": ["r1"], "take_id": [take["id"]], "stars": [5]})
    local.commit_table("reviews", STORE_TABLE, praise, "part-1")
    now = group_marks(local, plan)
    assert {k for k in now if now[k] != marks[k]} == {'{"text":"blue box"}'}
    run_all(local, plan)
    assert len(called("gate")) == 1
    assert called("finish") == {"blue box": 1}
    after = films(Survey(local, plan))
    assert {t for t in TEXTS if after[t] != before[t]} == {"blue box"}


def group_marks(catalog, plan):
    return {g.key: g.mark for g in Survey(catalog, plan).groups(plan.node("gate")).all}


def test_results_of_groups_outlive_compaction(local):
    plan = plan_of(local)
    for n in (1, 2, None):
        run_by_text(local, plan, texts=n)
    before = everything(local, plan)
    files = local.parts("gate", plan.node("gate").fingerprint, "groups-")
    assert len(files) == 3
    assert compact(local, grace_seconds=0).folders
    assert local.parts("gate", plan.node("gate").fingerprint, "groups-") == files
    assert everything(local, plan) == before


def test_a_job_that_finds_nothing_ready_writes_nothing(local):
    plan = plan_of(local)
    run = Run(local, LocalExecutor(local.storage), plan)
    go_on(run)
    assert local.parts("gate", plan.node("gate").fingerprint, "groups-") == []


LONG = [pytest.param(at, marks=pytest.mark.soak) for at in ("before_commit:6", "mid_move:10")]


@pytest.mark.parametrize("at", ["after_commit:5", *LONG])
def test_killed_in_the_middle_and_run_again(local, tmp_path, at):
    whole = type(local)(type(local.storage)(str(tmp_path / "whole")))
    run_by_text(whole, plan_of(whole))
    script = [sys.executable, "-m", "tests.gate_run", local.storage.url]
    killed = subprocess.run(script, env=toys.environment(RUSHES_CRASH=at), timeout=900)
    assert killed.returncode == -signal.SIGKILL
    assert verify(local).faults == []
    assert Survey(local, plan_of(local)).count("score").todo
    assert subprocess.run(script, env=toys.environment(), timeout=900).returncode == 0
    assert everything(local, plan_of(local)) == everything(whole, plan_of(whole))
    report = verify(local)
    assert (report.faults, report.twice) == ([], [])
