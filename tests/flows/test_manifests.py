"""What manifests and shot lists hold that is not used, or cannot be: told by the command, and not passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from flows.cli.main import main
from flows.curate.curation import load_curation
from flows.prefect.endings import ending_of
from flows.run.session import execute, prepare
from tests.data_prep.little import video


def rushes(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


def curate(tmp_path: Path, *words: object) -> Result:
    """The command up to the probes of the files."""
    return rushes("curate", *words, "--store", tmp_path / "store", "--until", "sources", "infra.executor=local")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("m.csv", "uri,caption\na.mp4,a dog, running\n", "m.csv, line 2: there are 3 cells for 2 columns; put quotes"),
        ("m.csv", 'uri,caption\nb.mp4,"a\ncat"\n\na.mp4,a, b\n', "m.csv, line 5: there are 3 cells for 2 columns"),
        ("m.csv", "uri,caption,\na.mp4,a dog, running\n", "m.csv, line 2: there are 3 cells for 2 columns"),
        ("m.tsv", "uri\tcaption\na.mp4\ta dog\trunning\n", "m.tsv, line 2: there are 3 cells for 2 columns"),
        ("m.csv", 'uri,caption\na.mp4,"a dog\nb.mp4,a cat\n', "m.csv, line 2: this is not a row of a table"),
        ("m.csv", "uri,caption,caption\na.mp4,a dog,a cat\n", "m.csv, line 1: the column 'caption' occurs twice"),
        ("m.tsv", "uri\tx\tx \na.mp4\t1\t2\n", "m.tsv, line 1: the column 'x' occurs twice"),
        ("m.jsonl", '{"uri": "a.mp4", "uri": "b.mp4"}\n', "m.jsonl, line 1 is not JSON: a key occurs twice"),
        ("m.jsonl", '\n{"uri": "a.mp4", "caption": ["a", "b"]}\n', "m.jsonl, line 2: 'caption' is a list or a mapping"),
        ("m.jsonl", '{"uri": "a.mp4", "label": {"id": 3}}\n', "m.jsonl, line 1: 'label' is a list or a mapping"),
    ],
)
def test_a_row_that_would_lose_something_is_refused_with_its_line(tmp_path, name, text, says):
    for file in ("a.mp4", "b.mp4"):
        (tmp_path / file).write_bytes(file.encode())
    (tmp_path / name).write_text(text)
    made = curate(tmp_path, tmp_path / name)
    assert (made.exit_code, says in " ".join(made.output.split())) == (2, True), made.output
    assert not (tmp_path / "store" / "runs").exists()


def test_lists_of_a_table_are_refused_where_one_text_is_needed_and_kept_elsewhere(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a")
    rows = [{"uri": "a.mp4", "captions": ["a", "b"], "first": "a"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    (tmp_path / "m.jsonl").write_text(json.dumps(rows[0]) + "\n")
    for name, place in (("m.parquet", "row 1"), ("m.jsonl", "line 1")):
        for column in ("captions", "it shows {captions}"):
            made = curate(tmp_path, tmp_path / name, f"manifest.caption={column}")
            assert (made.exit_code, f"{name}, {place}: 'captions' is a list" in made.output) == (2, True), made.output
        assert curate(tmp_path, tmp_path / name, "manifest.caption=first", "--dry-run").exit_code == 0


def test_cells_that_say_nothing_are_no_fault(tmp_path):
    """A separator at the end of every line, a column without a name as pandas writes its index, a short row."""
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    (tmp_path / "m.csv").write_text(",uri,caption,\n0,a.mp4,a dog,\n1,b.mp4\n,,,\n")
    made = curate(tmp_path, tmp_path / "m.csv", "--dry-run")
    assert made.exit_code == 0, made.output


def named_twice(tmp_path: Path) -> Path:
    """A manifest with 8 rows of two files: one is said twice alike, 6 times otherwise."""
    for file in ("a.mp4", "dog.mp4"):
        (tmp_path / file).write_bytes(file.encode())
    rows = ["dog.mp4,a dog,", "dog.mp4,a dog,", "a.mp4,,c1"] + [f"./dog.mp4,dog {i}," for i in range(5)] + ["a.mp4,,c2"]
    (tmp_path / "m.csv").write_text("\n".join(["uri,caption,camera", *rows]) + "\n")
    return tmp_path / "m.csv"


def test_rows_that_name_a_file_again_are_told(tmp_path):
    manifest = named_twice(tmp_path)
    says = (
        f"{manifest}: 6 rows name a file that was named before and are not used: line 5 (dog.mp4), line 6 (dog.mp4), "
        "line 7 (dog.mp4), line 8 (dog.mp4), line 9 (dog.mp4) and 1 more"
    )
    for words in (("--dry-run",), (), ()):
        made = curate(tmp_path, manifest, *words)
        assert (tmp_path / "store").exists() == (words == ()), "looking makes no store"
        assert made.output.splitlines().count(says) == 1, made.output
    assert "0 sources, 2 files not read" in made.output


def test_rows_that_say_the_same_again_are_one(tmp_path):
    for file in ("a.mp4", "dog.mp4"):
        (tmp_path / file).write_bytes(file.encode())
    (tmp_path / "m.csv").write_text("uri,caption\ndog.mp4,a dog\ndog.mp4,a dog \na.mp4,\n")
    made = curate(tmp_path, tmp_path / "m.csv", tmp_path / "a.mp4", tmp_path / "m.csv")
    assert "0 sources, 2 files not read" in made.output
    assert "named before" not in made.output


def test_a_manifest_after_the_folder_of_its_files_says_that_it_is_not_used(tmp_path):
    """The order of sources decides whose word counts."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"a")
    (tmp_path / "m.jsonl").write_text('{"uri": "in/a.mp4", "label": "dog"}\n')
    late = curate(tmp_path, tmp_path / "in", tmp_path / "m.jsonl", "--dry-run")
    assert "m.jsonl: 1 row names a file that was named before and is not used: line 1 (a.mp4)" in late.output
    early = curate(tmp_path, tmp_path / "m.jsonl", tmp_path / "in", "--dry-run")
    assert "named before" not in early.output


