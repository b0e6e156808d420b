"""What a step declares is what it is handed and what identifies its rows; what cannot be bound is refused with a
sentence."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.errors import BadInput
from stages.core.identity import (
    depends_digest,
    depends_key,
    join_parents,
    row_id,
    stage_seed,
    text_digest,
    value_digest,
)
from stages.core.ledger.catalog import with_depends
from stages.core.planning.binding import make_plan
from stages.core.planning.survey import Survey
from stages.core.step import InputRow, Inputs, Port, UndeclaredRead
from tests import toys
from tests.toy_plans import CALLS, ROOTS, ref, takes
from tests.toy_run import run_all

# -- identity ----------------------------------------------------------------------------------------------------------


def test_the_ids_of_a_small_plan_are_pinned(local):
    """These ids are in people's stores: changing one loses their work."""
    plan = toys.toy_plan(local, [("red ball", 7)])
    run_all(local, plan)
    survey = Survey(local, plan)
    found = {n: survey.query(f"SELECT id FROM l_{n} ORDER BY id")["id"].to_pylist() for n in ("words", "split", "mark")}
    assert found == PINNED


PINNED = {
    "words": ["7a670325b61adebba07b60af17b7a25f"],
    "split": ["8ed1cfd7b3e45675d07aeef9ef5523d1"],
    "mark": ["8b7b61bc35af55e4e9e005b20128881c"],
}


def test_nothing_empty_and_zero_differ():
    assert len({value_digest("x", v) for v in (None, "", 0, False, [], "0", [None], [""])}) == 8
    assert len({depends_digest({"a": a, "b": b}) for a, b in (("", None), (None, ""), ("", ""), (None, None))}) == 4
    assert depends_digest({}) == ""
    assert depends_digest({"a": 1, "b": 2}) == depends_digest({"b": 2, "a": 1}) != depends_digest({"a": 2, "b": 1})


def test_a_field_that_is_null_is_as_one_that_is_not_there():
    one, more = {"kind": "still", "at": 0}, {"kind": "still", "at": 0, "strength": None}
    assert value_digest("c", [one]) == value_digest("c", [more])
    assert value_digest("c", one) != value_digest("c", {**one, "at": None})
    assert value_digest("c", [one]) != value_digest("c", [one, None])


def test_parents_keep_their_places():
    assert join_parents(["a", "b"]) == "a/b"
    assert join_parents(["a", None, "b"]) == "a//b"
    assert join_parents([None, "b"]) == "/b"
    assert join_parents(["a", None, None]) == "a"
    assert join_parents([]) == join_parents([None]) == ""
    assert row_id("f", "a", "d") != row_id("f", "", "a/d")


COLUMNS = {
    "text": (pa.string(), st.none() | st.text(st.characters(codec="utf-8"), max_size=3)),
    "count": (pa.int64(), st.none() | st.integers(-2, 2)),
    "rate": (pa.float64(), st.none() | st.sampled_from([0.0, 1.0, 1.5, float("inf")])),
    "good": (pa.bool_(), st.none() | st.booleans()),
    "tags": (pa.list_(pa.string()), st.none() | st.lists(st.sampled_from(["a", ""]), max_size=2)),
    "spot": (
        pa.struct([("at", pa.int64()), ("name", pa.string())]),
        st.none() | st.fixed_dictionaries({"at": st.none() | st.integers(0, 1), "name": st.none() | st.just("x")}),
    ),
}


@given(
    rows=st.lists(st.fixed_dictionaries({n: v for n, (_, v) in COLUMNS.items()}), max_size=8),
    sets=st.lists(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, unique=True).map(tuple), max_size=3),
)
@settings(deadline=None)
def test_digests_of_a_table_are_those_of_its_rows(rows, sets):
    sets = list({tuple(sorted(s)) for s in sets})
    table = pa.Table.from_pylist(rows, pa.schema([(n, t) for n, (t, _) in COLUMNS.items()]))
    made = with_depends(table, sets)
    for columns in sets:
        wanted = [depends_digest({c: row[c] for c in columns}) for row in table.to_pylist()]
        assert made[depends_key(columns)].to_pylist() == wanted


