"""What Hugging Face's `load_dataset` reads: a metadata.parquet beside the clips of a split, and the card's `configs`.

`file_name` in it counts from the folder of the split, which the library demands; it hands on every other column.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.publish.buckets import SPLITS
from data_prep.publish.index import SAID, SPOKEN

HF_SPLITS = {"train": "train", "val": "validation"}
"""Our split -> what the library calls it. Excluded clips are in none."""
KINDS = ("short", "medium", "long", "source", "label")
"""The kinds of captions that get a column of their own, where any clip has one."""


def metadata_files(index: pa.Table, captions: pa.Table) -> dict[str, pa.Table]:
    """Path in the dataset -> its table, for every split that has clips. index: as the dataset carries it."""
    table = with_captions(index, captions)
    files = {}
    for split in SPLITS:
        rows = table.filter(pc.equal(table.column("split"), split))
        if rows.num_rows:
            folder = f"clips/{split}/"
            names = pc.utf8_slice_codeunits(rows.column("uri"), len(folder))
            rest = rows.drop_columns(["uri", "split"])
            files[f"{folder}metadata.parquet"] = rest.add_column(0, "file_name", names)
    return files


def with_captions(index: pa.Table, captions: pa.Table) -> pa.Table:
    """The index with a column `caption_KIND` for each kind of caption that there is, null where a clip has none."""
    from stages.core.ledger.catalog import connect

    sql = connect()
    sql.register("captions", captions)
    rows = sql.sql(
        f"SELECT clip_id, kind, {SPOKEN} AS text FROM captions WHERE {SAID} GROUP BY clip_id, kind"
    ).to_arrow_table()
    texts = {(clip, kind): text for clip, kind, text in zip(*(c.to_pylist() for c in rows.columns), strict=True)}
    clips = index.column("clip_id").to_pylist()
    place = index.column_names.index("caption") + 1
    for kind in reversed([k for k in KINDS if any(kind == k for _, kind in texts)]):
        column = pa.array([texts.get((clip, kind)) for clip in clips], pa.string())
        index = index.add_column(place, f"caption_{kind}", column)
    return index


def card_configs(splits: list[str]) -> list[str]:
    """Lines of the card's front matter that tell `load_dataset` where the clips of these splits are."""
    named = [s for s in HF_SPLITS if s in splits]
    if not named:
        return []
    lines = ["configs:", "- config_name: default", "  data_files:"]
    for split in named:
        lines += [f"  - split: {HF_SPLITS[split]}", f"    path: clips/{split}/**"]
    return lines
