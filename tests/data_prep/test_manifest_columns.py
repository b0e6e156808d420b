"""Further columns of manifests: their types, and names that mean nothing else to who reads a dataset."""

import json

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.publish.manifest_columns import RESERVED, extra_columns


def test_types_are_those_of_the_manifest_and_text_where_rows_differ():
    rows = [
        {
            "truth": True,
            "whole": 3,
            "real": 1,
            "text": "007",
            "mixed": 1,
            "huge": 1 << 70,
            "Width": "9",
            "a_file_name": "x",
        },
        {"truth": None, "real": 0.5, "mixed": "b", "manifest_Width": 1, "video": "v", 'q"\n': "y"},
    ]
    table = extra_columns([*(json.dumps(r) for r in rows), ""], ["width"])
    assert {f.name: f.type for f in table.schema} == {
        "truth": pa.bool_(), "whole": pa.int64(), "real": pa.float64(), "text": pa.string(), "mixed": pa.string(),
        "huge": pa.string(), "manifest_Width": pa.string(), "manifest_manifest_Width": pa.int64(),
        "a_filename": pa.string(), "manifest_video": pa.string(), "q": pa.string(),
    }  # fmt: skip
    assert table.column("mixed").to_pylist() == ["1", "b", None]
    assert table.column("real").to_pylist() == [1.0, 0.5, None]
    assert table.column("text").to_pylist() == ["007", None, None]
    assert extra_columns(["", ""], []).column_names == []


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.text(max_size=12), st.integers(), max_size=6), min_size=1, max_size=4))
def test_every_value_is_kept_under_a_name_of_its_own(rows):
    table = extra_columns([json.dumps(r) for r in rows], ["caption", "split"])
    names = [n.lower() for n in table.column_names]
    assert len(set(names)) == len(names) == len({k for r in rows for k in r})
    assert not set(names) & {"caption", "split", *RESERVED}
    assert not any(n.endswith(("file_name", "file_names")) or '"' in n or "\n" in n for n in names)
    counted = sum(v is not None for column in table.columns for v in column.to_pylist())
    assert counted == sum(len(r) for r in rows)
