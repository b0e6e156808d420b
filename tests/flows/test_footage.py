"""Footage that goes wrong, from files to a dataset by the command line: each published clip shows its own frames,
upright, with its own sound, or is said not to be there."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from data_prep.publish import origin
from data_prep.sources import counting, reading
from flows.cli.main import main
from flows.views.tables import read_table
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from stages.core.media import ffmpeg_binary
from tests.data_prep.little import shot, texture, write
from tests.data_prep.moves import footage, pan, tinted
from tests.data_prep.numbered import (
    H264,
    HEIGHT,
    KEYS,
    ONE_KEY,
    SHOT,
    SOUND,
    WIDTH,
    at_times,
    encoded,
    ffmpeg,
    frames,
    heard,
    make,
    number_of,
    shown,
)
from tests.data_prep.sequences import encode
from tests.data_prep.test_shots import FOOTAGE
from tests.flows.test_causes import column

EVERYTHING = [
    "copies.hash_bits=-1", "select.motion=null", "select.static_ratio=null", "select.sharpness=null",
    "select.short_side.min=null",
]  # fmt: skip


def rushes(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


def curate(store: Path, footage: Path, *words: str) -> Result:
    done = rushes("curate", footage, "--store", store, *EVERYTHING, *words)
    assert done.exit_code == 0, done.output
    return done


def publish(store: Path, *words: str) -> Result:
    return rushes("publish", "set", "--store", store, *words)


def table(store: Path, name: str) -> list[dict]:
    return read_table(Catalog(Storage(str(store))), name).to_pylist()


def index(store: Path) -> list[dict]:
    """The rows of the newest version, with the path of each clip's file."""
    version = max((store / "datasets" / "set").iterdir(), key=lambda p: int(p.name[1:]))
    rows = pq.read_table(version / "index.parquet").to_pylist()
    return [{**r, "file": version / r["uri"], "name": Path(r["source_uri"]).name} for r in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, dict[str, int]]:
    """Footage of every kind, the store of its publication with sound, and how many clips each source must give."""
    folder = tmp_path_factory.mktemp("footage") / "in"
    wanted = make(folder, tmp_path_factory.mktemp("parts"))
    store = tmp_path_factory.mktemp("store") / "store"
    curate(store, folder)
    done = publish(store, "publish.audio=true")
    assert done.exit_code == 0, done.output
    assert "not cut" not in done.output
    return folder, store, wanted


def test_every_clip_of_every_kind_is_there_with_its_own_frames(made):
    folder, store, wanted = made
    rows = index(store)
    assert {name: sum(r["name"] == name for r in rows) for name in wanted} == wanted
    for row in rows:
        stored = shown(row["file"])
        assert len(stored) == row["n_frames"] == row["end_frame"] - row["start_frame"]
        with av.open(str(row["file"])) as container:  # who does not turn pictures reads it upright too
            first = next(container.decode(video=0))
        assert (first.width, first.height, first.rotation) == (row["width"], row["height"], 0), row["name"]
        assert (row["width"], row["height"]) == stored.shape[:0:-1]
        if row["name"] != "size_changes.ts":
            source = shown(folder / row["name"])[row["start_frame"] : row["end_frame"]]
            aspect = 4 / 3 if row["name"] == "anamorphic.mp4" else 1
            assert stored.shape[1:] == (source.shape[1], round(source.shape[2] * aspect / 2) * 2), row["name"]
            if aspect == 1:
                off = np.abs(stored.astype(int) - source).mean(axis=(1, 2))
                assert off.max() < 8, (
                    f"{row['name']} {row['start_frame']}: another picture, or turned, by {off.max():.1f}"
                )
        if not any(w in row["name"] for w in ("rotated", "mirrored", "upside")):
            assert [number_of(f) for f in stored] == list(range(row["start_frame"], row["end_frame"])), row["name"]


def test_sound_is_at_its_time_and_as_long_as_the_pictures(made):
    rows = [r for r in index(made[1]) if r["name"] in SOUND]
    assert len(rows) == 2 * len(SOUND)
    for row in rows:
        begin, length = row["start_frame"] / 25, row["n_frames"] / 25
        start, stop = (min(max(t - begin, 0.0), length) for t in SOUND[row["name"]])
        assert heard(row["file"]) == pytest.approx((start, stop, length), abs=0.07), row["name"]


