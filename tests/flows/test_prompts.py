"""Prompts from files: every format says the same, whatever is in a text; and every bad line is named before work."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import re
from decimal import Decimal
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from flows.cli.main import main
from flows.render.entries import LONGEST_PROMPT, SHOWN_FAULTS
from flows.render.prompts import Entry, as_entry, check_all, check_entry, read_prompts
from stages.core.errors import BadInput

DATA = Path(os.environ.get("RUSHES_DATA", Path(__file__).parents[2] / "../shared/data")) / "cases" / "prompts"


def read(folder: Path, name: str, data: str | bytes) -> list[dict]:
    """The checked values of a file."""
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return check_all(read_prompts(name, folder))


def refusal(folder: Path, name: str, data: str | bytes) -> str:
    with pytest.raises(BadInput) as caught:
        read(folder, name, data)
    return str(caught.value)


# -- every format says the same ----------------------------------------------------------------------------------------

SEPARATORS = "\u2028\u2029\u00a0\u3000"
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1).filter(
    lambda text: text == text.strip(" \ufeff") and text
)
tags = st.text(st.characters(categories=("L", "N")), min_size=1)
rows = st.fixed_dictionaries(
    {"prompt": texts},
    optional={
        "negative_prompt": texts,
        "seed": st.integers(0, 2**63 - 1),
        "tags": st.lists(tags, min_size=1, max_size=3, unique=True),
        "fps": st.floats(0.01, 1000),
        "width": st.integers(1, 16384),
    },
)
TYPES = pa.schema(
    [
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("tags", pa.list_(pa.string())),
        ("fps", pa.float64()),
        ("width", pa.int32()),
    ]
)


def as_csv(values: list[dict], separator: str = ",", end: str = "\r\n") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, TYPES.names, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows([{**row, "tags": ", ".join(row.get("tags", []))} for row in values])
    return out.getvalue()


@settings(deadline=None, max_examples=60)
@given(st.lists(rows, min_size=1, max_size=4), st.booleans())
@example([{"prompt": "one\u2028two\u0020three", "tags": ["hero"]}], True)
@example([{"prompt": 'she said "hi, there"; then, left'}], False)
@example([{"prompt": "0"}, {"prompt": "${oc.env:HOME} ???"}], False)
def test_every_format_gives_back_what_was_written(tmp_path_factory, values, marked):
    folder = tmp_path_factory.mktemp("formats")
    mark = codecs.BOM_UTF8 if marked else b""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in values)
    assert read(folder, "a.csv", mark + as_csv(values).encode()) == values
    assert read(folder, "b.CSV", as_csv(values, ";", "\n")) == values
    assert read(folder, "c.tsv", mark + as_csv(values, "\t", "\r").encode()) == values
    assert read(folder, "d.jsonl", mark + lines.encode()) == values
    assert read(folder, "e.NdJson", lines.replace("\n", "\r\n")) == values
    assert read(folder, "f.json", mark + json.dumps(values).encode()) == values
    pq.write_table(pa.Table.from_pylist(values, TYPES), folder / "g.Parquet")
    assert check_all(read_prompts("g.Parquet", folder)) == values


@settings(deadline=None, max_examples=60)
@given(st.lists(texts.filter(lambda text: text[0] not in "{[" and "prompt" not in text.lower()), min_size=1))
def test_a_text_file_has_one_prompt_a_line(tmp_path_factory, prompts):
    folder = tmp_path_factory.mktemp("text")
    found = read(folder, "a.txt", "\ufeff" + "\r\n\r\n".join(prompts))
    assert [row["prompt"] for row in found] == prompts


@pytest.mark.parametrize("separator", ["\u2028", "\u2029"])
@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_only_line_ends_end_a_line(separator, suffix, tmp_path):
    prompt = f"a red{separator}circle"
    data = {"txt": prompt, "csv": f"prompt\n{prompt}\n", "jsonl": json.dumps({"prompt": prompt}, ensure_ascii=False)}
    assert read(tmp_path, f"a.{suffix}", data[suffix]) == [{"prompt": prompt}]


@pytest.mark.parametrize("sign", ["\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\0", "\x1b", "\x7f"])
@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl", "json", "parquet"])
def test_a_control_character_is_refused_on_its_own_line(sign, suffix, tmp_path):
    """Not taken for the end of a line either: there is one bad prompt, and the good one is the second."""
    prompt = f"a red{sign}circle"
    data = {
        "txt": f"{prompt}\nfine\n",
        "csv": f"prompt\n{prompt}\nfine\n",
        "jsonl": json.dumps({"prompt": prompt}) + '\n"fine"\n',
        "json": json.dumps([prompt, "fine"]),
        "parquet": b"",
    }
    if suffix == "parquet":
        pq.write_table(pa.table({"prompt": [prompt, "fine"]}), tmp_path / "a.parquet")
        data["parquet"] = (tmp_path / "a.parquet").read_bytes()
    place = {"txt": "line 1", "csv": "line 2", "jsonl": "line 1", "json": "entry 1", "parquet": "row 1"}[suffix]
    said = refusal(tmp_path, f"a.{suffix}", data[suffix])
    assert said == f"a.{suffix}, {place}: prompt holds the control character U+{ord(sign):04X}; remove it"


def test_a_cell_in_quotes_may_hold_line_ends_and_later_lines_keep_their_numbers(tmp_path):
    data = 'prompt,seed\n"a red circle,\nmoving ""left""",7\n\nsecond,x\n'
    assert refusal(tmp_path, "a.csv", data) == "a.csv, line 5: seed must be a number, not 'x'"
    found = read(tmp_path, "a.csv", data.replace("x", "8"))
    assert found[0] == {"prompt": 'a red circle,\nmoving "left"', "seed": 7}


