"""`matrix`: every prompt with every combination of some values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

from flows.render.columns import plain_name
from flows.render.entries import CHECKS
from stages.core.config_files import nearest
from stages.core.errors import BadInput

ALONE = ("prompt", "seeds", "tags", "keyframes", "references")
"""Keys that a matrix does not span: their values are lists themselves, or they are what is spanned."""
OF_THE_RUN = ("cascade", "model")


def check_matrix(matrix: Any, where: str, columns: Collection[str]) -> dict[str, list[Any]]:
    """The values of each key, checked as far as they do not depend on a prompt. columns: those that prompts name.

    Raises BadInput for a key that takes do not have, and for what holds for a whole run.
    """
    if not matrix:
        return {}
    if not isinstance(matrix, Mapping):
        raise BadInput(f"{where}: matrix must be keys with lists, such as {{guidance: [1, 3]}}, not {matrix!r}")
    spanned = {plain_name(key): values for key, values in matrix.items()}
    known = {*CHECKS, *columns} - set(ALONE)
    for key, values in spanned.items():
        if key in OF_THE_RUN:
            each = " and ".join(f"{key}={value}" for value in values) if isinstance(values, list) else f"{key}=NAME"
            raise BadInput(
                f"{where}: matrix.{key}: a run has one plan, so it has one {key}; run the campaign once for each "
                f"({each}) with the same store, where they share what is equal"
            )
        if key not in known:
            raise BadInput(f"{where}: matrix has the unknown key {key!r}; {nearest(key, known)}")
        if not isinstance(values, list | tuple) or not values:
            raise BadInput(f"{where}: matrix.{key} must be a list of values, not {values!r}")
        for value in values:
            _check_value(where, key, value)
    return {key: list(values) for key, values in spanned.items()}


def _check_value(where: str, key: str, value: Any) -> None:
    try:
        found = CHECKS[key](value) if key in CHECKS and value is not None else value
    except ValueError as error:
        raise BadInput(f"{where}: matrix.{key} {error}") from None
    if found is None:
        raise BadInput(f"{where}: matrix.{key} has an empty value; leave it out")


def combinations(own: Mapping[str, Any], matrix: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """A prompt's own values with each combination of the others; what a prompt sets itself is not spanned."""
    keys = [key for key in matrix if key not in own and not (key == "seed" and "seeds" in own)]
    for values in product(*(matrix[key] for key in keys)):
        yield {**own, **dict(zip(keys, values, strict=True))}
