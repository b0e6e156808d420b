"""Score expressions: what they come to, with a second opinion from Python's own arithmetic, and what is refused."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.errors import BadInput
from stages.core.scoring import MOST_TERMS, parse_score, parse_threshold

TAKES = [{"a": 1.0, "b": 4.0}, {"a": 3.0, "b": None}, {"a": float("nan"), "b": 2.0}, {"a": 3.0, "b": 2.0}]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a", [1, 3, None, 3]),
        ("2 * a - b + 1", [-1, None, None, 5]),
        ("-(a - b) * 0.5", [1.5, None, None, -0.5]),
        ("rank(a)", [1, 2.5, None, 2.5]),
        ("rank(-a) + rank(b)", [6, None, None, 3]),
        ("c", [None] * 4),
        ("a * 1e308 * 10", [None] * 4),
        ("7", [7] * 4),
    ],
)
def test_a_score_comes_to_what_it_says_and_has_no_value_where_a_metric_has_none(text, values):
    assert parse_score(text).values(TAKES) == values


def test_the_metrics_of_a_score_are_known_before_there_are_any():
    score = parse_score("2 * sharpness - rank(flicker + sharpness)")
    assert (score.names, score.ranks) == ({"sharpness", "flicker"}, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a / b", "'a / b' is not allowed in a score: write metric names, numbers, + - *"),
        ("a ** 2", "'a ** 2' is not allowed"),
        ("__import__('os').system('true')", "is not allowed"),
        ("a.real", "'a.real' is not allowed"),
        ("a[0]", "is not allowed"),
        ("'a'", "is not allowed"),
        ("True", "is not allowed"),
        ("1e999", "is not allowed"),
        ("9" * 400, "is not allowed"),
        ("rank(a, b)", "is not allowed"),
        ("rank(x=a)", "is not allowed"),
        ("max(a)", "is not allowed"),
        ("a if b else a", "is not allowed"),
        ("[a for a in b]", "is not allowed"),
        ("a > 1", "is not allowed"),
        ("a b", "cannot be read"),
        ("(" * 500, "cannot be read"),
        ("a\x00", "cannot be read"),
        ("", "is no expression"),
        ("a + " * 250 + "a", "1,001 characters; at most 1,000"),
        (" + ".join("a" * (MOST_TERMS + 1)), "21 terms; at most 20"),
    ],
)
def test_what_is_no_score_is_refused_in_words(text, said):
    with pytest.raises(BadInput) as caught:
        parse_score(text)
    assert said in str(caught.value)


def test_twenty_terms_are_read():
    assert parse_score(" + ".join("a" * MOST_TERMS)).values([{"a": 1.0}]) == [20]


@pytest.mark.parametrize("op", [">=", "<=", ">", "<", "==", "!="])
def test_a_threshold_holds_as_python_compares(op):
    limit = parse_threshold(f"2 * a {op} -3")
    for value in (-4.0, -3.0, -2.0):
        assert limit.holds(value) == eval(f"{value} {op} -3")
    assert not limit.holds(None)
    assert (limit.score.text, limit.op, limit.value) == ("2 * a", op, -3)


@pytest.mark.parametrize("text", ["a", "a >= b", "1 < a < 2", "a >= rank(a)", "a in b", "a >= 1e999", "a = 1"])
def test_what_is_no_threshold_is_refused(text):
    with pytest.raises(BadInput):
        parse_threshold(text)


NUMBER = st.floats(-100, 100).map(lambda v: f"({v!r})")
EXPRESSION = st.recursive(
    NUMBER | st.sampled_from(["a", "b"]),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({' '.join(t)})"),
    max_leaves=8,
)


@settings(deadline=None)
@given(EXPRESSION, st.floats(-100, 100), st.floats(-100, 100))
def test_arithmetic_is_pythons(text, a, b):
    wanted = eval(text, {"a": a, "b": b})
    (value,) = parse_score(text).values([{"a": a, "b": b}])
    assert value == (wanted if math.isfinite(wanted) else None)