def test_the_ending_that_prefect_shows_has_the_same_remarks(tmp_path):
    video(tmp_path / "a.mp4", (1,))
    (tmp_path / "m.csv").write_text("uri,label\na.mp4,dog\na.mp4,cat\n")
    curation = load_curation([str(tmp_path / "m.csv")], "curate", {}, ["infra.executor=local"])
    prepared = prepare(curation, str(tmp_path / "store"))
    lines = ending_of(prepared, execute(prepared), curation, page=False).lines
    assert f"{tmp_path}/m.csv: 1 row names a file that was named before and is not used: line 3 (a.mp4)" in lines


def test_shot_lists_that_fit_no_source_are_told(tmp_path):
    scenes = "Start Frame,End Frame,Start Time (seconds),End Time (seconds)\n1,30,0,2\n"
    for name in ("in/tape.mp4", "in/film.mp4", "lists/nosuch.csv", "lists/FILM.EDL", "lists/read me.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    only_others = curate(tmp_path, tmp_path / "in", f"shot_lists={tmp_path / 'lists'}")
    assert (only_others.exit_code, "and upper and lower case count" in only_others.output) == (2, True)
    (tmp_path / "lists" / "tape.csv").write_text(scenes)
    says = "shot lists: 2 fit no source of this run: FILM.EDL (fits film.mp4 but for upper and lower case), nosuch.csv"
    for words in (("--dry-run",), ()):
        made = curate(tmp_path, tmp_path / "in", f"shot_lists={tmp_path / 'lists'}", *words)
        assert made.output.splitlines().count(says) == 1, made.output
    (tmp_path / "lists" / "FILM.EDL").rename(tmp_path / "lists" / "tape.CSV")
    made = curate(tmp_path, tmp_path / "in", f"shot_lists={tmp_path / 'lists'}", "--dry-run")
    assert "2 fit no source of this run: nosuch.csv, tape.CSV (fits tape.mp4 but" in made.output
    for number in range(8):
        (tmp_path / "lists" / f"other{number}-Scenes.csv").write_text(scenes)
    made = curate(tmp_path, tmp_path / "in", f"shot_lists={tmp_path / 'lists'}", "--dry-run")
    assert "shot lists: 10 fit no source of this run: nosuch.csv, other0-Scenes.csv" in made.output
    assert "other3-Scenes.csv and 5 more" in made.output


def test_files_with_the_content_of_another_are_named(tmp_path):
    """With their folders where their names are the same, as in a set with a folder for each label."""
    first = video(tmp_path / "in" / "bunny" / "x.mp4", (1,)).read_bytes()
    for name in ("bunny/y.mp4", "dog/x.mp4"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(first)
    made = curate(tmp_path, tmp_path / "in")
    assert "1 source, 2 with the content of another\n" in made.output
    named = "y.mp4 (same content as bunny/x.mp4), dog/x.mp4 (same content as bunny/x.mp4)"
    assert f"\n  not used: {named}\n" in made.output
    labelled = curate(tmp_path, tmp_path / "in", "label_from_folder=true")
    assert (
        "\n  two labels for the same content: dog in dog/x.mp4, bunny in bunny/x.mp4, which is used\n"
        in labelled.output
    )
    for number in range(4):
        (tmp_path / "in" / f"z{number}.mp4").write_bytes(first)
    made = curate(tmp_path, tmp_path / "in")
    assert "two labels" not in made.output
    assert "1 source, 6 with the content of another\n" in made.output
    assert made.output.count("(same content as ") == 5
    assert ") and 1 more\n" in made.output