def test_digests_of_texts_are_of_their_bytes():
    assert text_digest("a") != text_digest("a ")


# -- what is handed over -----------------------------------------------------------------------------------------------


def test_an_undeclared_read_raises_by_every_way():
    row = InputRow({"text": "a", "extra": None})
    for read in (lambda: row["place"], lambda: row.get("place"), lambda: row.get("place", 1), lambda: "place" in row):
        with pytest.raises(UndeclaredRead, match=r"'place' is not among the inputs.*\(text, extra\)"):
            read()
    assert ("text" in row, "extra" in row) == (True, False)
    assert (row.get("extra"), row.get("extra", 3), row.get("text", 3)) == (None, 3, "a")


@pytest.mark.parametrize("way", ["item", "get", "in"])
def test_a_step_that_reads_what_it_has_not_declared_fails_for_good(local, way):
    plan = toys.planned(local, takes({"text": "a", "place": "b"}), {"peek": ref("peek", "Peek", way=way)}, ROOTS)
    run = run_all(local, plan)
    (row,) = run.survey.table("peek").to_pylist()
    assert (row["status"], row["error_kind"]) == ("error", "permanent")
    assert "UndeclaredRead" in row["error"]
    assert "place" in row["error"]


def test_the_same_step_twice_draws_different_numbers(local):
    steps = {name: ref(name, "Draw") for name in ("draw", "again")}
    plan = toys.planned(local, takes({"text": "a", "seed": 3}), steps, ROOTS)
    run = run_all(local, plan)
    drawn = {n: run.survey.table(n)["drawn"].to_pylist() for n in steps}
    assert drawn == {n: [stage_seed(3, n)] for n in steps}
    assert drawn["draw"] != drawn["again"]
    assert plan.node("draw").fingerprint != plan.node("again").fingerprint


def test_names_enter_only_what_draws():
    one, other = (toys.plan_of(toys.ref(n, "Words")).nodes[0].fingerprint for n in ("one", "other"))
    assert one == other


def test_units_that_differ_in_what_decides_get_rows_of_their_own(local):
    """Two differ in a declared column, two in one that is not declared."""
    units = takes(
        {"text": "a", "style": "x"}, {"text": "a", "style": "y"}, {"text": "a", "style": "y", "extra": "z", "seed": 4}
    )
    plan = toys.planned(local, units, {"source": ref("source", "Source", depends=["text", "style"])}, ROOTS)
    run_all(local, plan)
    assert Survey(local, plan).count("source").done == 2


def test_an_optional_step_changes_no_id_of_a_take_without_its_input(local):
    """Before: source, refine, note, last. After: a latent for takes with `extra`, and a note that `last` may see."""
    units = takes({"text": "a"}, {"text": "b", "extra": "x"})
    plain = {
        "source": ref("source", "Source"),
        "refine": ref("refine", "Latent", note=True),
        "pieces": ref("pieces", "Pieces"),
    }
    more = {
        "source": plain["source"],
        "see": ref("see", "Note", when=["extra"]),
        "extend": ref("extend", "Latent", when=["extra"], note=True),
        "refine": plain["refine"],
        "pieces": plain["pieces"],
    }
    before, after = (toys.planned(local, units, steps, ROOTS) for steps in (plain, more))
    run_all(local, before)
    first = ids_by_text(Survey(local, before))
    CALLS.clear()
    run_all(local, after)
    then = ids_by_text(Survey(local, after))
    assert then["a"] == first["a"]
    assert {n: t != f for (n, t), f in zip(then["b"].items(), first["b"].values(), strict=True)} == {
        "source": False,
        "refine": True,
        "pieces": True,
    }
    assert {name for name, _ in CALLS} == {"see", "extend", "refine", "pieces"}
    assert {text for _, text in CALLS} == {"b"}


def ids_by_text(survey):
    query = "SELECT unit.text AS text, source.id AS source, refine.id AS refine, pieces.id AS pieces FROM p_roots"
    return {row.pop("text"): row for row in survey.query(query).to_pylist()}


# -- carried values ----------------------------------------------------------------------------------------------------


