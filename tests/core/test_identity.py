import enum
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.identity import canonical, child_id, digest, digest_of_ids, is_safe_name, row_id, stage_seed

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@given(values)
def test_canonical_is_stable(value):
    assert canonical(canonical(value)) == canonical(value)
    assert digest(value) == digest(canonical(value))


@given(st.dictionaries(st.text(), leaves, min_size=2))
def test_key_order_does_not_matter(value):
    assert digest(value) == digest(dict(reversed(value.items())))


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_whole_floats_are_integers(number):
    assert digest(number) == digest(float(number))


@given(st.lists(leaves))
def test_tuples_are_lists_and_order_matters(value):
    assert digest(value) == digest(tuple(value))
    if value != list(reversed(value)) and canonical(value) != canonical(list(reversed(value))):
        assert digest(value) != digest(list(reversed(value)))


@given(values, values)
def test_different_values_differ(one, other):
    import json

    same = json.dumps(canonical(one), sort_keys=True) == json.dumps(canonical(other), sort_keys=True)
    assert (digest(one) == digest(other)) == same


def test_truth_is_not_one():
    assert digest(True) != digest(1)
    assert digest(None) != digest("")


def test_dataclasses_and_enums_are_their_values():
    class Mode(enum.Enum):
        FAST = "fast"

    @dataclass
    class Settings:
        mode: Mode
        size: int

    assert digest(Settings(Mode.FAST, 3)) == digest({"size": 3.0, "mode": "fast"})


@pytest.mark.parametrize(
    "value",
    [float("nan"), {1, 2}, b"bytes", Path("x"), object(), {1: "x"}, np.int64(3), np.zeros(2), lambda: 0, 1j],
    ids=lambda v: type(v).__name__,
)
def test_what_has_no_identity_raises(value):
    with pytest.raises(TypeError):
        digest({"nested": [value]})


@given(st.sets(st.text(st.characters(codec="utf-8"), max_size=8)))
def test_a_set_of_ids_has_no_order(ids):
    assert digest_of_ids(sorted(ids)) == digest_of_ids(sorted(ids, reverse=True))


def test_ids_are_pinned():
    """These values are in people's stores: changing one loses their work."""
    assert digest({"a": 1, "b": [1.5, "x", None]}) == "36cec5fc5bc73dd05dd44a7c65895779"
    assert row_id("f", "parent/other", "depends") == "fbf712fef5e6ddc54b6942fb6a02a8de"
    assert child_id("parent", 2) == "0917d127ff373110f143c50a4d7b5dd5"
    assert stage_seed(7, "base") == 3637781987245110164


@given(st.integers(0, 2**31), st.sampled_from(["base", "spatial", "refine"]))
def test_stage_seeds_fit_a_generator(seed, stage):
    assert 0 <= stage_seed(seed, stage) < 2**63
    assert stage_seed(seed, stage) != stage_seed(seed + 1, stage)


@pytest.mark.parametrize(
    ("name", "safe"),
    [("base", True), ("a-b_2", True), ("", False), ("..", False), ("a/b", False), ("a b", False), ('a"b', False)],
)
def test_names_of_folders(name, safe):
    assert is_safe_name(name) is safe
