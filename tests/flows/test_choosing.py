"""`gates:` of a campaign: what goes on and why, what waits for people, what stays, and what is refused."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from flows.cli import waiting
from flows.cli.main import main
from flows.render.campaign import FLOW, Campaign, load_campaign
from flows.render.reviews import choose
from flows.render.takes import TAKES
from flows.run.session import Outcome, execute, existing_catalog, prepare
from flows.views.tables import read_tables
from stages.core.errors import BadInput
from stages.core.ledger.upkeep import verify
from stages.core.planning.binding import make_plan
from stages.core.running.runs import find_run
from stages.core.step import Row
from tests.flows.test_faults import KILL_LIMIT_S, finish, render

SITE = str(Path(__file__).parent / "site")
TOYS = {
    "text": {"use": "tests.flows.toys:Letters"},
    "draw": {"use": "tests.flows.toys:Draw"},
    "look": {"use": "tests.flows.toys:Look"},
    "finish": {"use": "tests.flows.toys:Finish"},
}
TOP = {"after": "draw", "top": 1, "by": "shade"}
REVIEW = {"after": "draw", "review": True}
SHADE = {seed: seed * 7 % 5 for seed in range(6)}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cascade of toys, as a file."""
    path = tmp_path_factory.mktemp("cascade") / "cascade.yaml"
    path.write_text(yaml.safe_dump({"steps": TOYS, "infra": {"executor": "local"}}, sort_keys=False))
    return str(path)


@pytest.fixture
def write(cascade: str, tmp_path: Path) -> Any:
    """A campaign file with these gates."""

    def written(*gates: Any, name: str = "c", **settings: Any) -> Path:
        campaign = {"name": "c", "prompts": ["one", "two two"], "seeds": 3, "cascade": cascade, "gates": list(gates)}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**campaign, **settings}))
        return tmp_path / f"{name}.yaml"

    return written


def load(path: Path, *overrides: str) -> Campaign:
    return load_campaign([path], {}, overrides)


def run(path: Path, store: Path, *overrides: str) -> tuple[Outcome, dict[str, list[Row]]]:
    """Runs a campaign as far as it goes; how it ended, and the tables."""
    outcome = execute(prepare(load(path, *overrides), str(store)))
    tables = read_tables(existing_catalog(str(store)), ("takes", "artifacts", "decisions"), run_id=outcome.run_id)
    return outcome, {name: table.to_pylist() for name, table in tables.items()}