def test_spreadsheets_write_utf_16_and_names_with_capitals_and_spaces(tmp_path):
    text = "Prompt\t Negative Prompt \tSeed\r\nein grüner Stern\tblurred\t0\r\n"
    right = [{"prompt": "ein grüner Stern", "negative_prompt": "blurred", "seed": 0}]
    assert read(tmp_path, "a.tsv", text.encode("utf-16")) == right
    assert read(tmp_path, "a.csv", text.encode("utf-16")) == right
    assert read(tmp_path, "b.json", '[{" PROMPT": "x"}]') == [{"prompt": "x"}]


def test_numbers_are_text_where_text_is_meant_and_what_is_missing_is_none(tmp_path):
    assert read(tmp_path, "a.csv", "prompt,negative_prompt,tags\n0,1.50,7\n") == [
        {"prompt": "0", "negative_prompt": "1.50", "tags": ["7"]}
    ]
    found = read(tmp_path, "a.jsonl", '{"prompt": 0, "negative_prompt": NaN, "seed": null, "tags": null, "image": NaN}')
    assert found == [{"prompt": "0"}]
    columns = {
        "prompt": ["a", "b", None],
        "seed": pa.array([7.0, math.nan, math.nan], pa.float64()),  # as a data frame keeps whole numbers with gaps
        "negative_prompt": pa.array([1.0, math.nan, None], pa.float64()),
        "seeds": pa.array([None, Decimal(3), None], pa.decimal128(5, 0)),
        "__index_level_0__": [None, None, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    entries = read_prompts("a.parquet", tmp_path)
    assert check_all(entries[:2]) == [{"prompt": "a", "seed": 7, "negative_prompt": "1"}, {"prompt": "b", "seeds": 3}]


# -- what is meant -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"seed": 42}, {"seed": 42}),
        ({"seed": "42"}, {"seed": 42}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"seed": str(2**63 - 1)}, {"seed": 2**63 - 1}),
        ({"seeds": 42}, {"seeds": 42}),
        ({"seeds": "42"}, {"seeds": 42}),
        ({"seeds": "1,2,3"}, {"seeds": [1, 2, 3]}),
        ({"seeds": "[7]"}, {"seeds": [7]}),
        ({"seeds": "7,"}, {"seeds": [7]}),
        ({"seeds": [3, "4", 5.0, 3]}, {"seeds": [3, 4, 5, 3]}),
        ({"seed": "4.0"}, {"seed": 4}),
        ({"tags": "hero"}, {"tags": ["hero"]}),
        ({"tags": "a, b,,"}, {"tags": ["a", "b"]}),
        ({"tags": ["a, b", " c ", "c"]}, {"tags": ["a, b", "c"]}),
        ({"tags": []}, {"tags": []}),
        ({"fps": "23.976", "guidance": 0}, {"fps": 23.976, "guidance": 0}),
        ({"fps": ".5", "guidance": "1e1"}, {"fps": 0.5, "guidance": 10.0}),
        ({"width": 64.0, "height": "64", "frames": 9}, {"width": 64, "height": 64, "frames": 9}),
        ({"image": " still.png "}, {"image": "still.png"}),
    ],
)
def test_values_in_their_types(values, right):
    found = check_entry("here", {"prompt": " x ", **values})
    assert found == {"prompt": "x", **right}
    assert all(type(found[key]) is type(right[key]) for key in right)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"seed": -5}, "seed must be a whole number from 0 to 2**63 - 1, not -5"),
        ({"seed": 2**63}, "seed must be a whole number"),
        ({"seed": 1e300}, "seed must be a whole number"),
        ({"seed": 10**400}, "seed must be a number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a number, not True"),
        ({"seed": "1.23E+12"}, "seed must be written with all its digits, not as '1.23E+12'"),
        ({"seeds": "7, 1e3"}, "seeds must be written with all its digits, not as ' 1e3'"),
        ({"seed": "1_000"}, "seed must be a number, not '1_000'"),
        ({"seed": "\uff17"}, "seed must be a number"),
        ({"seed": "9" * 5000}, "seed must be a number"),
        ({"seed": [1]}, "write several as `seeds`"),
        ({"seed": "1,2"}, "write several as `seeds`"),
        ({"seeds": 123456789}, "write one seed as `seed: 123456789`"),
        ({"seeds": 0}, "seeds is a count from 1"),
        ({"seeds": []}, "seeds must be a count, or seeds such as"),
        ({"seeds": "1,,2"}, "seeds must be a number"),
        ({"seeds": "[1],[2]"}, "seeds must be a count, or seeds such as"),
        ({"seeds": [1, 2**63]}, "seeds must be a whole number"),
        ({"seed": 1, "seeds": 2}, "not both"),
        ({"tags": 5}, "tags must be a text or a list of texts, not 5"),
        ({"tags": ["a", 5]}, "tags must be a text or a list of texts"),
        ({"tags": {"a": 1}}, "tags must be a text or a list of texts"),
        ({"fps": math.nan}, "fps must be a number, not nan"),
        ({"fps": math.inf}, "fps must be a number, not inf"),
        ({"fps": 1e9}, "fps must be over 0 and at most 1000"),
        ({"fps": 0}, "fps must be over 0"),
        ({"fps": "fast"}, "fps must be a number, not 'fast'"),
        ({"fps": "nan"}, "fps must be a number"),
        ({"guidance": math.inf}, "guidance must be a number"),
        ({"guidance": -1}, "guidance must be from 0 to 10000"),
        ({"guidance": 10001}, "guidance must be from 0 to 10000"),
        ({"width": 0}, "width must be a whole number from 1"),
        ({"frames": 9.5}, "frames must be a whole number from 1"),
        ({"image": True}, "image must be a text"),
        ({"image": ["a"]}, "image must be a text"),
        ({"image": "a\0b"}, "control character U+0000"),
        ({"prompt": ["x"]}, "prompt must be a text"),
        ({"prompt": "  "}, "there is no prompt"),
        ({"prompt": None}, "there is no prompt"),
        ({"prompt": "x" * (LONGEST_PROMPT + 1)}, "131073 bytes"),
        ({"prompt": "é" * (LONGEST_PROMPT // 2 + 1)}, "131074 bytes"),
        ({"prompt": "\ud83d"}, "half of a surrogate pair U+D83D"),
        ({"promt": "x"}, "unknown key 'promt'; did you mean 'prompt'?"),
    ],
)
def test_what_cannot_be_meant_is_refused(values, says):
    with pytest.raises(BadInput) as caught:
        check_entry("a.csv, line 7", {"prompt": "x", **values})
    assert str(caught.value).startswith("a.csv, line 7: ")
    assert says in str(caught.value)


def test_the_longest_prompt_that_is_allowed():
    assert check_entry("here", {"prompt": "x" * LONGEST_PROMPT})


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), st.lists))
def test_whatever_a_value_is_it_is_checked_or_refused(value):
    for key in ("prompt", "negative_prompt", "seed", "seeds", "tags", "image", "width", "fps", "guidance"):
        try:
            found = check_entry("here", {"prompt": "x", key: value})
        except BadInput:
            continue
        assert isinstance(found["prompt"], str)
        assert 0 <= found.get("seed", 0) < 2**63
        assert all(isinstance(tag, str) for tag in found.get("tags", []))
        assert 0 <= found.get("guidance", 0) <= 1e4


