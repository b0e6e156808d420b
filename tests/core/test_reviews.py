"""What the reviews of a take come to, whatever the order in which they are read."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.reviews import Standing, standing_of

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def review(name, choice, supersedes=(), note="", hours=0, take="t"):
    return {
        "id": name,
        "take_id": take,
        "choice": choice,
        "who": "ada",
        "at": BEGAN + timedelta(hours=hours),
        "note": note,
        "supersedes": list(supersedes),
    }


def test_a_take_without_a_verdict_has_none():
    assert standing_of([]) == {}
    assert standing_of([review("a", "star", note="bold")])["t"] == Standing("", True, "bold", False, ("a",))


def test_the_review_that_replaces_others_counts_whatever_the_clocks_say():
    rows = [review("a", "approve", hours=9), review("b", "reject", ["a"], hours=1)]
    assert standing_of(rows)["t"] == Standing("reject", False, "", False, ("b",))
    rows += [review("c", "clear", ["b"], hours=0)]
    assert standing_of(rows)["t"].verdict == ""


def test_a_star_and_a_note_outlive_a_later_verdict():
    rows = [review("a", "star", note="hands"), review("b", "approve", ["a"]), review("c", "note", ["b"], "look again")]
    assert standing_of(rows)["t"] == Standing("approve", True, "look again", False, ("c",))
    assert not standing_of([*rows, review("d", "unstar", ["c"])])["t"].star


def test_two_that_disagree_are_a_conflict_until_one_replaces_both():
    rows = [review("a", "approve"), review("b", "approve", ["a"]), review("c", "reject", ["a"])]
    assert standing_of(rows)["t"] == Standing("", False, "", True, ("b", "c"))
    settled = [*rows, review("d", "approve", ["b", "c"])]
    assert standing_of(settled)["t"] == Standing("approve", False, "", False, ("d",))


def test_two_that_agree_are_no_conflict():
    assert standing_of([review("a", "approve"), review("b", "approve")])["t"].verdict == "approve"


def test_a_star_is_no_word_about_the_verdict():
    assert standing_of([review("a", "approve"), review("b", "star")])["t"] == Standing(
        "approve", True, "", False, ("a", "b")
    )
    rows = [review("a", "approve"), review("b", "star", ["a"]), review("c", "reject", ["a"])]
    assert standing_of(rows)["t"] == Standing("reject", True, "", False, ("b", "c"))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["approve", "reject", "clear", "star", "unstar", "note"]), st.booleans())),
    st.randoms(),
)
def test_a_chain_comes_to_its_last_words_in_any_order(chain, random):
    rows = [review(f"r{i}", c, [f"r{i - 1}"] if i else [], f"note {i}" if n else "") for i, (c, n) in enumerate(chain)]
    verdicts = [c for c, _ in chain if c in ("approve", "reject", "clear")]
    stars = [c for c, _ in chain if c in ("star", "unstar")]
    notes = [f"note {i}" for i, (_, n) in enumerate(chain) if n]
    random.shuffle(rows)
    now = standing_of(rows).get("t", Standing())
    assert now.verdict == (verdicts[-1] if verdicts and verdicts[-1] != "clear" else "")
    assert now.star == bool(stars and stars[-1] == "star")
    assert now.note == (notes[-1] if notes else "")
    assert not now.conflict