def test_a_shared_row_is_made_with_what_can_be_read(local, tmp_path):
    """The first take carries a place that is gone, the second one that is there."""
    good = tmp_path / "good.txt"
    good.write_text("words")
    units = takes({"text": "a", "place": str(tmp_path / "gone.txt")}, {"text": "a", "place": str(good)}, {"text": "a"})
    plan = toys.planned(local, units, {"load": ref("load", "Load")}, ROOTS)
    CALLS.clear()
    run = run_all(local, plan)
    (row,) = run.survey.query("SELECT * FROM l_load").to_pylist()
    assert (row["status"], row["content"], row["attempt"], row["error"]) == ("ok", "words", 2, "")
    assert not any(str(tmp_path) in str(v) for v in row.values())
    assert [place for _, place in CALLS] == [u["place"] for u in units[:2]]
    CALLS.clear()
    run_all(local, plan)
    assert not CALLS


def test_where_no_carried_value_can_be_read_the_row_has_failed(local, tmp_path):
    units = takes(*({"text": "a", "place": str(tmp_path / name)} for name in ("one", "two")))
    plan = toys.planned(local, units, {"load": ref("load", "Load")}, ROOTS)
    CALLS.clear()
    run = run_all(local, plan)
    assert (run.survey.count("load").failed, CALLS.total()) == (1, 2)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refusal(*refs) -> str:
    with pytest.raises(BadInput) as caught:
        make_plan("toy", "", {r.name: r for r in refs}, ROOTS.names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SOURCE, NOTES = ref("source", "Source"), [ref("one", "Note"), ref("two", "Note")]


def test_a_column_that_units_lack_is_refused():
    assert refusal(ref("source", "Source", depends=["txet"])) == (
        "step source reads the column 'txet', which is not there; did you mean 'text'?"
    )
    assert "step source reads the column 'exrta'" in refusal(ref("source", "Source", when=["exrta"]))
    gate = ref("gate", "Gate", per=["txt"])
    assert "step gate reads the column 'txt'" in refusal(ref("score", "Score"), gate)


def test_a_port_that_nothing_fills_is_refused():
    assert refusal(ref("latent", "Latent")) == "step latent needs an earlier step that makes latent; there is none"
    assert "makes score; earlier ones make latent" in refusal(SOURCE, ref("gate", "Gate"))


def test_a_port_that_two_could_fill_is_refused_unless_one_is_named():
    says = "step refine needs note, and one and two both make it; say which: refine.after=one"
    assert refusal(SOURCE, *NOTES, ref("refine", "Latent", note=True)) == says
    refine = ref("refine", "Latent", note=True, after=["two"])
    plan = make_plan("toy", "", {r.name: r for r in (SOURCE, *NOTES, refine)}, ROOTS.names)
    assert {b.port: b.nodes for b in plan.node("refine").ports} == {"latent": ("source",), "note": ("two",)}


def test_after_that_fits_nothing_is_refused():
    assert "refine.after names 'sorce', which is not an earlier step; did you mean 'source'?" in refusal(
        SOURCE, ref("refine", "Latent", after=["sorce"])
    )
    assert "refine.after: 'one' makes nothing that the step reads (latent)" in refusal(
        SOURCE, NOTES[0], ref("refine", "Latent", after=["one"])
    )


def test_what_is_said_of_each_unit_must_come_before_they_are_units():
    steps = [SOURCE, ref("pieces", "Pieces"), ref("all", "PassPieces"), ref("late", "Measures")]
    assert "step of needs an earlier step that makes measures" in refusal(*steps, ref("of", "OfPiece", note=True))
    steps.insert(2, ref("early", "Measures"))
    plan = make_plan("toy", "", {r.name: r for r in (*steps, ref("of", "OfPiece", note=True))}, ROOTS.names)
    assert plan.node("of").ports[0].nodes == ("early",)


def test_inputs_that_contradict_themselves_are_refused():
    with pytest.raises(TypeError, match="seed"):
        Inputs(draws=True)
    with pytest.raises(TypeError, match="decide a result and be carried"):
        Inputs(depends=("uri",), carries=("uri",))
    with pytest.raises(TypeError, match="port and a column"):
        Inputs(depends=("text",), ports={"text": Port(kind="text")})