# -- every bad line is named -------------------------------------------------------------------------------------------


def test_every_bad_line_is_named_at_once(tmp_path):
    data = (
        '{"prompt": "fine"}\n{"prompt": \n\n7\n{"prompt": "x", "seed": -1, "fps": 0}\n{"seed": 3}\n{"a": 1, "a": 2}\n'
    )
    lines = refusal(tmp_path, "a.jsonl", data).splitlines()
    assert lines[0] == "5 of 6 prompts cannot be used:"
    assert [line.split(": ")[0] for line in lines[1:]] == [f"a.jsonl, line {n}" for n in (2, 4, 5, 6, 7)]
    assert "seed" in lines[3]
    assert "fps" in lines[3]
    assert lines[4] == "a.jsonl, line 6: there is no prompt"


def test_of_many_bad_lines_the_first_are_shown_and_the_rest_counted(tmp_path):
    lines = refusal(tmp_path, "a.csv", "prompt,seed\n" + "x,-1\n" * 50 + "x,1\n").splitlines()
    assert lines[0] == "50 of 51 prompts cannot be used:"
    assert len(lines) == 2 + SHOWN_FAULTS
    assert lines[-1] == f"and {50 - SHOWN_FAULTS} more"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.xlsx", "x", "cannot be read from .xlsx; use .csv, .tsv,"),
        ("prompts", "x", "a file without suffix"),
        ("a.txt", "prompt,seed\na,1\n", "begins like a table ('prompt,seed'); name it .csv"),
        ("a.txt", "\ufeffPrompt\na\n", "begins like a table"),
        ("a.txt", '{"prompt": "x"}\n', "begins like JSON"),
        ("a.txt", '\n[\n"x"]\n', "begins like JSON"),
        ("a.txt", "\n \r\n", "holds no prompts"),
        ("a.csv", "", "holds no prompts"),
        ("a.csv", "prompt,seed\n", "holds no prompts"),
        ("a.csv", "a red circle\na blue square\n", "line 1: there is no column `prompt` among 'a red circle'"),
        ("a.csv", "prompt,seeed\nx,1\n", "line 1: unknown column 'seeed'; did you mean 'seed'?"),
        ("a.csv", "prompt,shot nr\nx,1\n", "what is for your own use goes into the column `tags`"),
        ("a.csv", "prompt,Prompt \nx,y\n", "the column 'prompt' occurs twice"),
        ("a.csv", "prompt,seed\na red circle, moving left,7\n", "line 2: there are 3 cells for 2 columns; put quotes"),
        ("a.csv", 'prompt\nfine\n"no end\n', "line 3: this is not a row of a table"),
        ("a.csv", b"prompt\nfine\ngr\xfcn\n", "line 3: this is not UTF-8 text"),
        ("a.csv", "prompt\n" + "x" * 140_000, "line 2: this is not a row of a table: field larger"),
        ("a.json", '{"prompt": "x"}', "must hold a list"),
        ("a.json", '{"prompt": "x"}\n{"prompt": "y"}\n', "line 2: this is not JSON: Extra data; a file with one JSON"),
        ("a.json", "[" * 100_000, "is not JSON: it is nested too deeply"),
        ("a.json", '[{"prompt": "x", "Prompt": "y"}]', "entry 1: the key 'prompt' occurs twice"),
        ("a.jsonl", "[" * 100_000, "line 1: this is not JSON: it is nested too deeply"),
        ("a.parquet", "no parquet", "a.parquet is not Parquet"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(name, data, says, tmp_path):
    assert says in refusal(tmp_path, name, data)


def test_parquet_with_text_that_is_none_or_another_column(tmp_path):
    pq.write_table(pa.table({"caption": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="no column `prompt` among 'caption'"):
        read_prompts("a.parquet", tmp_path)
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "b.parquet")
    with pytest.raises(BadInput, match="is not Parquet"):
        read_prompts("b.parquet", tmp_path)


# -- where files lie ---------------------------------------------------------------------------------------------------


def test_a_path_counts_from_the_campaign_and_a_url_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.txt").write_text("x\n")
    relative = read_prompts("lists/a.txt", tmp_path)
    assert relative == [Entry("lists/a.txt, line 1", {"prompt": "x"}, str(tmp_path / "lists"))]
    assert read_prompts(str(tmp_path / "lists/a.txt"), "/nowhere")[0].values == {"prompt": "x"}
    assert read_prompts((tmp_path / "lists/a.txt").as_uri())[0].values == {"prompt": "x"}
    with fsspec.open("memory://bucket/B.CSV", "wb") as file:
        file.write(b"prompt\nx\n")
    entry = read_prompts("memory://bucket/B.CSV")[0]
    assert (entry.place, entry.folder) == ("memory://bucket/B.CSV, line 2", "memory://bucket")


@pytest.mark.parametrize("url", ["none.csv", "nosuch://x/a.csv", "folder.csv", "a\0.csv"])
def test_a_file_that_cannot_be_read_is_named(url, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadInput, match=r"\.csv cannot be read: "):
        read_prompts(url, tmp_path)


def test_no_password_and_no_query_of_a_url_is_shown():
    with pytest.raises(BadInput) as caught:
        read_prompts("nosuch://user:s3cret@host/a.csv?signature=s3cret")
    assert "s3cret" not in str(caught.value)
    assert "nosuch://host/a.csv cannot be read" in str(caught.value)


def test_what_a_campaign_says_itself_is_an_entry_too():
    assert as_entry("c.yaml: prompt 1", "x") == Entry("c.yaml: prompt 1", {"prompt": "x"})
    assert as_entry("c.yaml: prompt 1", {"Prompt": "x", "tags": None}).values == {"prompt": "x"}
    with pytest.raises(BadInput, match=r"prompt 2: a prompt is a text, or a mapping"):
        check_all([as_entry("c.yaml: prompt 2", 7)])


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("bom.jsonl", [{"prompt": "a red circle"}]),
        ("bom.txt", [{"prompt": "a red circle"}, {"prompt": "a blue square"}]),
        ("prompts.JSONL", [{"prompt": "a red circle"}]),
        ("prompts.csv", [{"prompt": "a red circle, moving left", "seed": 7}]),
        ("prompts.json", [{"prompt": "a red circle"}, {"prompt": "b"}]),
        ("prompts.ndjson", [{"prompt": "a red circle"}]),
        ("tags.jsonl", [{"prompt": "a red circle", "tags": ["hero"]}]),
        ("tagsnull.jsonl", [{"prompt": "a red circle"}]),
        ("u2028.jsonl", [{"prompt": "a red\u2028circle"}]),
        ("ff.txt", "line 1: prompt holds the control character U+000C"),
        ("nel.txt", "line 1: prompt holds the control character U+0085"),
        ("nul.jsonl", "line 1: prompt holds the control character U+0000"),
        ("surrogate.jsonl", "line 1: prompt holds half of a surrogate pair"),
        ("tagsint.jsonl", "line 1: tags must be a text or a list of texts, not 5"),
    ],
)
def test_the_cases_that_were_found(name, right):
    path = DATA / f"prompts-{name}"
    if not path.is_file():
        pytest.skip("the cases are not here; set RUSHES_DATA")
    if isinstance(right, str):
        with pytest.raises(BadInput) as caught:
            check_all(read_prompts(str(path)))
        assert right in str(caught.value)
    else:
        assert check_all(read_prompts(str(path))) == right


