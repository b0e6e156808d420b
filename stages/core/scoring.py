"""Score expressions of gates: metric names, constants, `+ - *`, parentheses and `rank()`, over the takes of a group.

    score = parse_score("2 * sharpness - rank(flicker)")
    score.names                          # {"sharpness", "flicker"}
    score.values([{"sharpness": 0.4, "flicker": 0.01}, ...])

The text is parsed and never executed: whatever is not in this list is refused.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stages.core.errors import BadInput

MOST_TERMS, LONGEST = 20, 1000
SUM = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
SIGNS: dict[type[ast.unaryop], float] = {ast.UAdd: 1.0, ast.USub: -1.0}
COMPARED: dict[type[ast.cmpop], tuple[str, Callable[[float, float], bool]]] = {
    ast.GtE: (">=", operator.ge),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.Lt: ("<", operator.lt),
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
}
ALLOWED = "metric names, numbers, + - *, parentheses and rank()"

Metrics = Mapping[str, float | None]
Values = list[float | None]


@dataclass(frozen=True)
class Score:
    """A parsed expression. names: the metrics in it; ranks: whether a value depends on the other takes of the group."""

    text: str
    names: frozenset[str]
    ranks: bool
    _tree: ast.expr

    def values(self, takes: Sequence[Metrics]) -> Values:
        """The score of each take of a group; None where a metric of it has no value, or where it is not finite.

        rank(x) is 1 for the lowest x of the group and counts up, so that more of it is better, as in a score. Takes
        with the same x share the mean of their ranks.
        """
        return [v if v is not None and math.isfinite(v) else None for v in _values(self._tree, takes)]


@dataclass(frozen=True)
class Threshold:
    """An expression, how it is compared, and with what."""

    score: Score
    op: str
    value: float
    _holds: Callable[[float, float], bool]

    def holds(self, score: float | None) -> bool:
        """Whether a take goes on; not where its score has no value."""
        return score is not None and self._holds(score, self.value)


def parse_score(text: str) -> Score:
    """A score as people write it. Raises BadInput with a clause that says what is wrong: `'/' is not allowed: ...`."""
    return _score(text, _parsed(text))


def parse_threshold(text: str) -> Threshold:
    """`EXPRESSION op NUMBER`, such as `sharpness >= 0.2`. Raises BadInput as `parse_score` does."""
    tree = _parsed(text)
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or type(tree.ops[0]) not in COMPARED:
        raise BadInput(f"{text!r} must read EXPRESSION op NUMBER, with one of >=, <=, >, <, == and !=")
    limit = _score(text, tree.comparators[0])
    if limit.names or limit.ranks:
        raise BadInput(f"{text!r}: a number must stand behind the {COMPARED[type(tree.ops[0])][0]}")
    (value,) = limit.values([{}])
    if value is None:
        raise BadInput(f"{text!r}: what stands behind the comparison is not finite")
    op, holds = COMPARED[type(tree.ops[0])]
    score = _score(ast.get_source_segment(text.strip(), tree.left) or text, tree.left)
    return Threshold(score, op, value, holds)


def _parsed(text: str) -> ast.expr:
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{text!r} is no expression: write {ALLOWED}")
    if len(text) > LONGEST:
        raise BadInput(f"the expression has {len(text):,} characters; at most {LONGEST:,} are read")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadInput(f"{text!r} cannot be read: write {ALLOWED}") from None


def _score(text: str, tree: ast.expr) -> Score:
    names, terms, ranks = set[str](), 0, False
    left = [tree]
    while left:
        match left.pop():
            case ast.BinOp(left=one, op=op, right=other) if type(op) in SUM:
                left += [one, other]
            case ast.UnaryOp(op=op, operand=one) if type(op) in SIGNS:
                left.append(one)
            case ast.Call(func=ast.Name(id="rank"), args=[one], keywords=[]):
                left.append(one)
                ranks = True
            case ast.Name(id=name):
                names.add(name)
                terms += 1
            case ast.Constant(value=value) if _is_finite(value):
                terms += 1
            case other:
                what = (ast.get_source_segment(text.strip(), other) or text)[:80]
                raise BadInput(f"{what!r} is not allowed in a score: write {ALLOWED}")
    if terms > MOST_TERMS:
        raise BadInput(f"the score has {terms} terms; at most {MOST_TERMS} are read")
    return Score(text.strip(), frozenset(names), ranks, tree)


def _is_finite(value: object) -> bool:
    """Whether a constant is a number: true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _values(tree: ast.expr, takes: Sequence[Metrics]) -> Values:
    match tree:
        case ast.BinOp():
            pairs = zip(_values(tree.left, takes), _values(tree.right, takes), strict=True)
            work = SUM[type(tree.op)]
            return [None if a is None or b is None else work(a, b) for a, b in pairs]
        case ast.UnaryOp():
            sign = SIGNS[type(tree.op)]
            return [None if v is None else sign * v for v in _values(tree.operand, takes)]
        case ast.Call():
            return _ranks(_values(tree.args[0], takes))
        case ast.Name():
            return [_number(take.get(tree.id)) for take in takes]
        case ast.Constant(value=value):
            return [float(value)] * len(takes)  # type: ignore[arg-type]
    raise TypeError(f"{ast.dump(tree)} was let through")


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _ranks(values: Values) -> Values:
    there = sorted(v for v in values if v is not None)
    first = {v: i for i, v in reversed(list(enumerate(there, 1)))}
    last = {v: i for i, v in enumerate(there, 1)}
    return [None if v is None else (first[v] + last[v]) / 2 for v in values]


__all__ = ["Score", "Threshold", "parse_score", "parse_threshold"]
