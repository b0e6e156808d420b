"""The tools that people read datasets with open a published one: each the real library, on the folder as it is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from data_prep.publish.buckets import is_validation
from data_prep.publish.version import empty_splits
from flows.cli.main import main
from flows.cli.store import verify_store
from flows.views.tables import read_table
from stages.core.ledger.catalog import Catalog, connect
from tests.data_prep.little import video
from tests.flows.curated import curate, publish

SAID = {"s1.mp4": "a dog runs", "s2.mp4": "a cat sleeps"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> tuple[Catalog, Path]:
    """A dataset with both splits and shards, of footage that a WebVid csv tells of; not to be changed."""
    folder = tmp_path_factory.mktemp("readers") / "footage"
    for name, seeds in (("s1.mp4", (1,)), ("s2.mp4", (2,)), ("two.mp4", (3, 4))):
        video(folder / name, seeds)
    lines = ["videoid,contentUrl,duration,page_dir,name,orig_file_name,split"]
    for n, path in enumerate(sorted(folder.iterdir())):
        lines.append(f"00{n},{path.name},PT00H00M01S,{n}_{n},{SAID.get(path.name, '')},/etc/passwd,mine")
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    catalog, _ = curate(folder.parent / "store", folder / "results.csv")
    words = ("publish.webdataset=true", "publish.shard_mb=0.01", "publish.caption=source")
    made, _ = publish(catalog, "publish.val_share=0.4", f"publish.salt={salt_for(catalog)}", *words)
    return catalog, Path(catalog.storage.url) / made["folder"]


def salt_for(catalog: Catalog) -> str:
    """A salt by which two.mp4 is for training, and one of the others is not."""
    sources = {Path(r["uri"]).name: r["source_id"] for r in read_table(catalog, "sources").to_pylist()}
    values = ", ".join(f"('{name}', '{source}')" for name, source in sources.items())
    for salt in "abcdefghijklmnopqrstuvwxyz":
        query = f"SELECT name FROM (VALUES {values}) t(name, s) WHERE {is_validation('s', 0.4, salt)}"
        if [name for (name,) in connect().sql(query).fetchall()] in (["s1.mp4"], ["s2.mp4"]):
            return salt
    raise AssertionError("26 salts, and none fits")


def rows_of(folder: Path) -> dict[str, dict]:
    return {r["clip_id"]: r for r in pq.read_table(folder / "index.parquet").to_pylist()}


def frames_in(video: bytes) -> int:
    with av.open(io.BytesIO(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_what_a_manifest_says_is_in_the_index_and_its_caption_wins_where_asked(dataset):
    _, folder = dataset
    rows = rows_of(folder)
    assert len(rows) == 4
    by_name = {Path(r["source_uri"]).name: r for r in rows.values()}
    for name, row in by_name.items():
        assert row["page_dir"] == f"{int(row['videoid'])}_{int(row['videoid'])}"
        assert (row["manifest_split"], row["orig_filename"], row["duration"]) == ("mine", "/etc/passwd", "PT00H00M01S")
        assert row["caption"] == SAID.get(name, row["caption"]) != ""
    assert by_name["two.mp4"]["caption"].startswith("A ")  # none came with it, so the measured one is there
    assert {r["split"] for r in rows.values()} == {"train", "val"}


def test_hugging_face_datasets_loads_the_folder_with_captions_as_columns(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    from torch.utils.data import DataLoader

    catalog, folder = dataset
    rows, seen = rows_of(folder), {}
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert set(found) == {"train", "validation"}
    for split, part in found.items():
        assert isinstance(part.features["video"], datasets.Video)
        # without decoding here, which is torchcodec's: the paths are what is looked at
        part = part.cast_column("video", datasets.Video(decode=False))
        for batch in DataLoader(part, batch_size=2, collate_fn=list):
            seen.update({row["clip_id"]: {**row, "split": split} for row in batch})
    assert set(seen) == {i for i, r in rows.items() if r["split"] != "excluded"}
    captions = {}
    for row in read_table(catalog, "captions").to_pylist():
        captions.setdefault(row["clip_id"], {})[row["kind"]] = row["text"]
    for clip, row in seen.items():
        assert row["split"] == {"train": "train", "val": "validation"}[rows[clip]["split"]]
        assert Path(row["video"]["path"]) == folder / rows[clip]["uri"]
        kinds = {k: row[f"caption_{k}"] for k in ("short", "medium", "long", "source") if row[f"caption_{k}"]}
        assert kinds == captions[clip]
        assert all(row[n] == rows[clip][n] for n in ("caption", "motion", "n_frames", "videoid", "colours"))
    alone = datasets.load_dataset("videofolder", data_dir=str(folder / "clips" / "val"), cache_dir=str(tmp_path / "v"))
    assert alone["train"].num_rows == found["validation"].num_rows > 0


def test_webdataset_and_a_data_loader_read_the_shards(dataset):
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    from torch.utils.data import DataLoader

    _, folder = dataset
    rows = rows_of(folder)
    shards = sorted(str(p) for p in (folder / "shards" / "train").glob("*.tar"))
    assert len(shards) > 1
    samples = wds.WebDataset(shards, shardshuffle=False).decode().to_tuple("__key__", "mp4", "txt", "json")
    seen = {}
    for batch in DataLoader(samples, batch_size=2, collate_fn=list):
        seen.update({key: rest for key, *rest in batch})
    assert set(seen) == {i for i, r in rows.items() if r["split"] == "train"}
    for key, (clip, text, meta) in seen.items():
        assert frames_in(clip) == rows[key]["n_frames"] == meta["n_frames"]
        assert text == rows[key]["caption"]


def test_duckdb_and_pandas_read_the_tables(dataset):
    import duckdb
    import pandas as pd

    _, folder = dataset
    rows = rows_of(folder)
    query = f"""SELECT i.clip_id, count(*) FROM '{folder}/index.parquet' i
        JOIN '{folder}/captions.parquet' USING (clip_id)
        JOIN '{folder}/clips/*/metadata.parquet' m ON i.uri LIKE '%/' || m.file_name
        WHERE m.caption = i.caption GROUP BY ALL"""
    counts = dict(duckdb.sql(query).fetchall())
    assert set(counts) == set(rows)
    assert set(counts.values()) == {3, 4}
    frame = pd.concat(pd.read_parquet(p).assign(split=p.parent.name) for p in folder.glob("clips/*/metadata.parquet"))
    assert (
        frame.groupby("split").size().to_dict()
        == pd.Series([r["split"] for r in rows.values()]).value_counts().to_dict()
    )
    for row in frame.to_dict("records"):
        path = folder / "clips" / row["split"] / row["file_name"]
        assert path == folder / rows[row["clip_id"]]["uri"]
        assert path.is_file()


def test_every_file_of_a_version_is_checked(dataset, capsys):
    catalog, folder = dataset
    told = json.loads((folder / "dataset.json").read_text())["files"]
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(told) == {f for f in files if not f.endswith(".mp4")} - {"dataset.json"}
    damaged, away = folder / "clips" / "val" / "metadata.parquet", folder / "README.md"
    kept = damaged.read_bytes()
    card = away.read_text()
    try:
        damaged.write_bytes(kept + b"x")
        away.unlink()
        assert verify_store(catalog.storage.url, repair=False) == 1
    finally:
        damaged.write_bytes(kept)
        away.write_text(card)
    said = capsys.readouterr().out
    assert "clips/val/metadata.parquet does not have the expected hash" in said
    assert "its file README.md is missing" in said


def test_an_empty_split_is_said_by_publish_and_on_the_card(dataset):
    catalog, _ = dataset
    words = ["publish", "few", "publish.val_share=0.0001", "infra.executor=local", "--store", catalog.storage.url]
    before = CliRunner().invoke(main, [*words, "--dry-run"])
    made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    said = " ".join(made.output.split())
    empty = "There are no clips in the validation split `val`"
    assert said.count(empty) == before.output.count(empty) == 1
    assert "There are no clips in the validation split `val`: a share of 0.0001 gives it none of 3 sources." in said
    card = (Path(catalog.storage.url) / "datasets" / "few" / "v1" / "README.md").read_text()
    assert empty in card
    assert "split: validation" not in card
    share = float(said.split("publish.val_share=")[1].split()[0])
    index = pq.read_table(Path(catalog.storage.url) / "datasets" / "few" / "v1" / "index.parquet")
    sql = connect()
    sql.register("i", index)
    for given, some in ((share, True), (share - 0.01, False)):
        query = f"SELECT count(*) FROM i WHERE {is_validation('source_id', given, 'rushes')}"
        assert bool(sql.execute(query).fetchall()[0][0]) == some
    assert empty_splits(index, 0.0, "rushes") == []
    there = index.set_column(index.column_names.index("split"), "split", pa.array(["val"] * index.num_rows))
    assert empty_splits(there, 1.0, "rushes") == []
    assert "There are no clips in `train`: a share of 0.9 for `val` leaves" in empty_splits(there, 0.9, "rushes")[0]