def asked_for(tmp_path: Path, *words: str) -> list[dict]:
    """The takes in the store once the command has run through a step without a model."""
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump({"steps": {"text": {"use": "tests.flows.toys:Letters"}}}))
    store, out = str(tmp_path / "store"), tmp_path / "takes.parquet"
    more = [f"cascade={tmp_path / 'toys.yaml'}", "--store", store, "--executor", "local"]
    run = CliRunner().invoke(main, ["render", *words, *more])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(main, ["table", "takes", "--store", store, "--out", str(out)])
    assert run.exit_code == 0, run.output
    return pq.read_table(out).to_pylist()


ODD = "a red\u2028circle, ${oc.env:HOME} ??? {{x}}"
FORMS = {
    "a.txt": f"\ufeff{ODD}\r\nblue\r\n",
    "b.CSV": f'\ufeffPrompt,tags,seed\r\n"{ODD}",hero,7\r\nblue,,8\r\n',
    "c.tsv": f"prompt\ttags\tseed\n{ODD}\thero\t7\nblue\t\t8\n",
    "d.JSONL": f'\ufeff{{"prompt": "{ODD}", "tags": "hero", "seed": 7}}\n{{"prompt": "blue", "tags": null, "seed": 8}}',
    "e.ndjson": f'{{"prompt": "{ODD}", "tags": ["hero"], "seed": 7}}\r\n{{"prompt": "blue", "seed": 8}}\r\n',
    "f.json": f'[{{"prompt": "{ODD}", "tags": "hero", "seed": 7}}, {{"prompt": "blue", "seed": "8"}}]',
}