def rushes(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def finished(made: dict[str, list[Row]]) -> dict[str, str]:
    return {r["take_id"]: r["artifact_id"] for r in made["artifacts"] if r["stage"] == "finish"}


def promoted(made: dict[str, list[Row]], gate: str = "gate_draw") -> set[tuple[str, int]]:
    return {(r["prompt"], r["seed"]) for r in made["decisions"] if r["gate"] == gate and r["promoted"]}


def test_the_best_of_each_prompt_goes_on_and_the_tables_say_why(write, tmp_path):
    path = write(TOP, prompts=["one", "dark"])
    outcome, made = run(path, tmp_path / "store")
    assert (outcome.status, promoted(made)) == ("done", {("one", 2), ("dark", 2)})
    assert [t["status"] for t in made["takes"]] == ["rejected", "rejected", "ok"] * 2
    why = {(r["prompt"], r["seed"]): r for r in made["decisions"]}
    assert why["one", 0]["reason"] == "rank 3 of 3, top 1"
    assert (why["one", 1]["rank"], json.loads(why["one", 1]["inputs"])) == (2, {"shade": 0.2, "score": 0.2})
    assert why["dark", 0]["reason"] == "look: shade is 0.0, required >= 0.1", "what fails a check is not eligible"
    assert why["dark", 1]["reason"] == "rank 2 of 2, top 1; its score has no value"
    assert {(r["group"], r["run"]) for r in made["decisions"]} == {
        ("prompt: one", outcome.run_id),
        ("prompt: dark", outcome.run_id),
    }
    assert made["takes"][0]["error"] == "gate_draw: rank 3 of 3, top 1"
    told = rushes("status", made["takes"][0]["take_id"], "--store", str(tmp_path / "store"))
    assert "rejected: rank 3 of 3, top 1" in told.output
    out = tmp_path / "decisions.csv"
    assert rushes("table", "decisions", "--store", str(tmp_path / "store"), "--out", str(out)).exit_code == 0
    assert len(out.read_text().splitlines()) == 7
    assert prepare(load(path), str(tmp_path / "store")).idle


def test_no_gate_changes_an_id_of_what_it_lets_pass(write, tmp_path):
    store = tmp_path / "store"
    _, free = run(write(), store)
    whole = finished(free)
    assert len(whole) == 6
    for gates in ([TOP], [{**TOP, "top": 2, "by": "-drawn"}], [REVIEW], [{**TOP, "per": "campaign"}]):
        path = write(*gates)
        if gates == [REVIEW]:
            choose(existing_catalog(str(store)), list(whole)[:2], "approve", "ada")
        outcome, made = run(path, store)
        assert 0 < len(finished(made)) < 6
        assert finished(made).items() <= whole.items()
        assert outcome.counts["draw"].todo == 0


def test_new_takes_make_a_new_decision_and_nothing_promoted_is_withdrawn(write, tmp_path):
    store, path = tmp_path / "store", write(TOP)
    _, first = run(path, store, "seeds=2")
    assert promoted(first) == {("one", 1), ("two two", 1)}
    done = rushes("render", str(path), "--store", str(store))
    assert done.exit_code == 0, done.output
    assert "gate_draw: 4 of 6 takes promoted" in done.output
    assert "gate_draw: 2 more than it would promote now (top 1): what was promoted by an earlier" in done.output
    outcome, both = run(path, store)
    assert outcome.did_nothing
    assert promoted(both) == promoted(first) | {("one", 2), ("two two", 2)}
    assert finished(first).items() <= finished(both).items()
    _, back = run(path, store, "seeds=2")
    assert promoted(back) == promoted(first)
    done = rushes("render", str(path), "--store", str(store), "--redecide")
    assert "gate_draw: 2 of 6 takes promoted" in done.output
    assert "more than it would" not in done.output
    _, anew = run(path, store)
    assert promoted(anew) == {("one", 2), ("two two", 2)}


def test_a_review_gate_waits_holds_nothing_and_goes_on_with_what_is_approved(write, tmp_path):
    store, path = str(tmp_path / "store"), write(REVIEW)
    done = rushes("render", str(path), "--store", store)
    assert done.exit_code == 4, done.output
    assert "6 takes wait for a review" in done.output
    assert f"`rushes choose TAKE approve --store {store}`" in done.output
    again = rushes("render", str(path), "--store", store)
    assert (again.exit_code, "nothing to do" in again.output) == (4, False)
    assert find_run(existing_catalog(store), "render").row["status"] == "waiting"
    _, made = run(path, Path(store))
    assert {t["status"] for t in made["takes"]} == {"waiting"}
    assert {t["error"] for t in made["takes"]} == {"gate_draw: waits for a review"}
    assert Counter(r["stage"] for r in made["artifacts"]) == {"text": 6, "draw": 6, "preview_draw": 6}
    ids = [t["take_id"] for t in made["takes"]]
    assert rushes("choose", ids[0], ids[1], "approve", "--store", store).exit_code == 0
    assert rushes("render", str(path), "--store", store, "--redecide").exit_code == 4, "one more table of the store"
    assert verify(existing_catalog(store)).faults == []
    assert rushes("choose", ids[2], "reject", "--note", "blurred", "--who", "bob", "--store", store).exit_code == 0
    outcome, made = run(path, Path(store))
    assert (outcome.status, outcome.held, set(finished(made))) == ("waiting", {"gate_draw": 3}, set(ids[:2]))
    assert made["takes"][2]["error"] == "gate_draw: rejected by bob: blurred"
    choose(existing_catalog(store), ids[3:], "reject", "bob")
    choose(existing_catalog(store), ids[:1], "reject", "bob")
    outcome, made = run(path, Path(store))
    assert (outcome.status, set(finished(made))) == ("done", set(ids[:2]))
    kept = next(d for d in made["decisions"] if d["take_id"] == ids[0])
    assert kept["reason"].endswith("now: rejected by bob"), "what was promoted is not withdrawn"


def test_a_prompt_whose_takes_are_reviewed_goes_through_the_next_gate_alone(write, tmp_path):
    path, store = write(REVIEW, {"after": "draw", "top": 1, "by": "shade"}), tmp_path / "store"
    outcome, made = run(path, store)
    ids = {(t["prompt"], t["seed"]): t["take_id"] for t in made["takes"]}
    catalog = existing_catalog(str(store))
    choose(catalog, [ids["one", 0], ids["one", 1]], "approve", "ada")
    choose(catalog, [ids["one", 2]], "reject", "ada")
    choose(catalog, [ids["two two", 0]], "approve", "ada")
    outcome, made = run(path, store)
    assert outcome.held == {"gate_draw": 2}
    assert promoted(made, "gate_draw_2") == {("one", 1)}
    assert set(finished(made)) == {ids["one", 1]}, "the other prompt still waits for people, and this one not for it"


def test_waiting_for_people_ends_once_something_can_be_done(write, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "POLL_S", 0.1)
    campaign, store = load(write(REVIEW)), str(tmp_path / "store")
    prepared = prepare(campaign, store)
    outcome = execute(prepared)
    take = prepared.survey.query("SELECT min(id) AS id FROM roots")["id"][0].as_py()
    later = threading.Timer(1, lambda: choose(prepared.catalog, [take], "approve", "ada"))
    later.start()
    more = waiting.until_reviewed(campaign, prepared, outcome)
    later.join()
    assert more is not None
    assert execute(more).counts["finish"].done == 1
    assert waiting.until_reviewed(campaign, prepared, Outcome("r", "done", "", {})) is None


def test_a_gate_behind_the_last_step_decides_what_is_delivered(write, tmp_path):
    store, path = tmp_path / "store", write({"after": "finish", "threshold": "1 > 2"}, seeds=1)
    outcome, made = run(path, store)
    assert [t["status"] for t in made["takes"]] == ["rejected"] * 2
    videos = read_tables(existing_catalog(str(store)), ("videos",), run_id=outcome.run_id)["videos"].to_pylist()
    assert [v["status"] for v in videos] == ["rejected"] * 2


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"after": "draw"}, "gates must be a list"),
        (["draw"], "gate 1 must be a mapping"),
        ([{"after": "draw", "tops": 1}], "gate 1 (after draw): unknown key 'tops'; did you mean 'top'?"),
        ([{"top": 1, "by": "shade"}], "gate 1: `after` must name a step of the cascade"),
        ([{"after": "drew", "all": True}], "gate 1 (after drew): `after` must name a step of the cascade, and 'drew'"),
        ([{"after": "text", "all": True}], "text makes nothing of which takes could be chosen; give one of draw"),
        ([TOP, {"after": "draw"}], "gate 2 (after draw) needs one of top, threshold, review, all; it has none"),
        (
            [{**TOP, "review": True}],
            "needs one of top, threshold, review, all; it has top and review",
        ),
        ([{**TOP, "top": 0}], "gate 1 (after draw): top must be a whole number from 1, not 0"),
        ([{**TOP, "top": 1.5}], "top must be a whole number from 1, not 1.5"),
        ([{"after": "draw", "top": 1}], "gate 1 (after draw): top needs `by`, the score of a take"),
        ([{**REVIEW, "by": "shade"}], "`by` belongs to `top`"),
        ([{**REVIEW, "per": "prompt"}], "people decide take by take: leave `per` out"),
        ([{**TOP, "per": "promt"}], "per: takes cannot be grouped by 'promt'; did you mean 'prompt'?"),
        ([{**TOP, "per": ["prompt", "tags"]}], "per: takes cannot be grouped by 'tags'"),
        ([{**TOP, "by": "shad"}], "gate 1 (after draw): there is no metric 'shad'; did you mean 'shade'?; there are"),
        ([{**TOP, "by": "shade / 2"}], "gate 1 (after draw): by: 'shade / 2' is not allowed in a score"),
        (
            [{"after": "draw", "threshold": "shade"}],
            "threshold: 'shade' must read EXPRESSION op NUMBER",
        ),
        ([{"after": "draw", "review": "yes"}], "review must be true, not 'yes'"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_gate_is_said_before_any_work(write, gates, said):
    with pytest.raises(BadInput) as caught:
        load(write(gates=gates))
    assert said in str(caught.value)


def test_a_preview_is_put_there_for_people_and_later_steps_read_what_they_read_without_it(campaign_file):
    watch = [f"steps.watch={json.dumps({'use': 'tests.flows.toys:Watch'})}"]
    whole = load_campaign([campaign_file], {}, watch)
    gates = "gates=[{after: base, review: true}, {after: decode, threshold: 'length > 1'}]"
    gated = load_campaign([campaign_file], {}, [*watch, gates])
    assert [n for n in gated.steps if n not in whole.steps] == ["preview_base", "gate_base", "gate_decode"]
    order = list(gated.steps)
    assert order.index("gate_base") == order.index("preview_base") + 1 == order.index("base") + 2
    assert order[-2:] == ["watch", "gate_decode"]
    plan, plain = (make_plan(FLOW, "", c.steps, TAKES.names) for c in (gated, whole))
    assert plan.node("watch").sources == ("decode",)
    assert plan.node("gate_decode").sources == ("decode", "qc", "watch")
    assert plan.node("gate_base").sources == ("base",)
    assert {n.name: n.fingerprint for n in plain.nodes}.items() <= {n.name: n.fingerprint for n in plan.nodes}.items()


def test_a_preview_is_not_held_against_the_blur_of_a_finished_clip(campaign_file):
    gates = "gates=[{after: base, top: 1, by: sharpness}]"
    steps = load_campaign([campaign_file], {}, [gates, "qc.flicker.max=0.02"]).steps
    assert steps["qc"].config.blur.max == 3.2
    assert steps["qc_base"].config.blur.max is None
    assert steps["qc_base"].config.flicker.max == steps["qc"].config.flicker.max == 0.02


def test_a_flow_run_that_waits_says_so_in_its_state():
    from flows.prefect.flow_run import closing_state

    state = closing_state(Outcome("r", "waiting", "", {}, held={"gate_base": 12}))
    assert (state.name, state.is_completed()) == ("WaitingForReview", True)
    assert state.message == "12 takes wait for a review (at gate_base): choose with `rushes choose`, then run it again"


# -- many takes, and kills ---------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_of_two_hundred_takes_fifty_go_up_while_others_are_still_made(write, tmp_path):
    path = write(TOP, prompts=[f"prompt {i}" for i in range(50)], seeds=4, draw={"seconds": 0.5})
    outcome, made = run(path, tmp_path / "store")
    assert outcome.status == "done"
    rows = {stage: [r for r in made["artifacts"] if r["stage"] == stage] for stage in ("draw", "finish")}
    assert (len(rows["draw"]), len(rows["finish"])) == (200, 50)
    assert len({p for p, _ in promoted(made)}) == 50
    first, last = min(r["started"] for r in rows["finish"]), max(r["ended"] for r in rows["draw"])
    ahead = sum(r["started"] < last for r in rows["finish"])
    print(json.dumps({"figure": "winners_ahead", "ahead": ahead, "seconds": (last - first).total_seconds()}))
    assert first < last, "the first winners are finished while later takes are drawn"
    assert prepare(load(path), str(tmp_path / "store")).idle


@pytest.mark.soak
def test_killed_in_the_middle_it_comes_to_the_same_decisions(campaign_file, tmp_path, monkeypatch):
    """The real cascade, small, killed again and again."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{SITE}")
    campaign = yaml.safe_load(campaign_file.read_text())
    campaign["steps"] = {"look": {"use": "tests.flows.toys:Spread", "before": "extend"}}
    campaign["gates"] = [{"after": "base", "top": 1, "by": "spread"}]
    path = tmp_path / "gated.yaml"
    path.write_text(yaml.safe_dump(campaign))
    local = ("--executor", "local", "shard_rows=1")
    finish(render(path, tmp_path / "undisturbed", *local))
    for point in ("after_commit:5", "before_commit:6", "after_commit:7", "mid_move:4"):
        killed = render(path, tmp_path / "killed", *local, env={"RUSHES_CRASH": point})
        assert killed.wait(timeout=KILL_LIMIT_S) == -signal.SIGKILL, point
    finish(render(path, tmp_path / "killed", *local))
    both = [
        [{k: v for k, v in r.items() if k != "run"} for r in table.to_pylist()]
        for store in ("undisturbed", "killed")
        for table in read_tables(existing_catalog(str(tmp_path / store)), ("decisions",)).values()
    ]
    assert both[0] == both[1]
    assert sum(r["promoted"] for r in both[0]) == 2