def test_lengths_and_rates_are_those_of_the_frames(made):
    rows = {Path(r["uri"]).name: r for r in table(made[1], "sources")}
    for name, seconds in (("joined.ts", 3.6), ("joined.mpg", 3.6), ("pairs.mkv", 2.4), ("late.mkv", 1.2)):
        assert rows[name]["duration_s"] == pytest.approx(seconds, abs=0.05), name
        assert rows[name]["fps"] == pytest.approx(25, rel=0.01), name
        assert not rows[name]["is_vfr"]
    assert all(r["note"] == "" for r in rows.values())
    assert (rows["mirrored.mp4"]["rotation"], rows["mirrored.mp4"]["mirrored"]) == (0, True)
    cuts = [(c["kind"], c["first_frame"]) for c in table(made[1], "cuts") if c["uri"].endswith("pairs.mkv")]
    assert cuts == [("cut", SHOT)]


def combing(pictures: np.ndarray) -> float:
    """How much each row differs from the mean of its neighbours, in grey levels, over pictures [n, h, w]."""
    rows = pictures.astype(np.float32)
    return float(np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2).mean())


def test_fields_become_whole_pictures(tmp_path):
    """A camera that moves, taken in fields: each frame of the file shows two moments, each frame of a clip one."""
    folder = tmp_path / "in"
    folder.mkdir()
    moving = shot(1, 76, 2.5, WIDTH, HEIGHT)
    raw = tmp_path / "fields.mkv"
    encoded(raw, moving, "-c:v", "ffv1")
    fields = ("-flags", "+ilme+ildct")
    for name, first, options in (
        ("top_first.mpg", "interleave_top", ("-c:v", "mpeg2video", "-q:v", "3", *fields)),
        ("bottom_first.mp4", "interleave_bottom", (*H264, f"{KEYS}:bff=1", *fields)),
    ):
        order = "tff" if first.endswith("top") else "bff"
        ffmpeg(
            "-r", "50", "-i", raw, "-vf", f"tinterlace={first},setfield={order}", "-r", "25", *options, folder / name
        )
    curate(tmp_path / "store", folder)
    done = publish(tmp_path / "store")
    assert done.exit_code == 0, done.output
    rows = index(tmp_path / "store")
    assert {row["name"] for row in rows} == {"top_first.mpg", "bottom_first.mp4"}
    whole = combing(shown(raw))
    for row in rows:
        assert combing(shown(folder / row["name"])) > 5 * whole
        assert combing(shown(row["file"])) < 2 * whole, row["name"]


MATRICES = {"bt709": ("bt709", 1), "smpte170m": ("bt601", 6), "bt2020nc": ("bt2020", 9), "": ("bt601", 2)}
"""Tag of a stream: what ffmpeg calls the matrix with which its pixels were made, and the number of the tag."""


