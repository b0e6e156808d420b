"""Sentences for people: plurals, and messages that name what to do."""

from __future__ import annotations

import pytest

from flows.views.words import counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234567, "1,234,567 rows")])
def test_a_number_has_its_plural(count: int, text: str) -> None:
    assert counted(count, "row") == text


def test_a_plural_of_its_own_is_used() -> None:
    assert counted(1, "row computed twice", "rows computed twice") == "1 row computed twice"
    assert counted(3, "row computed twice", "rows computed twice") == "3 rows computed twice"
