"""Publishing: exact cuts, frozen versions, splits that do not leak, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from itertools import count
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from data_prep.publish import folder as publish_folder
from data_prep.publish.buckets import BucketConfig, bucket_columns, split_of
from data_prep.publish.card import cell
from data_prep.publish.folder import new_folder, versions
from flows.cli.main import main
from flows.cli.store import verify_store
from flows.publish.publication import load_publication
from flows.views.tables import read_table
from stages.core.crash import POINTS
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog, connect
from stages.core.ledger.storage import Storage
from stages.core.ledger.upkeep import verify
from stages.core.running.lineage import lineage
from tests.flows.curated import curate, make_footage, publish


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[Path, Path]:
    """Footage with names and labels to beware of, and the store of a curation of it."""
    folder = make_footage(tmp_path_factory.mktemp("footage") / "a <b>|*label*")
    store = tmp_path_factory.mktemp("base") / "store"
    curate(store, folder, label_from_folder=True)
    return folder, store


@pytest.fixture
def catalog(base, tmp_path: Path) -> Catalog:
    """A copy of that store."""
    return Catalog(Storage(str(shutil.copytree(base[1], tmp_path / "store"))))


@pytest.fixture(scope="module")
def done(base, tmp_path_factory) -> tuple[Catalog, dict]:
    """A store with one published version; not to be changed."""
    catalog = Catalog(Storage(str(shutil.copytree(base[1], tmp_path_factory.mktemp("done") / "store"))))
    return catalog, publish(catalog)[0]


def index_of(catalog: Catalog, row: dict) -> list[dict]:
    return pq.read_table(Path(catalog.storage.url) / row["folder"] / "index.parquet").to_pylist()


def greys(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [small_grey(f) for f in container.decode(video=0)]


def small_grey(frame: av.VideoFrame) -> np.ndarray:
    return frame.reformat(64, 36, "gray", interpolation="AREA").to_ndarray().astype(np.float32)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_a_version_holds_exactly_the_kept_clips(done):
    catalog, made = done
    folder = Path(catalog.storage.url) / made["folder"]
    assert (made["name"], made["version"]) == ("set", 1)
    rows = index_of(catalog, made)
    kept = {v["clip_id"] for v in read_table(catalog, "verdicts").to_pylist() if v["status"] == "kept"}
    assert {r["clip_id"] for r in rows} == kept
    assert len(rows) == made["clips"] == 6
    assert {r["method"] for r in rows} == {"copy", "encode"}
    for row in rows:
        source, written = greys(Path(row["source_uri"])), greys(folder / row["uri"])
        assert len(written) == row["n_frames"] == row["end_frame"] - row["start_frame"]
        for mine, place in ((written[0], row["start_frame"]), (written[-1], row["end_frame"] - 1)):
            assert int(np.argmin([difference(mine, s) for s in source])) == place
        assert row["caption"]
        assert row["duration_s"] == pytest.approx(row["end_s"] - row["start_s"], abs=0.01)
    scores = {r["clip_id"]: r for r in read_table(catalog, "scores").to_pylist()}
    assert all(row[n] == scores[row["clip_id"]][n] for row in rows for n in ("motion", "luma", "colours"))
    typed = pq.read_schema(folder / "index.parquet")
    assert [str(typed.field(n).type) for n in ("motion", "camera_motion", "thumb_frame")] == [
        "double",
        "string",
        "int64",
    ]
    assert pa.types.is_list(typed.field("colours").type)
    captions = pq.read_table(folder / "captions.parquet").to_pylist()
    assert {(c["clip_id"], c["kind"]) for c in captions} == {
        (i, kind) for i in kept for kind in ("short", "medium", "long", "label")
    }
    assert {p.name for p in (folder / "sheets").iterdir()} == {f"{r['bucket']}.jpg" for r in rows}
    assert verify(catalog).faults == []


def test_the_same_again_is_the_same_version_and_other_settings_make_another(catalog):
    first, _ = publish(catalog)
    before = {p: p.read_bytes() for p in (Path(catalog.storage.url) / first["folder"]).rglob("*") if p.is_file()}
    again, outcome = publish(catalog)
    assert outcome.did_nothing
    assert again == first
    other, _ = publish(catalog, "publish.video.fps=5", "publish.video.frames=9", "publish.video.size=64")
    assert other["version"] == 2
    for row in index_of(catalog, other):
        assert (row["n_frames"], row["fps"], min(row["width"], row["height"])) == (9, pytest.approx(5), 64)
        assert row["method"] == "encode"
    assert {p: p.read_bytes() for p in before} == before
    back, outcome = publish(catalog)
    assert (back["version"], outcome.did_nothing) == (1, True)
    found = read_table(catalog, "datasets").to_pylist()
    assert [(r["name"], r["version"], r["clips"], r["uri"]) for r in found] == [
        ("set", 1, 6, "datasets/set/v1"), ("set", 2, 6, "datasets/set/v2"),
    ]  # fmt: skip
    shutil.rmtree(Path(catalog.storage.url) / "datasets" / "set" / "v2")
    assert publish(catalog, "publish.video.fps=5", "publish.video.frames=9", "publish.video.size=64")[0]["version"] == 2


def test_clips_that_are_too_short_are_left_out_and_said(catalog):
    made, _ = publish(catalog, "publish.video.frames=30", name="long")
    assert made["clips"] == 6
    store = catalog.storage.url
    words = ["publish", "longer", "--store", store, "publish.video.frames=31", "--executor", "local"]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 2
    assert "rushes: none of the kept clips could be cut" in said.output
    assert "  s1.mp4 0.00-2.00 s: n_frames is 30, must be at least 31\n" in said.output
    assert f"`rushes table uncut --store {store}` has all of them" in said.output
    rows = [r for r in read_table(catalog, "runs").to_pylist() if r["flow"] == "publish"]
    assert "failed" in {r["status"] for r in rows}
    assert [v["name"] for v in versions(catalog.storage)] == ["long"]


@pytest.mark.parametrize(
    "at", ["after_move", *(pytest.param(p, marks=pytest.mark.soak) for p in ("before_move", "take"))]
)
def test_a_stop_on_the_way_leaves_no_half_version(catalog, monkeypatch, at):
    class Killed(BaseException):
        pass

    def die(*args: object) -> None:
        raise Killed

    if at == "take":
        monkeypatch.setattr(publish_folder.LocalFolder, "take", die)
    else:
        monkeypatch.setattr(publish_folder, "crash_point", lambda name: die() if name == at else None)
    with pytest.raises(Killed):
        publish(catalog)
    assert len(versions(catalog.storage)) == (at == "after_move")
    monkeypatch.undo()
    made, _ = publish(catalog)
    assert made["version"] == 1
    assert [v["version"] for v in versions(catalog.storage, "set")] == [1]
    assert len(index_of(catalog, made)) == 6


def test_shards_are_the_same_bytes_every_time_and_hold_what_the_index_says(catalog):
    made, _ = publish(catalog, "publish.webdataset=true", "publish.shard_mb=0.02", "publish.val_share=0.3")
    folder = Path(catalog.storage.url) / made["folder"]
    shards = sorted((folder / "shards").rglob("*.tar"))
    assert len(shards) > 2
    rows = {r["clip_id"]: r for r in index_of(catalog, made)}
    seen = set()
    for shard in shards:
        with tarfile.open(shard) as tar:
            assert {(m.mtime, m.uid, m.uname) for m in tar} == {(0, 0, "")}
            for member in (m for m in tar.getnames() if m.endswith(".json")):
                clip = member.removesuffix(".json")
                seen.add(clip)
                assert json.load(tar.extractfile(member))["split"] == rows[clip]["split"] == shard.parent.name
                assert tar.extractfile(f"{clip}.mp4").read() == (folder / rows[clip]["uri"]).read_bytes()
                assert tar.extractfile(f"{clip}.txt").read().decode() == rows[clip]["caption"]
    assert seen == {i for i, r in rows.items() if r["split"] != "excluded"}


def test_lance_holds_the_videos_or_names_the_extra(catalog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "lance", None)
        with pytest.raises(BadInput, match="the extra `lance`"):
            load_publication("set", "publish", {}, ["publish.lance=true"])
    lance = pytest.importorskip("lance", reason="pylance is not installed")
    made, _ = publish(catalog, "publish.lance=true")
    folder = Path(catalog.storage.url) / made["folder"]
    rows = lance.dataset(str(folder / "lance")).to_table().to_pylist()
    assert len(rows) == 6
    assert all(r["video"] == (folder / r["uri"]).read_bytes() for r in rows)


def test_no_version_of_a_curation_that_is_not_whole(catalog, base, tmp_path):
    for name in ("../x", "a/b", ""):
        with pytest.raises(BadInput, match="cannot name a dataset"):
            load_publication(name, "publish", {}, [])
    with pytest.raises(BadInput, match=r"publish\.caption"):
        load_publication("x", "publish", {}, ["publish.caption=lang"])
    with pytest.raises(BadInput, match="size is 7; it must be an even number"):
        load_publication("x", "publish", {}, ["publish.video.size=7"])
    short, _ = curate(tmp_path / "short", base[0], until="clips", limit=1)
    with pytest.raises(BadInput, match="without --until"):
        publish(short)
    none, _ = curate(tmp_path / "short", base[0], "select.luma.min=255", limit=1)
    with pytest.raises(BadInput, match="kept no clip"):
        publish(none)


def test_a_source_that_is_gone_or_changed_costs_its_clips_only(base, catalog, tmp_path):
    gone, changed = base[0] / "s2.mp4", base[0] / "s3.mp4"
    kept = changed.read_bytes()
    gone.rename(tmp_path / "away.mp4")
    changed.write_bytes(b"another file")
    try:
        made, outcome = publish(catalog)
        words = ["publish", "little", "--store", catalog.storage.url, "publish.val_share=0.001", "--executor", "local"]
        said = CliRunner().invoke(main, words)
    finally:
        (tmp_path / "away.mp4").rename(gone)
        changed.write_bytes(kept)
    assert made["clips"] == 4
    assert outcome.counts["cut"].failed == 2
    card = (Path(catalog.storage.url) / made["folder"] / "README.md").read_text()
    assert "2 kept clips could not be cut" in card
    assert said.exit_code == 0, said.output
    assert said.output.count("There are no clips in the validation split") == 1, "also with fewer sources than before"
    assert said.output.count(" s: ") >= 2


def test_the_card_escapes_what_came_with_the_footage(done):
    catalog, made = done
    card = (Path(catalog.storage.url) / made["folder"] / "README.md").read_text()
    assert "a &lt;b&gt;\\|\\*label\\*" in card
    assert "<b>" not in card
    assert cell("x\n| <script>") == "x \\| &lt;script&gt;"
    assert "| sources listed | 6 |" in card
    assert "| copy of a better clip | 1 | 1 |" in card


def test_a_damaged_dataset_is_a_fault(catalog, capsys):
    row, _ = publish(catalog)
    first, second = (Path(catalog.storage.url) / row["folder"] / r["uri"] for r in index_of(catalog, row)[:2])
    assert verify_store(catalog.storage.url, repair=False) == 0
    first.unlink()
    second.unlink()
    second.write_bytes(b"another")
    assert verify_store(catalog.storage.url, repair=False) == 1
    said = capsys.readouterr().out
    assert f"{first.name} is missing" in said
    assert f"{second.name} does not have the expected hash" in said


def test_a_clip_is_traced_from_its_source_into_the_dataset(done):
    catalog, made = done
    row = index_of(catalog, made)[0]
    found = lineage(catalog, row["clip_id"])
    assert found.run["flow"] == "curate"
    assert any(link.row.get("uri") == row["source_uri"] for link in found.above)
    assert any(link.name == "cut" and link.row["sha256"] == row["sha256"] for link in found.below)


# -- splits and buckets ----------------------------------------------------------------------------------------------


def splits(clips: dict[str, tuple[str, list[str]]], share: float = 0.3, salt: str = "x") -> dict[str, str]:
    """clip -> (its source, the sources of its copies) to clip -> split."""
    values = ", ".join(f"('{c}', '{s}', {copies!r}::VARCHAR[])" for c, (s, copies) in clips.items())
    rows = f"(VALUES {values}) t(c, source_id, copy_sources)"
    return dict(connect().sql(f"SELECT c, {split_of(share, salt)} FROM {rows}").fetchall())


def test_no_source_is_on_two_sides_and_more_sources_move_nothing():
    few = {f"c{i}": (f"s{i // 5}", []) for i in range(500)}
    found = splits(few)
    sides = {}
    for clip, (source, _) in few.items():
        sides.setdefault(source, set()).add(found[clip])
    assert {len(s) for s in sides.values()} == {1}
    assert 0.2 < np.mean([f == "val" for f in found.values()]) < 0.4
    more = splits({**few, **{f"d{i}": (f"t{i // 5}", []) for i in range(500)}})
    assert {c: more[c] for c in few} == found


def test_a_link_across_the_split_is_excluded_from_train():
    found = splits({f"c{i}": (f"s{i}", []) for i in range(60)})
    train, val = (next(c for c in found if found[c] == side) for side in ("train", "val"))
    a, b = f"s{train[1:]}", f"s{val[1:]}"
    linked = splits({train: (a, [a, b]), val: (b, [a, b])})
    assert linked == {train: "excluded", val: "val"}
    assert splits({train: (a, [a])}) == {train: "train"}


def test_a_linked_clip_in_a_store_is_excluded(catalog):
    """The copy of s1 was rejected as the worse one; where its source falls on the side of val, s1 cannot train."""
    rows = {Path(r["uri"]).name: r["source_id"] for r in read_table(catalog, "sources").to_pylist()}
    pair = {rows["s1.mp4"], rows["copy.mkv"]}
    clips = [r for r in read_table(catalog, "verdicts").to_pylist() if r["duplicate_group"]]
    assert len(clips) == 2
    kept = next(r["source_id"] for r in index_of(catalog, publish(catalog)[0]) if r["source_id"] in pair)
    (other,) = pair - {kept}
    salts, alone = (f"salt{i}" for i in count()), {i: (i, []) for i in pair}
    apart = next(s for s in salts if splits(alone, 0.5, s) == {kept: "train", other: "val"})
    made, _ = publish(catalog, "publish.val_share=0.5", f"publish.salt={apart}")
    assert [r["split"] for r in index_of(catalog, made) if r["source_id"] == kept] == ["excluded"]


def test_the_ending_and_the_card_say_which_clips_are_in_neither_split(base, tmp_path):
    """Both copies are kept here, so that one in `val` keeps the other from `train`."""
    store = tmp_path / "store"
    catalog, _ = curate(store, base[0], "steps.dedup.use=tests.flows.toys:MarkCopies")
    rows = {Path(r["uri"]).name: r["source_id"] for r in read_table(catalog, "sources").to_pylist()}
    pair = {name: (rows[name], []) for name in ("s1.mp4", "copy.mkv")}
    salts = (f"salt{i}" for i in count())
    apart = next(s for s in salts if splits(pair, 0.5, s) == {"s1.mp4": "train", "copy.mkv": "val"})
    words = ["publish", "set", "--store", str(store), "publish.val_share=0.5", f"publish.salt={apart}"]
    sentence = "1 clip is in neither split: a source in `val` has a copy of it"
    for _ in range(2):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        assert done.output.count(sentence) == 1
    assert f"**{sentence}" in (store / "datasets" / "set" / "v1" / "README.md").read_text()
    (found,) = read_table(catalog, "datasets").to_pylist()
    assert (found["clips"], found["excluded"]) == (7, 1)


def test_buckets_say_what_a_clip_is():
    columns = bucket_columns(BucketConfig())
    rows = "(VALUES (1920, 1080, 240, 23.976, 0.5), (608, 1080, 49, 29.97, 0.03), (100, 100, 5, 7, NULL))"
    parts = ", ".join(f"{e} AS {n}" for n, e in columns.items())
    query = f"SELECT bucket FROM (SELECT {parts} FROM {rows} t(width, height, n_frames, fps, motion))"
    found = connect().sql(query).fetchall()
    assert [b for (b,) in found] == [
        "1080p_16x9_f161_24fps_high", "540p_9x16_f49_30fps_medium", "under144p_1x1_f1_8fps_unknown",
    ]  # fmt: skip
    for wrong in ({"sides": (720, 360)}, {"aspects": ("wide",)}, {"motion": (0.1,)}):
        with pytest.raises(BadInput, match="buckets"):
            BucketConfig(**wrong)


def test_a_version_on_an_object_store_counts_once_its_manifest_is_there():
    storage = Storage("memory://publish-test")
    ref = storage.put_media(b"clip", ".mp4")
    folder = new_folder(storage, "set")
    folder.take(ref["uri"], "clips/a.mp4")
    assert versions(storage) == []
    retry = new_folder(storage, "set")
    assert not storage.exists("datasets/set/v1/clips/a.mp4")
    retry.take(ref["uri"], "clips/a.mp4")
    Path(retry.folder("lance")).mkdir()
    (Path(retry.folder("lance")) / "x").write_bytes(b"1")
    ending = {"README.md": b"# set", publish_folder.MANIFEST: b'{"name": "set", "version": 1, "fingerprint": "f"}'}
    assert retry.commit(lambda number: ending) == 1
    retry.discard()
    assert storage.read("datasets/set/v1/clips/a.mp4") == b"clip"
    assert storage.read("datasets/set/v1/lance/x") == b"1"
    assert [v["uri"] for v in versions(storage)] == ["datasets/set/v1"]
    with pytest.raises(BadInput, match="in the meantime"):
        retry.commit(lambda number: ending)


@pytest.mark.soak
def test_kills_at_any_point_leave_what_an_undisturbed_run_leaves(base, done, tmp_path):
    """SIGKILL at every named point and several times over; the last kill is followed by a whole run."""
    store = shutil.copytree(base[1], tmp_path / "store")
    catalog = Catalog(Storage(str(store)))
    command = [sys.executable, "-m", "flows.cli.main", "publish", "set", "--store", str(store), "infra.executor=local"]
    points = [f"{point}:{times}" for times in (1, 3, 5, 7, 9) for point in POINTS if point != "before_delete"]
    killed = 0
    for point in points:
        done_at = subprocess.run(command, env={**os.environ, "RUSHES_CRASH": point}, capture_output=True)
        killed += done_at.returncode == -signal.SIGKILL
        for version in versions(catalog.storage):
            assert len(index_of(catalog, {"folder": version["uri"]})) == 6
    assert killed >= 10
    made, _ = publish(catalog)
    assert made["version"] == 1
    assert [v["version"] for v in versions(catalog.storage)] == [1]
    assert index_of(catalog, made) == index_of(*done)
    assert verify(catalog).faults == []