def bars(seed: int) -> np.ndarray:
    """Saturated colours side by side over a texture."""
    colours = np.repeat(np.eye(3)[[0, 1, 2]], WIDTH // 3, axis=0) * 200 + 30
    return np.uint8(np.clip(colours[None] * 0.7 + 0.3 * texture(seed, WIDTH, HEIGHT), 0, 255))


def coloured(path: Path) -> np.ndarray:
    """The middle of a file's frames in RGB as ffmpeg shows them: float [3 colours, 3]."""
    words = [
        "-i",
        str(path),
        "-frames:v",
        "1",
        "-vf",
        f"scale={WIDTH}:{HEIGHT}",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    done = subprocess.run([ffmpeg_binary(), "-v", "error", *words], check=True, capture_output=True)
    picture = np.frombuffer(done.stdout, np.uint8).reshape(HEIGHT, 3, WIDTH // 3, 3)
    return picture[:, :, 12:-12].astype(float).mean(axis=(0, 2))


def test_clips_that_are_encoded_keep_their_colours_and_say_how(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, (tag, (matrix, _)) in enumerate(MATRICES.items()):
        tagged = f",setparams=colorspace={tag or 'unknown'}"
        words = ("-vf", f"scale=out_color_matrix={matrix}{tagged}", *H264, KEYS)
        encoded(folder / f"{tag or 'none'}.mp4", [bars(seed)] * 40, *words)
    curate(tmp_path / "store", folder, "dedup.enabled=false")
    done = publish(tmp_path / "store", "publish.video.fps=20")
    assert done.exit_code == 0, done.output
    assert "not cut" not in done.output
    rows = index(tmp_path / "store")
    assert len(rows) == len(MATRICES)
    for row in rows:
        assert np.abs(coloured(row["file"]) - coloured(folder / row["name"])).max() < 3, row["name"]
        with av.open(str(row["file"])) as container:
            found = int(next(container.decode(video=0)).colorspace)
        assert found == MATRICES["" if row["name"] == "none.mp4" else Path(row["name"]).stem][1], row["name"]


def test_holes_and_high_dynamic_range_are_said(tmp_path):
    (tmp_path / "in").mkdir()
    times = [40 * i + (2000 if i >= 30 else 0) for i in range(60)]
    at_times(tmp_path / "in" / "hole.mkv", frames((1, 2)), times)
    at_times(tmp_path / "in" / "slow.mkv", frames((3, 4)), [1000 * i for i in range(60)])
    hdr = ("-vf", "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc", *H264, KEYS)
    encoded(tmp_path / "in" / "hdr.mp4", frames((5, 6)), *hdr)
    said = curate(tmp_path / "store", tmp_path / "in", "--until", "ingest").output
    assert "hole.mkv: there are no frames between 1.16 and 3.20 s" in said
    assert "hdr.mp4: its pictures have a high dynamic range (PQ), and nothing maps them to a standard one" in said
    assert "slow.mkv" not in said


def test_a_camera_that_pans_and_light_that_changes_make_one_clip(tmp_path):
    (tmp_path / "in").mkdir()
    still, rng = footage(FOOTAGE / "dog.mp4"), np.random.default_rng(4)
    for name, law in (("pan", pan), ("light", tinted)):
        encode(list(law(still, 75, rng)), tmp_path / "in" / f"{name}.mp4", codec="libx264", options={"crf": "20"})
    curate(tmp_path / "store", tmp_path / "in", "--until", "clips")
    assert [(c["start_frame"], c["end_frame"]) for c in table(tmp_path / "store", "clips")] == [(0, 75), (0, 75)]


def test_no_clip_at_all_ends_well_and_is_said(tmp_path):
    for name in ("short", "text", "broken"):
        (tmp_path / name).mkdir()
    write(tmp_path / "short" / "a.mp4", shot(1, 9))
    (tmp_path / "text" / "a.txt").write_text("no video")
    (tmp_path / "broken" / "a.mp4").write_bytes(bytes(range(256)) * 40)
    unread = "no source can be read"
    for name, why in (("short", "no shot of any source is as long"), ("text", unread), ("broken", unread)):
        for _ in range(2):  # also when there is nothing left to do
            done = rushes("curate", tmp_path / name, "--store", tmp_path / f"{name}.store", *EVERYTHING)
            assert done.exit_code == (1 if name == "broken" else 0), done.output  # a file that cannot be read failed
            assert f"there are no clips: {why}" in done.output
        done = publish(tmp_path / f"{name}.store")
        assert done.exit_code == 2
        assert "kept no clip" in done.output


CONTAINERS: dict[str, tuple[tuple[str, ...], str]] = {
    "mp4": ((*H264, KEYS, "-movflags", "+faststart"), "of the 60 frames that its index lists are in it"),
    "mkv": ((*H264, KEYS), "its header says 2.4 s, but it has"),
    "webm": (("-c:v", "libvpx", "-deadline", "realtime", "-g", "30"), "its header says 2.4 s, but it has"),
    "avi": (("-c:v", "mpeg4", "-q:v", "3", "-g", "30"), "bytes are missing at its end"),
    "ts": ((*H264, KEYS), "it ends within a packet"),
}
"""How files of a kind are made, and what is said of one that is cut off."""
ZEROS = {
    "mp4": "only {there} of 60 frames can be decoded",
    "avi": "the file is not whole: its header says 2.4 s, but it has",
    "ts": "the file is not whole: its end holds no packets",
}
"""What is said of one whose end is zeros, as downloads that stopped leave it."""


def test_a_file_that_is_cut_off_is_said_while_curating(tmp_path, monkeypatch):
    folder, store = tmp_path / "in", tmp_path / "store"
    folder.mkdir()
    says = {}
    for seed, (kind, (options, said)) in enumerate(CONTAINERS.items()):
        whole = encoded(folder / f"whole.{kind}", frames((3 * seed, 3 * seed + 1)), *options).read_bytes()
        part = whole[: int(len(whole) * 0.65)]
        (folder / f"cut.{kind}").write_bytes(part)
        says[f"cut.{kind}"] = said
        if kind in ZEROS:
            (folder / f"zeros.{kind}").write_bytes(part + bytes(len(whole) - len(part)))
            says[f"zeros.{kind}"] = ZEROS[kind]
    curate(store, folder)
    monkeypatch.setenv("COLUMNS", "60")
    printed = column("note", rushes("table", "sources", "--store", store).output)
    rows = {Path(r["uri"]).name: r for r in table(store, "sources")}
    for name, row in rows.items():
        if name in says:
            there = len(shown(folder / name))
            assert says[name].format(there=there) in row["note"], (name, row["note"])
            assert row["note"].replace(" ", "") in printed
            assert there < 2 * SHOT
        else:
            assert row["note"] == "", name
    done = publish(store)
    assert done.exit_code == 0, done.output
    assert "not cut" not in done.output
    published = dict.fromkeys(rows, 0)
    for row in index(store):
        published[row["name"]] += 1
        sound = row["n_frames"] - (not row["name"].startswith("whole"))  # decoders make up half a frame
        right = list(range(row["start_frame"], row["start_frame"] + sound))
        assert [number_of(f) for f in shown(row["file"])][:sound] == right, row["name"]
    assert published == {name: 2 if name.startswith("whole") else 1 for name in rows}


@pytest.mark.parametrize("times_kept", [False, True])
def test_a_source_that_was_replaced_is_not_published_under_the_old_scores(tmp_path, times_kept):
    folder, store = tmp_path / "in", tmp_path / "store"
    folder.mkdir()
    for i, name in enumerate(("a.mp4", "b.mp4")):
        encoded(folder / name, frames((2 * i + 1,)), *H264, KEYS)
    curate(store, folder)
    data = encoded(tmp_path / "other.mp4", frames((9,)), *H264, KEYS).read_bytes()
    before = (folder / "a.mp4").stat()
    (folder / "a.mp4").write_bytes((data + bytes(before.st_size))[: before.st_size])
    if times_kept:  # as `cp --preserve` does
        os.utime(folder / "a.mp4", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(folder / "b.mp4", (1, 1))  # touched, the same content
    done = publish(store)
    assert done.exit_code == 0
    assert "1 clip was not cut:" in done.output
    told = "frame 0 of the written clip differs" if times_kept else "the source is not the file that was curated"
    assert f"a.mp4 0.00-1.20 s: {told}" in done.output
    assert [r["name"] for r in index(store)] == ["b.mp4"]
    assert [(Path(r["uri"]).name, r["status"]) for r in table(store, "uncut")] == [("a.mp4", "error")]


def test_a_file_that_was_away_is_published_once_it_is_found_again(tmp_path):
    """Without --retry-errors, and where an error has had all its attempts."""
    folder, store = tmp_path / "in", tmp_path / "store"
    folder.mkdir()
    for i, name in enumerate(("gone.mp4", "other.mp4", "here.mp4")):
        encoded(folder / name, frames((i + 1,)), *H264, KEYS)
    curate(store, folder)
    away = [(folder / name).rename(tmp_path / name) for name in ("gone.mp4", "other.mp4")]
    encoded(folder / "other.mp4", frames((9,)), *H264, KEYS)
    done = publish(store, "cut.resources.attempts=1")
    assert done.exit_code == 0, done.output
    assert "2 clips were not cut:" in done.output
    assert "gone.mp4 0.00-1.20 s: the file is not there any more" in done.output
    assert [r["name"] for r in index(store)] == ["here.mp4"]
    for i, path in enumerate(away):
        path.rename(folder / f"found {i}.mp4")
    curate(store, folder)
    done = publish(store, "cut.resources.attempts=1")
    assert "not cut" not in done.output
    assert sorted(r["name"] for r in index(store)) == ["found 0.mp4", "found 1.mp4", "here.mp4", "other.mp4"]


@pytest.mark.parametrize("options", [ONE_KEY, pytest.param(KEYS, marks=pytest.mark.soak)])
def test_all_clips_of_a_source_cost_one_decode_of_it_and_no_hash(tmp_path, monkeypatch, options):
    folder, store = tmp_path / "in", tmp_path / "store"
    folder.mkdir()
    encoded(folder / "a.mp4", frames(range(1, 9)), *H264, options)
    curate(store, folder)
    decoded, plain = [0], counting.presented

    def counted(container: object, stream: object, *rest: object):
        for frame in plain(container, stream, *rest):
            decoded[0] += 1
            yield frame

    assert origin.presented is plain, "its first look at one frame is not counted"
    monkeypatch.setattr(counting, "presented", counted)
    monkeypatch.setattr(reading, "_hash_of", lambda *words: pytest.fail("what has not changed is hashed again"))
    done = publish(store, "publish.video.size=96")
    assert done.exit_code == 0, done.output
    assert len(index(store)) == 8
    assert SHOT <= decoded[0] <= 8 * SHOT


@pytest.mark.parametrize("joined", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_a_mistake_in_cutting_is_seen_by_the_check(tmp_path, monkeypatch, joined):
    """Frames that are one off, as a reader that miscounts gives them."""
    folder, store = tmp_path / "in", tmp_path / "store"
    folder.mkdir()
    parts = [encoded(tmp_path / f"{i}.ts", frames((i,), SHOT * i), *H264, KEYS).read_bytes() for i in (0, 1)]
    (folder / "a.ts").write_bytes(b"".join(parts) if joined else parts[0])
    curate(store, folder)
    plain = counting.FrameReader.frames
    monkeypatch.setattr(
        counting.FrameReader, "frames", lambda self, a, b: plain(self, max(0, a - 1), b - 1 if a else b)
    )
    done = publish(store, "publish.video.size=96")
    if joined:
        assert "1 clip was not cut:" in done.output
        assert "frames" in table(store, "uncut")[0]["reason"] or "differs" in table(store, "uncut")[0]["reason"]
        assert [r["start_frame"] for r in index(store)] == [0]
    else:
        assert done.exit_code == 0, done.output


def test_a_still_camera_before_which_other_things_happen_gives_no_copies(tmp_path):
    folder, store = tmp_path / "in", tmp_path / "store"
    folder.mkdir()
    scene = texture(5, 320, 180)
    paths = [((20, 40), (260, 40)), ((260, 130), (20, 130)), ((40, 10), (40, 150)), ((280, 150), (150, 20))]
    for k, (a, b) in enumerate(paths):
        pictures = []
        for i in range(40):
            picture, (x, y) = scene.copy(), (round(p + (q - p) * i / 39) for p, q in zip(a, b, strict=True))
            picture[y : y + 22, x : x + 22] = (240, 60, 40)
            pictures.append(picture)
        write(folder / f"{k}.mp4", pictures, crf=20)
        if not k:
            write(folder / "copy.mp4", pictures, crf=36)
    done = rushes("curate", folder, "--store", store, *EVERYTHING[1:])
    assert done.exit_code == 0, done.output
    names = {c["clip_id"]: Path(c["uri"]).name for c in table(store, "clips")}
    verdicts = {names[v["clip_id"]]: names.get(v["duplicate_of"], "") for v in table(store, "verdicts")}
    assert sorted(n for n, of in verdicts.items() if not of) in (
        ["0.mp4", "1.mp4", "2.mp4", "3.mp4"],
        ["1.mp4", "2.mp4", "3.mp4", "copy.mp4"],
    )
    assert len(verdicts) == 5


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "txt"])
def test_what_a_manifest_says_is_kept_as_it_is(tmp_path, kind):
    folder, names = tmp_path / "in", (" lead.mp4", "b.mp4", "c.mp4")
    folder.mkdir()
    for seed, name in enumerate(names):
        write(folder / name, shot(seed, 4, width=64, height=48))
    typed = kind in ("jsonl", "parquet")  # with numbers, where the others have texts
    values = zip(names, (0, 3.0 if typed else 3, 1), (float("nan"), None, 0.5), strict=True)
    rows = [{"uri": name, "label": label, "caption": caption} for name, label, caption in values]
    manifest = folder / f"m.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), manifest)
    elif kind == "jsonl":
        manifest.write_text("".join(json.dumps(r) + "\n" for r in rows))
    elif kind == "txt":
        manifest.write_text("\r\n".join(names))
    else:
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    curate(tmp_path / "store", manifest, "until=ingest")
    found = [(Path(r["uri"]).name, r["status"], r["label"], r["caption"]) for r in table(tmp_path / "store", "sources")]
    said = [("", ""), ("", ""), ("", "")] if kind == "txt" else [("0", ""), ("3", ""), ("1", "0.5")]
    assert found == [(name, "ok", *words) for name, words in zip(names, said, strict=True)]
