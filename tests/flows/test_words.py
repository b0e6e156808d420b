"""Sentences for people: plurals, and messages that name what to do."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from rich.console import Console

from flows.display.grid import fitting, print_table
from flows.words import counted, error_text, listed, reason_text


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234567, "1,234,567 rows")])
def test_a_number_has_its_plural(count: int, text: str) -> None:
    assert counted(count, "row") == text


def test_a_plural_of_its_own_is_used() -> None:
    assert counted(1, "row computed twice", "rows computed twice") == "1 row computed twice"
    assert counted(3, "row computed twice", "rows computed twice") == "3 rows computed twice"


def test_of_many_words_the_first_are_listed():
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (("motion", "0.00012345", ">=", "0.02"), "motion is 0.0001234, must be at least 0.02"),
        (("luma", "250", "<=", "240"), "luma is 250, must be at most 240"),
        (("action", "boxing", "not in", "boxing, fencing"), "action is boxing, must be none of boxing, fencing"),
        (
            ("duplicate", "17a2bee49839583b", "is", "the best copy"),
            "copy of clip 17a2bee49839, which is better and was kept",
        ),
        (("duplicate_of", "s3://b/a.mp4", "==", "9f"), "same content as a.mp4"),
    ],
)
def test_a_reason_is_a_sentence(reason, text):
    assert reason_text(dict(zip(("metric", "value", "op", "threshold"), reason, strict=True))) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("PermanentError: a.mp4 has no frames (ingest.py:141)", "a.mp4 has no frames"),
        ("decode: BrokenMedia: no key frame (reading.py:9)", "decode: no key frame"),
        ("lost its worker", "lost its worker"),
        ("", ""),
    ],
)
def test_an_error_is_its_sentence(error, text):
    assert error_text(error) == text


ROWS = {
    "clip_id": ["0123456789abcdef0123456789abcdef"] * 2,
    "uri": ["/footage/long folder/a.mp4", "s3://bucket/b.mp4"],
    "n_frames": [12, 3456],
    "status": ["kept", "rejected"],
    "error": ["", "one two three four five six seven eight nine ten eleven twelve"],
    **{f"metric_{i:02}": [0.5, 0.25] for i in range(30)},
    "never": ["", ""],
}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_fits_and_no_sentence_is_cut(width):
    out = io.StringIO()
    print_table(Console(file=out, width=width), pa.table(ROWS))
    lines = out.getvalue().splitlines()
    grid = lines[: next(i for i, line in enumerate(lines) if line.startswith("not shown"))]
    assert max(len(line.rstrip()) for line in grid) <= width
    assert "…" not in "".join(grid)
    words = " ".join(grid).split()
    assert [w for w in words if w in ROWS["error"][1].split()] == ROWS["error"][1].split()
    assert {"0123456789ab", "a.mp4", "b.mp4", "kept", "rejected"} <= set(words)
    assert "metric_" in lines[len(grid)]
    assert "never" not in out.getvalue()


def test_a_very_narrow_table_keeps_what_says_most():
    rows = [{"id": "x" * 8, "uri": "a.mp4", "a": "1", "status": "ok", "error": "bad"}]
    assert fitting(["id", "uri", "a", "status", "error"], rows, 36) == ["id", "uri", "status", "error"]
