"""What is listed, and that nothing leaves the folder that was named."""

import json
import os

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources.ingest import Ingest
from data_prep.sources.listing import list_sources
from stages.core.errors import BadInput
from stages.core.identity import depends_digest


def names(rows):
    return [row["uri"].rsplit("/", 1)[-1] for row in rows]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "footage"
    (root / "PlayingGuitar").mkdir(parents=True)
    (root / "b.mp4").write_bytes(b"b")
    (root / "a.mp4").write_bytes(b"a")
    (root / "PlayingGuitar" / "c d ü.mp4").write_bytes(b"c")
    (root / ".hidden.mp4").write_bytes(b"h")
    return root


def test_a_folder_is_walked_in_the_order_of_names(folder):
    rows = list_sources([str(folder)], {})
    assert names(rows) == ["a.mp4", "b.mp4", "c d ü.mp4"]
    assert [r["position"] for r in rows] == [0, 1, 2]
    assert all(os.path.isabs(r["uri"]) for r in rows)


def test_a_uri_named_twice_is_listed_once(folder):
    assert len(list_sources([str(folder), str(folder / "a.mp4"), f"{folder}/*.mp4"], {})) == 3


def test_the_folder_can_be_the_label(folder):
    rows = list_sources([str(folder)], {}, label_from_folder=True)
    assert rows[-1]["label"] == "PlayingGuitar"


def test_identity_follows_the_file_and_what_is_said_of_it(folder):
    def row(**more):
        (folder / "m.jsonl").write_text(json.dumps({"uri": "a.mp4", **more}) + "\n")
        return list_sources([str(folder / "m.jsonl")], {})[0]

    def file(listed):
        return depends_digest({name: listed[name] for name in Ingest.inputs(Ingest.Config()).depends})

    plain, labelled = row(), row(label="dog")
    assert file(plain) == file(labelled)
    assert plain["id"] != labelled["id"]
    (folder / "a.mp4").write_bytes(b"longer")
    assert file(row()) != file(plain)
    assert row()["id"] != plain["id"]


def test_links_out_of_the_folder_keep_their_row_and_say_so(folder, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"s")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "inside.mp4").symlink_to(folder / "a.mp4")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.mp4").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.mp4")
    found = {r["uri"].rsplit("/", 1)[-1]: r["problem"] for r in list_sources([str(folder)], {})}
    assert "leads out" in found["link.mp4"]
    assert found["inside.mp4"] == ""
    assert "not followed" in found["loop"]
    assert "cannot be read" in found["dangling.mp4"]
    assert found["pipe.mp4"] == "not a regular file"


def test_names_that_are_not_utf8_stay_reachable(folder):
    from stages.core.reach.policy import local_path as local_path_of

    raw = os.fsencode(folder) + b"/\xff\xfe.mp4"
    with open(raw, "wb") as file:
        file.write(b"x")
    row = next(r for r in list_sources([str(folder)], {}) if r["uri"].startswith("file://"))
    assert row["uri"].endswith("/%FF%FE.mp4")
    assert local_path_of(row["uri"]).read_bytes() == b"x"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_manifests_map_their_columns(folder, suffix):
    rows = [{"contentUrl": "a.mp4", "name": 'A "dog", runs'}, {"contentUrl": "gone.mp4", "name": "x"}]
    path = folder / f"m.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        mark = "," if suffix == "csv" else "\t"
        quoted = ['"' + r["name"].replace('"', '""') + '"' for r in rows]
        lines = [f"{r['contentUrl']}{mark}{q}" for r, q in zip(rows, quoted, strict=True)]
        path.write_text(f"contentUrl{mark}name\n" + "\n".join(lines) + "\n")
    found = list_sources([str(path)], {"uri": "contentUrl", "caption": "name"})
    assert [r["caption"] for r in found] == ['A "dog", runs', "x"]
    assert found[0]["size"] == 1
    assert "cannot be read" in found[1]["problem"]


