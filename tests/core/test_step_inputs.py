"""The rules of what a step is handed stand twice, as SQL for millions of units and as Python for one: they agree."""

import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from stages.core.ledger.upkeep import verify
from stages.core.planning.survey import Count, Survey
from stages.core.running.executor import LocalExecutor
from stages.core.running.run import Run
from stages.core.running.step_inputs import applies, work_for
from tests import toys
from tests.toy_plans import ROOTS, ref, takes
from tests.toy_run import run_all

texts = st.sampled_from([None, "", "a", "b"])
units = st.lists(
    st.fixed_dictionaries(
        {
            "text": texts,
            "style": texts,
            "extra": texts,
            "size": st.sampled_from([None, 0, 1]),
            "tags": st.sampled_from([None, [], ["x"], ["x", "y"]]),
            "seed": st.integers(0, 2),
        }
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda unit: repr(sorted(unit.items())),
)


@st.composite
def asks(draw, **more):
    """The config of one step."""
    columns = st.sampled_from(["text", "style", "extra", "size", "tags", "seed"])
    entry = {
        "depends": draw(st.lists(columns, max_size=2, unique=True)),
        "when": draw(st.lists(st.sampled_from(["extra", "tags", "style", "size"]), max_size=2, unique=True)),
        "fails": draw(st.sampled_from([0, 0, 3])),
        "refuses": draw(st.sampled_from([0, 0, 4])),
    }
    return {**entry, **more}


@st.composite
def cascades(draw):
    """Steps in order: a cascade of latents with notes on the side, perhaps a job in between, perhaps child units."""
    steps = {"source": ref("source", "Source", **draw(asks()))}
    notes: list[str] = []

    def add(name):
        use = draw(st.sampled_from(["Latent", "Latent", "Note"]))
        seen = use == "Latent" and draw(st.booleans())
        after = {"after": [draw(st.sampled_from(notes))]} if seen and notes else {}
        steps[name] = ref(name, use, **draw(asks(note=seen)), **after)
        notes.extend([name] if use == "Note" else [])

    for i in range(draw(st.integers(1, 3))):
        add(f"one{i}")
    if draw(st.booleans()):
        steps["some"] = ref("some", "PassSome", drops=draw(st.sampled_from([0, 2])))
        for i in range(draw(st.integers(1, 3))):
            add(f"two{i}")
    if draw(st.booleans()):
        steps["pieces"] = ref("pieces", "Pieces", **draw(asks()))
        steps["measures"] = ref("measures", "Measures", **draw(asks()))
        steps["all"] = ref("all", "PassPieces")
        for i in range(draw(st.integers(1, 2))):
            steps[f"of{i}"] = ref(f"of{i}", "OfPiece", **draw(asks(note=draw(st.booleans()))))
    return steps


def check_agreement(survey):
    """Every unit stands in SQL as it does in Python. Returns how many rows are there to do, by node."""
    plan, todo = survey.plan, {}
    for phase in (p for p in plan.phases if survey.units_known(p)):
        standing = {r["unit_id"]: r for r in survey.query(f'SELECT * FROM "s_{phase.name}"').to_pylist()}
        items = survey.items(phase, unsettled=False)
        assert sorted(i["unit"]["id"] for i in items) == sorted(standing)
        for node in phase.steps:
            ids = set()
            for item in items:
                row, sql = item[node.name], standing[item["unit"]["id"]]
                work = work_for(plan, node, item)
                assert applies(plan, node, item) == sql[f"applies_{node.name}"]
                assert (row["id"] if row else None) == sql[f"id_{node.name}"]
                if row and work:
                    assert row["id"] == work.id(node.fingerprint)
                assert (work is not None and (row is None or row["retry"])) == sql[f"todo_{node.name}"]
                if sql[f"todo_{node.name}"]:
                    ids.add(work.id(node.fingerprint))
            assert len(ids) == survey.count(node.name).todo
            todo[node.name] = len(ids)
    return todo


@given(units=units, steps=cascades(), few=st.integers(1, 3))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_sql_and_python_plan_the_same(units, steps, few):
    check_plan(units, steps, few)


@pytest.mark.soak
@given(units=units, steps=cascades(), few=st.integers(1, 3))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_sql_and_python_plan_the_same_for_long(units, steps, few):
    check_plan(units, steps, few)


def test_what_waits_for_a_failed_row_is_not_made_of_an_earlier_one(local):
    """The note fails, so that the latent that asks for it is not made; a gate lets the take pass all the same. What
    stands behind the gate must not be made of the latent before, as it would be of a take without `extra`."""
    steps = {
        "source": ref("source", "Source"),
        "note": ref("note", "Note", fails=1),
        "extend": ref("extend", "Latent", note=True, when=["extra"]),
        "some": ref("some", "PassSome"),
        "refine": ref("refine", "Latent"),
    }
    plan = toys.planned(local, takes({"text": "a", "extra": "x"}, {"text": "b"}), steps, ROOTS)
    run = run_all(local, plan)
    check_agreement(run.look())
    refined = run.survey.query("SELECT u.text FROM v_refine v JOIN u_some u ON u.id = v.unit_id").to_pylist()
    assert refined == [{"text": "b"}]


def test_pieces_that_takes_share_are_measured_for_the_take_that_they_came_from():
    """All takes have the same pieces, but not the same measures of them: a piece is handed one row of measures."""
    steps = {
        "source": ref("source", "Source", depends=[]),
        "pieces": ref("pieces", "Pieces", depends=[]),
        "measures": ref("measures", "Measures", depends=["size"]),
        "all": ref("all", "PassPieces"),
        "of": ref("of", "OfPiece", depends=[]),
    }
    check_plan([{"size": None}, {"size": 0}, {"size": None, "seed": 1}], steps, 1)


def check_plan(units, steps, few):
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(Storage(folder))
        plan = toys.planned(catalog, takes(*units), steps, ROOTS)
        run = Run(catalog, LocalExecutor(catalog.storage), plan)
        for limit in (few, None):
            for phase in plan.phases:
                survey = run.look()
                if not survey.units_known(phase):
                    break
                items = survey.items(phase)[:limit]
                for node in phase.nodes:
                    if not node.job:
                        items = run.do(node, items)
                    elif limit is None:
                        run.do_job(node)
            check_agreement(run.look())
        assert not any(c.todo for c in run.survey.counts().values())
        assert Survey(catalog, plan).counts() == run.survey.counts()
        assert not any(c.waiting for c in run.survey.counts().values())
        assert verify(catalog).faults == []


def test_takes_share_a_row_whatever_is_read_by_steps_that_do_not_apply_to_them(local):
    """`extend` applies to the last take alone: what it and its note read does not tell the others apart."""
    steps = {
        "source": ref("source", "Source", depends=[]),
        "note": ref("note", "Note", depends=["style"]),
        "extend": ref("extend", "Latent", note=True, when=["extra"], depends=["text"]),
        "refine": ref("refine", "Latent", depends=[]),
    }
    units = takes({"text": "a", "style": "x"}, {"text": "b", "style": "y"}, {"text": "a", "style": "x", "extra": "z"})
    plan = toys.planned(local, units, steps, ROOTS)
    assert Survey(local, plan).count("refine") == Count(done=0, todo=0, waiting=2, failed=0)
    run = run_all(local, plan)
    assert run.look().count("refine") == Count(done=2, todo=0, waiting=0, failed=0)
    assert len(run.survey.query("SELECT id FROM v_refine")) == 2
