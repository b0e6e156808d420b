"""Sentences for people: plurals, and messages that name what to do."""

from __future__ import annotations

import io
import shlex

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from flows.display.grid import fitting, print_table
from flows.render.ending import ending
from flows.words import command, counted, error_text, listed, reason_text, told_apart


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
        (("frames", "1", ">=", "2"), "it has 1 frame; a video has at least 2"),
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


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), unique=True, max_size=12))
def test_names_of_files_tell_them_apart_and_are_no_longer_than_that(uris):
    names = told_apart(uris)
    assert len(set(names.values())) == len(uris)
    for uri, name in names.items():
        assert uri == name or uri.endswith(f"/{name}")
        shorter = name.partition("/")[2]
        assert not shorter or sum(f"/{other}".endswith(f"/{shorter}") for other in uris) > 1


def test_hints_are_whole_commands(tmp_path):
    store = str(tmp_path / "a store")
    assert shlex.split(command("table takes", store).strip("`")) == ["rushes", "table", "takes", "--store", store]
    row = {"take_id": "1", "prompt": "x", "seed": 0, "status": "error", "reasons": [], "error": "base: no"}
    lines = ending(pa.Table.from_pylist([row] * 7), store, [f"{i}.png: cropped" for i in range(6)])
    assert lines[0] == "0 of 7 takes have a video, 7 failed"
    assert f"  and 2 more; see {command('table takes', store)}" in lines
    assert f"  and 1 more: the column `note` of {command('table artifacts', store)}" in lines


ROWS = {
    "clip_id": ["0123456789abcdef0123456789abcdef"] * 2,
    "uri": ["/footage/long folder/a.mp4", "s3://bucket/b.mp4"],
    "n_frames": [12, 3456],
    "status": ["kept", "rejected"],
    "error": ["", "one two three four five six seven eight nine ten eleven twelve"],
    **{f"metric_{i:02}": [0.5, 0.25] for i in range(30)},
    "never": ["", ""],
}


def test_a_copy_is_named_by_the_file_and_span_of_the_better_clip():
    out, better = io.StringIO(), "17a2bee49839583b9cdb2df9d9668fd5"
    reason = {"metric": "duplicate", "value": better, "op": "is", "threshold": "the best copy"}
    rows = [
        {"clip_id": better, "uri": "/f/a.mp4", "start_s": 0.0, "end_s": 10.3, "reasons": [], "duplicate_of": ""},
        {"clip_id": "0" * 32, "uri": "/f/b.mp4", "start_s": 0, "end_s": 9, "reasons": [reason], "duplicate_of": better},
    ]
    print_table(Console(file=out, width=200), pa.Table.from_pylist(rows))
    assert "copy of a.mp4, 0.00-10.30 s, which is better and was kept" in out.getvalue()


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


def test_files_of_one_name_are_told_apart_in_a_table():
    uris = ["/in/a/x.mp4", "/in/b/x.mp4", "/in/b/y.mp4"]
    copy = [{"metric": "duplicate_of", "value": uris[0], "op": "==", "threshold": "9f"}]
    out = io.StringIO()
    print_table(Console(file=out, width=100), pa.table({"uri": uris, "reasons": [[], copy, []]}))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert {"a/x.mp4", "b/x.mp4 same content as a/x.mp4", "y.mp4"} <= set(lines)


def test_a_very_narrow_table_keeps_what_says_most():
    rows = [{"id": "x" * 8, "uri": "a.mp4", "a": "1", "status": "ok", "error": "bad"}]
    assert fitting(["id", "uri", "a", "status", "error"], rows, 36) == ["id", "uri", "status", "error"]


@pytest.mark.parametrize(
    ("states", "text"),
    [(["pending"], "0 of 1 take has a"), (["ok", "error"], "1 of 2 takes has a"), (["error"] * 2, "0 of 2 takes have")],
)
def test_an_ending_agrees_with_its_numbers(states, text):
    rows = [{"take_id": "a", "prompt": "x", "seed": 1, "status": s, "reasons": None, "error": ""} for s in states]
    assert ending(pa.Table.from_pylist(rows), "store")[0].startswith(text)