@pytest.mark.parametrize("name", FORMS)
def test_prompts_reach_the_store_as_they_were_written(name, tmp_path):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8", newline="")
    takes = asked_for(tmp_path, str(tmp_path / name))
    assert [take["prompt"] for take in takes] == [ODD, "blue"]
    if name != "a.txt":
        assert [(take["tags"], take["seed"]) for take in takes] == [(["hero"], 7), ([], 8)]


@pytest.mark.parametrize("where", ["campaign", "command line"])
def test_what_a_campaign_says_reaches_the_store_as_it_was_written(where, tmp_path):
    campaign = {"name": "odd", "prompts": [ODD], "seeds": [2**63 - 1], "negative_prompt": ODD}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(campaign, allow_unicode=True), encoding="utf-8")
    words = {
        "campaign": [str(tmp_path / "odd.yaml")],
        "command line": ["--prompt", ODD, f"negative_prompt={json.dumps(ODD)}", f"seeds=[{2**63 - 1}]"],
    }
    (take,) = asked_for(tmp_path, *words[where])
    assert (take["prompt"], take["negative_prompt"], take["seed"]) == (ODD, ODD, 2**63 - 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a red\x0ccircle", "control character U+000C"),
        ("a red\x85circle", "control character U+0085"),
        ("a red\0circle", "control character U+0000"),
        ("x" * (LONGEST_PROMPT + 1), "131073 bytes"),
    ],
)
def test_a_text_that_cannot_be_a_prompt_is_refused_before_work(text, says, tmp_path):
    (tmp_path / "a.txt").write_text(f"fine\n{text}\n", encoding="utf-8", newline="")
    run = CliRunner().invoke(main, ["render", str(tmp_path / "a.txt"), "--store", str(tmp_path / "store")])
    assert run.exit_code == 2, run.output
    assert "a.txt, line 2" in run.output
    assert says in run.output
    assert not (tmp_path / "store").exists()


def test_a_file_of_prompts_is_rendered_without_a_campaign(tmp_path):
    """Its pictures count from its folder, and settings of the command line win."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "Many.CSV").write_text("prompt,image\na red circle,a.png\na blue square,\n")
    listed, store = str(tmp_path / "Many.CSV"), ["--store", str(tmp_path / "store"), "--dry-run"]
    for words in ([listed], ["seeds=1", listed], [f"prompts_file={listed}"]):
        run = CliRunner().invoke(main, ["render", *words, *store])
        assert run.exit_code == 0, run.output
        assert re.search(r"see +0 +1 ", run.output), run.output
        assert re.search(r"text +0 +2 ", run.output), run.output
    shown = CliRunner().invoke(main, ["render", listed, *store[:2], "--settings"]).output
    assert "name: Many" in shown
    for words in ([], [listed, "demo"], [listed, "--prompt", "a circle"]):
        run = CliRunner().invoke(main, ["render", *words, *store])
        assert (run.exit_code, run.output.count("give one campaign (a file")) == (2, 1), words
