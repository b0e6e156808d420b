"""Texts of others in a terminal, in a spreadsheet and in Prefect's Markdown."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from data_prep.sources.manifests import read_manifest
from flows.cli.main import main
from flows.cli.outputs import write_table
from flows.cli.store import console
from flows.display.grid import print_table
from flows.render.prompts import read_prompts
from stages.core.reach.harmless import NUMBER, for_cell, for_markdown, for_terminal, from_cell

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
EVIL = "\x1b[2J\x1b]0;owned\x07a\rb\x9bm\u202egpj"


def test_names_of_files_and_errors_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """A source with escapes in its name that cannot be read, in everything that the commands print."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"{EVIL}.mp4").write_bytes(b"no video")
    (folder / "list\nno faults found.mp4").write_bytes(b"no video")
    store, out = str(tmp_path / "s"), ""
    commands = [
        ["curate", str(folder), "--executor", "local", "--until", "ingest"],
        ["status"],
        ["table", "sources"],
        ["table", "runs"],
        ["curate", str(folder / EVIL)],
        ["curate", str(folder), "--executor", "local", "--dry-run", "--until", "ingest", "manifest.label=a\x1bb"],
        ["render", f"{EVIL}.yaml"],
        ["status", f"{EVIL}.mp4"],
    ]
    for words in commands:
        result = CliRunner().invoke(main, [*words, "--store", store])
        assert result.exit_code in (0, 1, 2), result.output
        assert not CONTROL.search(result.output), (words, result.output)
        out += result.output
    assert "\\x1b[2J" in out, "it is shown, not obeyed"
    assert "\nno faults found" not in out


def test_prompts_and_captions_cannot_steer_it_either(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(console, pa.table({"caption": [f"{EVIL} "], "more": ["[bold]x[/] [/nothing]"]}))
    shown = capsys.readouterr().out
    assert not CONTROL.search(shown)
    assert "[bold]x[/] [/nothing]" in shown


@given(st.text())
def test_what_is_shown_holds_no_control_character(text: str) -> None:
    shown = for_terminal(text)
    assert not CONTROL.search(shown)
    assert [c for c in shown if c.isalnum()] or not [c for c in text if c.isalnum()]
    assert for_terminal(text, keep="").count("\n") == 0


FORMULAS = ["=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "'=1", "''@x", "-", "=", "-5", "+7.5e3", "'-5"]


@given(st.text() | st.sampled_from(FORMULAS))
@example("-5")
def test_a_cell_is_no_formula_and_gives_its_text_back(text: str) -> None:
    cell = for_cell(text)
    assert from_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) or NUMBER.fullmatch(cell)


def test_tables_for_spreadsheets_reckon_nothing_and_come_back_whole(tmp_path: Path) -> None:
    """Formulas are texts, numbers stay numbers, and our own readers give back what was there."""
    texts = [t for t in FORMULAS if t.strip() == t and t not in ("-5", "+7.5e3")] + ["a plain text", "7"]
    uris = [f"{i}.mp4" for i in range(len(texts))]
    table = pa.table({"uri": uris, "caption": texts, "n": [-1.5] * len(texts), "=x": [["=1"]] * len(texts)})
    out = tmp_path / "table.csv"
    write_table(table, out)
    with out.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["uri", "caption", "n", "'=x"]
    assert not [c for row in rows for c in row if c.startswith(("=", "+", "-", "@", "\t")) and c != "-1.5"]
    assert {row[2] for row in rows[1:]} == {"-1.5"}
    back = read_manifest("table.csv", out.read_bytes(), {})
    assert [r["caption"] for r in back] == texts
    prompts = tmp_path / "prompts.csv"
    write_table(pa.table({"prompt": texts, "priority": [-1] * len(texts)}), prompts)
    entries = read_prompts(str(prompts))
    assert [e.values["prompt"] for e in entries] == texts
    assert {e.values["priority"] for e in entries} == {"-1"}


def test_markdown_of_prefect_shows_texts_and_does_nothing(tmp_path: Path) -> None:
    from flows.prefect.artifacts import result_text
    from flows.prefect.endings import Ending
    from flows.run.session import Outcome

    evil = "![x](http://evil/i.png) [click](javascript:1) <img src=x onerror=1> `a` | # b\n# heading"
    outcome = Outcome("run-1", "stopped", evil, {})
    text = result_text("render", evil, "s3://u:p@bucket/store?sig=1", outcome, Ending([evil], [(1, evil)]))
    tokens = [t for block in MarkdownIt("commonmark").parse(text) for t in (block, *(block.children or ()))]
    assert not {"link_open", "image", "html_inline", "html_block"} & {t.type for t in tokens}
    assert [t.type for t in tokens].count("heading_open") == 3
    assert "u:p" not in text
    assert "sig=1" not in text
    assert "rushes status --store s3://bucket/store\n" in text
    assert for_markdown("a plain name, 2 videos in out/x.mp4") == "a plain name, 2 videos in out/x.mp4"
    assert for_markdown("- a")[0] == for_markdown("# a")[0] == "\\"