def test_known_forms_of_manifests_need_no_mapping(folder, tmp_path):
    """WebVid with its files beside it and without, the split files of UCF-101, metadata.csv of a videofolder."""
    (folder / "1_50").mkdir()
    (folder / "1_50" / "77.mp4").write_bytes(b"w")
    lines = ["videoid,contentUrl,duration,page_dir,name", "77,https://h/77.mp4,PT09S,1_50,A dog", "8,a.mp4,PT1S,2_50,B"]
    (folder / "webvid.csv").write_text("\n".join(lines) + "\n")
    found = list_sources([str(folder / "webvid.csv")], {})
    assert [(r["uri"], r["caption"]) for r in found] == [
        (str(folder / "1_50" / "77.mp4"), "A dog"), (str(folder / "a.mp4"), "B"),
    ]  # fmt: skip
    assert json.loads(found[0]["extra"]) == {"videoid": "77", "duration": "PT09S", "page_dir": "1_50"}

    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("PlayingGuitar/c d ü.mp4 63\r\n\n")
    (lists / "testlist01.txt").write_text("PlayingGuitar/gone.avi\n")
    words = [str(lists / "trainlist01.txt"), str(lists / "testlist01.txt")]
    found = list_sources(words, {"root": str(folder)})
    assert [(r["label"], json.loads(r["extra"]), bool(r["problem"])) for r in found] == [
        ("PlayingGuitar", {"split": "train"}, False), ("PlayingGuitar", {"split": "test"}, True),
    ]  # fmt: skip
    with pytest.raises(BadInput, match=r"manifest\.root=.*nothing is no folder"):
        list_sources(words, {"root": str(tmp_path / "nothing")})

    (folder / "metadata.csv").write_text("file_name,text\nb.mp4,hello\n")
    (row,) = list_sources([str(folder / "metadata.csv")], {"caption": "text"})
    assert (names([row]), row["caption"], row["extra"]) == (["b.mp4"], "hello", "")
    (folder / "plain.txt").write_text("a.mp4\nb.mp4\n")
    assert names(list_sources([str(folder / "plain.txt")], {})) == ["a.mp4", "b.mp4"]


def test_other_manifests_are_one_mapping_away_and_extra_columns_are_kept(folder):
    """Of YouTube-8M's kind: an id and labels; of Kinetics' kind: a name made of numbers."""
    rows = [
        {"id": "a", "labels": "3 17", "views": 5, "rate": 0.5, "live": True, "none": None, "nan": float("nan"),
         "tags": ["x", "y"], "thumb": b"jpeg"},
        {"id": "b", "labels": "1", "views": None, "rate": None, "live": None, "none": None, "nan": None, "tags": None,
         "thumb": None},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
    found = list_sources([str(folder / "m.parquet")], {"uri": "{id}.mp4", "label": "labels"})
    assert [(names([r])[0], r["label"]) for r in found] == [("a.mp4", "3 17"), ("b.mp4", "1")]
    assert json.loads(found[0]["extra"]) == {"id": "a", "views": 5, "rate": 0.5, "live": True, "tags": '["x", "y"]'}
    assert json.loads(found[1]["extra"]) == {"id": "b"}

    (folder / "k.csv").write_text("label,youtube_id,time_start,time_end\nwaving,zz,3,13\n")
    (row,) = list_sources([str(folder / "k.csv")], {"uri": "{youtube_id}_{time_start:06d}_{time_end:06}.mp4"})
    assert (names([row]), row["label"]) == (["zz_000003_000013.mp4"], "waving")
    for columns, says in (
        ({"uri": "{video}.mp4"}, r"line 2: manifest\.uri=\{video\}\.mp4 needs other columns; it has label, youtube_id"),
        ({"uri": "youtube_id", "caption": "tittle"}, "no column 'tittle', which manifest.caption names"),
        ({}, r"no column 'uri'; set manifest\.uri=COLUMN .*or a pattern"),
    ):
        with pytest.raises(BadInput, match=says):
            list_sources([str(folder / "k.csv")], columns)


def test_a_manifest_cannot_name_what_lies_above_it(folder, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"s")
    (folder / "m.csv").write_text("uri\n../secret.mp4\nPlayingGuitar/../a.mp4\n")
    first, second = list_sources([str(folder / "m.csv")], {})
    assert "leads out" in first["problem"]
    assert second["problem"] == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"uri": "a.mp4"}\n{"uri": \n', "line 2 is not JSON"),
        ('{"url": "a.mp4"}\n', "no column 'uri'"),
        ('{"uri": ""}\n', "line 1: the uri is empty"),
        ("[1]\n", "line 1 must be an object"),
    ],
)
def test_a_broken_manifest_is_one_sentence_with_its_line(folder, text, says):
    (folder / "m.jsonl").write_text(text)
    with pytest.raises(BadInput, match=says):
        list_sources([str(folder / "m.jsonl")], {})


def test_a_word_that_names_nothing_is_bad_input(tmp_path):
    for word in ("nothing.mp4", f"{tmp_path}/*.mp4", str(tmp_path), "nosuch://bucket/x"):
        with pytest.raises(BadInput):
            list_sources([word], {})


def test_object_stores_are_listed_and_limited():
    fs = fsspec.filesystem("memory")
    for name in ("x", "y", "z"):
        fs.pipe_file(f"/listing/{name}.mp4", name.encode())
    rows = list_sources(["memory://listing"], {}, limit=2)
    assert [r["uri"] for r in rows] == ["memory:///listing/x.mp4", "memory:///listing/y.mp4"]
    assert all(r["version"] and r["size"] == 1 for r in rows)
    assert names(list_sources(["memory://listing/*z.mp4"], {})) == ["z.mp4"]
    fs.pipe_file("/listing/m.jsonl", b'{"uri": "z.mp4", "label": "l"}\n{"uri": "gone.mp4"}\n')
    found = list_sources(["memory://listing/m.jsonl"], {})
    assert found[0]["label"] == "l"
    assert "cannot be found" in found[1]["problem"]
