"""A curation from the words of the command line to its tables, and what it costs to run it again."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from flows.cli.main import main
from flows.curate.curation import load_curation
from flows.curate.notes import notes
from flows.curate.report import build_report
from flows.run.session import execute, existing_catalog, prepare
from flows.views.tables import TABLES as VIEWS
from flows.views.tables import read_table, read_tables
from stages.core.crash import POINTS
from stages.core.errors import BadInput
from stages.core.ledger.upkeep import verify
from stages.core.planning.survey import Survey
from stages.core.running.runs import find_run
from tests.data_prep.little import shot, video, write

TABLES = ("sources", "cuts", "clips", "scores", "verdicts", "captions")
KEEP_ALL = ["select.motion=null", "select.static_ratio=null", "select.sharpness=null", "select.short_side.min=null"]


class Curated:
    """One run: how many rows of each node it made, and its tables."""

    def __init__(self, store: Path, sources: list[Path], *words: str, **values: object) -> None:
        curation = load_curation([str(s) for s in sources], "curate", values, [*words, "infra.executor=local"])
        prepared = prepare(curation, str(store))
        self.catalog, self.plan = prepared.catalog, prepared.plan
        self.work: Counter[str] = Counter()
        self.outcome = execute(prepared, listener=lambda n, _: self.work.update([n]))

    @cached_property
    def survey(self) -> Survey:
        return find_run(self.catalog, "curate").survey(self.catalog)

    def rows(self, name: str) -> list[dict]:
        return VIEWS[name][1](self.survey).to_pylist()

    def by_name(self, name: str) -> dict[str, dict]:
        return {Path(r["uri"]).name: r for r in self.rows(name)}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[Path, Path]:
    """Two sources of one shot and one of two, and the store of a whole run over them."""
    folder, store = tmp_path_factory.mktemp("footage"), tmp_path_factory.mktemp("base") / "store"
    video(folder / "a.mp4", (1,))
    video(folder / "b.mp4", (2, 3))
    video(folder / "c.mkv", (4,))
    Curated(store, [folder])
    return folder, store


@pytest.fixture
def footage(base) -> Path:
    """The footage that has been curated; not to be changed."""
    return base[0]


@pytest.fixture
def store(base, tmp_path: Path) -> Path:
    """A copy of the store of that run."""
    return Path(shutil.copytree(base[1], tmp_path / "store"))


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """A folder for other sources."""
    (tmp_path / "more").mkdir()
    return tmp_path / "more"


def test_every_table_has_its_columns_and_rows(footage, store):
    run = Curated(store, [footage])
    assert run.outcome.did_nothing
    assert run.work == Counter()
    assert [r["status"] for r in run.rows("sources")] == ["ok"] * 3
    cuts = run.rows("cuts")
    assert [(Path(c["uri"]).name, c["kind"], c["first_frame"], c["last_frame"]) for c in cuts] == [
        ("b.mp4", "cut", 30, 30)
    ]
    clips = run.rows("clips")
    assert [(Path(c["uri"]).name, c["start_frame"], c["end_frame"], c["n_frames"]) for c in clips] == [
        ("a.mp4", 0, 30, 30), ("b.mp4", 0, 30, 30), ("b.mp4", 30, 60, 30), ("c.mkv", 0, 30, 30),
    ]  # fmt: skip
    ids = {c["clip_id"] for c in clips}
    assert len(ids) == 4
    scores, verdicts = run.rows("scores"), run.rows("verdicts")
    assert {s["clip_id"] for s in scores} == {v["clip_id"] for v in verdicts} == ids
    wanted = {
        "motion", "static_ratio", "shake", "camera_motion", "luma", "contrast", "sharpness", "flicker", "black_ratio",
        "blockiness", "letterbox", "pillarbox",
    }  # fmt: skip
    assert wanted <= set(scores[0])
    assert {s["camera_motion"] for s in scores} == {"pan"}
    kept = {v["clip_id"] for v in verdicts if v["status"] == "kept"}
    captions = run.rows("captions")
    assert {c["clip_id"] for c in captions} == kept == ids
    assert {(c["kind"], c["model"], c["status"]) for c in captions} == {
        (kind, "measured", "ok") for kind in ("short", "medium", "long")
    }
    assert verify(run.catalog).faults == []


def test_new_videos_cost_what_they_are(footage, store, more):
    for i in range(10):
        video(more / f"new{i}.mp4", (100 + i,), frames=18)
    work = Curated(store, [footage, more]).work
    steps = ("ingest", "analyse", "cuts", "clips", "scores", "prints", "thumbs", "caption")
    assert {n: work[n] for n in steps} == dict.fromkeys(steps, 10)


def test_another_threshold_costs_a_select(footage, store):
    before = read_tables(existing_catalog(str(store)), TABLES)
    run = Curated(store, [footage], "select.motion.min=9")
    assert run.work == Counter({"select": 1, "dedup": 1})
    assert {v["status"] for v in run.rows("verdicts")} == {"rejected"}
    reason = run.rows("verdicts")[0]["reasons"][0]
    assert (reason["metric"], reason["op"], reason["threshold"]) == ("motion", ">=", "9")
    none = Curated(store, [footage], "select.motion.min=10")
    run_id = find_run(none.catalog, "curate").row["run_id"]
    assert not [n for n in notes(none.catalog, none.survey, run_id) if "since run" in n], "no clip was kept before"
    back = Curated(store, [footage])
    assert back.work == Counter()
    assert read_tables(back.catalog, TABLES) == before
    fewer = Curated(store, [footage / "b.mp4"])
    lines = notes(fewer.catalog, fewer.survey, find_run(fewer.catalog, "curate").row["run_id"])
    assert not [line for line in lines if "kept before, not now" in line], "footage that was not given is not judged"


def test_other_cut_rules_decode_nothing(footage, store):
    work = Curated(store, [footage], "cuts.preset=web", until="scores").work
    assert work["cuts"] == 3
    assert work["ingest"] == work["analyse"] == 0


def test_a_moved_file_is_the_same_source(footage, store, more):
    before = {r["clip_id"] for r in read_table(existing_catalog(str(store)), "clips").to_pylist()}
    for path in footage.iterdir():
        shutil.copyfile(path, more / path.name.replace("a.", "z."))
    run = Curated(store, [more])
    assert +run.work == Counter({"ingest": 3, "sources": 1, "select": 1})
    assert {c["clip_id"] for c in run.rows("clips")} == before
    assert set(run.by_name("clips")) == {"b.mp4", "c.mkv", "z.mp4"}


def test_the_same_bytes_count_once(footage, store, more):
    shutil.copy(footage / "a.mp4", more / "copy.mp4")
    (more / "PROVENANCE.md").write_text("where it is from")
    run = Curated(store, [footage, more])
    row = run.by_name("sources")["copy.mp4"]
    assert row["status"] == "skipped"
    assert row["reasons"][0]["metric"] == "duplicate_of"
    assert row["reasons"][0]["value"].endswith("a.mp4")
    assert len(run.rows("clips")) == 4
    record = find_run(run.catalog, "curate")
    said = notes(run.catalog, record.survey(run.catalog), record.row["run_id"])
    assert said[0].endswith("1 with the content of another, 1 other file")
    assert said[1] == "  not used: copy.mp4 (same content as a.mp4)"
    assert said[2] == "  skipped, not a video file: PROVENANCE.md"
    assert not [line for line in said if "not read" in line]


def test_status_knows_a_source_by_its_id_and_its_path(footage, store, more, monkeypatch):
    shutil.copy(footage / "b.mp4", more / "other.mp4")
    (more / "b.mp4").write_bytes(b"no video")
    run = Curated(store, [footage, more], "select.motion.min=9")
    source = run.by_name("sources")["other.mp4"]
    assert source["status"] == "skipped"
    source = next(r for r in run.rows("sources") if r["uri"] == f"{footage}/b.mp4")
    clips = [c["clip_id"] for c in run.rows("clips") if c["source_id"] == source["source_id"]]
    monkeypatch.chdir(footage.parent)
    for word in (source["source_id"][:8], f"{footage}/b.mp4", f"{footage.name}/b.mp4"):
        said = CliRunner().invoke(main, ["status", word, "--store", str(store)])
        assert said.exit_code == 0, said.output
        assert f"source {source['source_id']}  ok" in said.output
        assert "  width: 224\n" in said.output
        for clip in clips:
            assert re.search(rf"  {clip}  \d\.00-\d\.00 s  rejected: motion is .*, must be at least 9\n", said.output)
    said = CliRunner().invoke(main, ["status", "b.mp4", "--store", str(store)])
    assert (said.exit_code, "b.mp4 fits 2 files (" in said.output) == (2, True), said.output
    said = CliRunner().invoke(main, ["status", f"{more}/b.mp4", "--store", str(store)])
    assert "error: it is no video that FFmpeg can read" in said.output
    assert CliRunner().invoke(main, ["status", "nosuch.mp4", "--store", str(store)]).exit_code == 2


def test_of_copies_the_best_is_kept(store, more):
    frames = shot(7, 40, speed=3, width=320, height=180)
    write(more / "large.mp4", frames)
    write(more / "small.mp4", [np.ascontiguousarray(f[::2, ::2]) for f in frames], crf=30)
    video(more / "other.mp4", (8,), frames=40)
    run = Curated(store, [more], *KEEP_ALL)
    clip = {name: r["clip_id"] for name, r in run.by_name("clips").items()}
    verdict = {v["clip_id"]: v for v in run.rows("verdicts")}
    assert {n: verdict[c]["status"] for n, c in clip.items()} == {
        "large.mp4": "kept", "small.mp4": "rejected", "other.mp4": "kept",
    }  # fmt: skip
    assert verdict[clip["small.mp4"]]["reasons"][-1]["metric"] == "duplicate"
    assert verdict[clip["small.mp4"]]["duplicate_of"] == clip["large.mp4"]
    assert "copy of large.mp4, 0.00-2.67 s, which is better and was kept" in build_report(run.catalog)
    gone = Curated(store, [more], *KEEP_ALL, "select.short_side.max=100")
    assert {v["clip_id"] for v in gone.rows("verdicts") if v["status"] == "kept"} == {clip["small.mp4"]}
    assert gone.work["copies"] == 0


def test_cards_that_differ_by_colour_alone_are_no_copies(store, more):
    for name, colour in (("red", (150, 60, 60)), ("blue", (60, 60, 190))):
        card = np.full((180, 320, 3), colour, np.uint8)
        card[120:150, 200:300] = 235
        write(more / f"{name}.mp4", [card] * 20)
    lifted = ["select.motion=null", "select.static_ratio=null", "select.sharpness=null"]
    run = Curated(store, [more], *lifted)
    assert [v["status"] for v in run.rows("verdicts")] == ["kept", "kept"]


def test_broken_sources_are_rows_with_reasons(footage, store, more, tmp_path):
    whole = (footage / "a.mp4").read_bytes()
    (more / "empty.mp4").write_bytes(b"")
    (more / "text.mp4").write_text("no video at all\n" * 100)
    (more / "notes.txt").write_text("notes")
    (more / "cut.mp4").write_bytes(whole[:200])
    (more / "playlist.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{footage}/a.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "outside.mp4").write_bytes(whole)
    (more / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    run = Curated(store, [footage, more])
    found = {name: (r["status"], r["error"]) for name, r in run.by_name("sources").items()}
    assert run.outcome.exit_status == 0
    assert Counter(status for status, _ in found.values()) == Counter(ok=3, error=5, skipped=1)
    assert "empty" in found["empty.mp4"][1]
    assert "leads out" in found["link.mp4"][1]
    assert all(error for status, error in found.values() if status == "error")
    sizes = {name: (r["bytes"], r["width"], r["fps"], r["has_audio"]) for name, r in run.by_name("sources").items()}
    assert sizes["text.mp4"] == (1600, None, None, None), "what could not be found out is empty, and not 0"
    assert sizes["empty.mp4"] == (0, None, None, None)
    assert sizes["link.mp4"] == (None, None, None, None)
    assert sizes["a.mp4"] == (len(whole), 224, 15, False)
    assert "<td>not a video file</td>" in build_report(run.catalog)
    assert len(run.rows("clips")) == 4
    assert Curated(store, [footage, more]).work == Counter()
    assert Curated(store, [footage, more], retry_errors=True).work["ingest"] == 5


def test_manifests_bring_labels_and_captions(footage, store, more, monkeypatch):
    (more / "rules.yaml").write_text(f"roots: [{footage}]\n")
    monkeypatch.setenv("RUSHES_REACH", str(more / "rules.yaml"))
    rows = [{"path": f"{footage}/a.mp4", "text": "The video shows waves.", "kind": "OceanWaves"}]
    (more / "m.jsonl").write_text(json.dumps(rows[0]) + "\n")
    words = ["manifest.uri=path", "manifest.caption=text", "manifest.label=kind"]
    run = Curated(store, [more / "m.jsonl"], *words)
    said = {c["kind"]: c["text"] for c in run.rows("captions")}
    assert said["source"] == "The video shows waves."
    assert said["label"] == "ocean waves"
    assert +run.work == Counter({"sources": 1, "copies": 1, "select": 1, "dedup": 1, "caption": 1})
    (more / "m.jsonl").write_text(json.dumps({**rows[0], "kind": "Waves"}) + "\n")
    work = Curated(store, [more / "m.jsonl"], *words).work
    assert +work == Counter({"sources": 1, "select": 1, "caption": 1})


def test_clips_can_be_taken_as_they_are(footage, store):
    run = Curated(store, [footage], "cuts.enabled=false", until="scores")
    assert [(c["start_frame"], c["end_frame"]) for c in run.rows("clips")] == [(0, 30), (0, 60), (0, 30)]
    with pytest.raises(BadInput, match="no cuts"):
        run.rows("cuts")


def test_until_only_and_limit(footage, tmp_path):
    store = tmp_path / "new"
    assert set(Curated(store, [footage], until="cuts", limit=2).work) == {"ingest", "sources", "analyse", "cuts"}
    with pytest.raises(BadInput, match="'clips' before it has work left"):
        Curated(store, [footage], only=["scores"], limit=2)
    run = Curated(store, [footage], only=["clips", "scores"], limit=2)
    assert set(run.work) == {"clips", "scores"}
    assert len(run.rows("sources")) == 2
    with pytest.raises(BadInput, match="did you mean 'cuts'"):
        Curated(store, [footage], until="cutz")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("select.moton.min=1", "did you mean 'motion'"),
        ("select.motion.least=1", "unknown key 'least'"),
        ("cuts.preset=films", "no preset 'films'"),
        ("cuts.rules.cut_flor=1", "did you mean 'cut_floor'"),
        ("clips.min_s=-1", "must be 0 or more"),
        ("analyze.flow_hz=1", "did you mean 'analyse'"),
        (
            "caption.enabled=false|steps.again={use: 'data_prep.scores.scores:Scores', before: prints}",
            "the steps scores and again both write the score",
        ),
    ],
)
def test_settings_of_no_sense_are_refused_before_any_work(footage, store, word, says):
    with pytest.raises(BadInput, match=says):
        Curated(store, [footage], *word.split("|"))


def test_an_object_store_does_for_sources_and_results(footage):
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/curate-in/b.mp4", (footage / "b.mp4").read_bytes())
    run = Curated("memory://curate-out", ["memory://curate-in"])  # type: ignore[arg-type,list-item]
    assert len(run.rows("clips")) == 2
    assert run.rows("sources")[0]["uri"] == "memory:///curate-in/b.mp4"
    assert Curated("memory://curate-out", ["memory://curate-in"]).work == Counter()  # type: ignore[arg-type,list-item]


# -- kills -----------------------------------------------------------------------------------------------------------


def contents(store: Path) -> dict[str, pa.Table]:
    catalog = existing_catalog(str(store))
    return read_tables(catalog, TABLES)


def start(store: Path, footage: Path, crash: str = "") -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "curate",
        str(footage),
        "--store",
        str(store),
        "--executor",
        "local",
    ]
    return subprocess.Popen(
        command, env={**os.environ, "RUSHES_CRASH": crash}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def check_end(store: Path, footage: Path, whole: Path) -> None:
    """Run once more, undisturbed: the tables are those of a run that was never killed."""
    process = start(store, footage)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    assert contents(store) == contents(whole)
    report = verify(existing_catalog(str(store)))
    assert (report.faults, report.twice) == ([], [])


def test_killed_and_run_again_it_ends_the_same(base, tmp_path):
    assert start(tmp_path / "store", base[0], "after_move:9").wait(1200) == -signal.SIGKILL
    assert verify(existing_catalog(str(tmp_path / "store"))).faults == []
    check_end(tmp_path / "store", *base)


def killed(store: Path, footage: Path, choose: random.Random, seconds: float) -> str:
    """Run until a kill has hit: at a named point, or at any moment. Returns how it died; a whole run starts again."""
    points = [p for p in POINTS if p != "before_delete"]
    while True:
        shutil.rmtree(store, ignore_errors=True)
        if choose.random() < 0.5:
            how = f"{choose.choice(points)}:{choose.randint(1, 16)}"
            status = start(store, footage, how).wait(1200)
        else:
            how = f"after {(wait := choose.uniform(0.2, 1.0) * seconds):.2f} s"
            process = start(store, footage)
            time.sleep(wait)
            process.kill()
            status = process.wait(600)
        if status == -signal.SIGKILL:
            return how


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_fifty_kills_each_run_again(base, tmp_path, seed, capsys):
    choose, began = random.Random(seed), time.monotonic()
    start(tmp_path / "whole", base[0]).wait(1200)
    seconds, store, hits = time.monotonic() - began, tmp_path / "store", Counter[str]()
    for _ in range(10):
        hits[killed(store, base[0], choose, seconds).split(":")[0].split(" ")[0]] += 1
        if store.joinpath("store.json").exists():
            assert verify(existing_catalog(str(store))).faults == []
        check_end(store, *base)
    with capsys.disabled():
        print(
            json.dumps({"figure": "curate_kills", "seed": seed, "killed": hits.total(), **hits, "tables_equal": True})
        )
