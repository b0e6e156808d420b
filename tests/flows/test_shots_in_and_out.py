"""Shot lists in place of detection, and shots, clips and signals of frames out to files, through the command."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

import av
import pytest
from click.testing import CliRunner, Result

from flows.cli.main import main
from flows.curate.notes import notes
from flows.views.tables import read_table
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from stages.core.running.runs import find_run
from tests.data_prep.little import shot, video, write

RATES = {"film.mp4": Fraction(24000, 1001), "tape.mp4": Fraction(30000, 1001), "old.mp4": Fraction(15)}
SCENES = """Timecode List:,00:00:00.834,00:00:02.085
Scene Number,Start Frame,Start Timecode,Start Time (seconds),End Frame,End Timecode,End Time (seconds)
1,1,00:00:00.000,0.000,20,00:00:00.834,0.834
2,21,00:00:00.834,0.834,50,00:00:02.085,2.085
3,56,00:00:02.294,2.294,90,00:00:03.754,3.754
"""


def rushes(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


@pytest.fixture(scope="module")
def curated(tmp_path_factory) -> Path:
    """A store: film.mp4 has a shot list that is not what is in it, tape.mp4, old.mp4 and phone.mkv have none."""
    folder = tmp_path_factory.mktemp("shots")
    (folder / "lists").mkdir()
    (folder / "lists" / "film-Scenes.csv").write_text(SCENES)
    for name, rate in RATES.items():
        write_at = folder / "footage" / name
        write_at.parent.mkdir(exist_ok=True)
        write(write_at, [f for seed in (1, 2, 3) for f in shot(seed, 30)], fps=rate)
    phone(folder / "footage" / "phone.mkv")
    words = ("shot_lists=" + str(folder / "lists"), "clips.min_s=0.3", "infra.executor=local")
    made = rushes("curate", folder / "footage", "--store", folder / "store", "--until", "clips", *words)
    assert made.exit_code == 0, made.output
    assert "shot lists: 1 source has one" in made.output
    return folder / "store"


def phone(path: Path) -> None:
    """Two shots, of 30 frames in one second and 30 frames in three."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 224, 128, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 30)
        for i, picture in enumerate([*shot(1, 30), *shot(2, 30)]):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i if i < 30 else 30 + (i - 30) * 3, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def spans(timeline: object) -> list[tuple[int, int]]:
    """The frames of each clip in the first track."""
    found = [c.source_range for c in timeline.tracks[0].find_clips()]
    return [(int(r.start_time.value), int(r.end_time_exclusive().value)) for r in found]


def test_a_shot_list_counts_in_place_of_detection(curated):
    catalog = Catalog(Storage(str(curated)))
    cuts: dict[str, list] = {}
    for row in read_table(catalog, "cuts").to_pylist():
        cuts.setdefault(Path(row["uri"]).name, []).append((row["kind"], row["first_frame"], row["last_frame"]))
    assert cuts == {
        "film.mp4": [("cut", 20, 20), ("gap", 50, 55)],
        "tape.mp4": [("cut", 30, 30), ("cut", 60, 60)],
        "old.mp4": [("cut", 30, 30), ("cut", 60, 60)],
        "phone.mkv": [("cut", 30, 30)],
    }
    clips = [r for r in read_table(catalog, "clips").to_pylist() if r["uri"].endswith("film.mp4")]
    assert [(c["start_frame"], c["end_frame"]) for c in clips] == [(0, 20), (20, 50), (55, 90)]
    run = find_run(catalog, "curate")
    assert "shot lists: 1 source has one" in notes(catalog, run.survey(catalog), run.row["run_id"])


def test_cuts_go_out_as_edl_and_otio_and_come_in_again(curated, tmp_path):
    otio = pytest.importorskip("opentimelineio", reason="opentimelineio is not installed")
    truth = {"film": [(0, 20), (20, 50), (55, 90)], "tape": [(0, 30), (30, 60), (60, 90)]}
    made = rushes("table", "cuts", "--store", curated, "--out", tmp_path / "{source}.edl")
    assert made.exit_code == 0, made.output
    assert "2 files in" in made.output
    assert "not written: an EDL cannot hold old.mp4 with its 15 frames a second" in made.output
    for name, shots in truth.items():
        rate = float(RATES[f"{name}.mp4"])
        assert spans(otio.adapters.read_from_file(str(tmp_path / f"{name}.edl"), rate=rate)) == shots
    assert rushes("table", "cuts", "--store", curated, "--out", tmp_path / "{source}.otio").exit_code == 0
    for name in ("film", "tape", "old"):
        assert spans(otio.adapters.read_from_file(str(tmp_path / f"{name}.otio"))) == truth.get(name, truth["tape"])
    made = rushes("table", "clips", "--store", curated, "--out", tmp_path / "all.otio")
    assert "11 clips in" in made.output
    assert "phone.mkv has a variable frame rate: shots are placed by their time" in " ".join(made.output.split())
    found = otio.adapters.read_from_file(str(tmp_path / "all.otio"))
    average = 59 / 3.9  # from the first frame to the last
    by_time = [(0, round(average)), (round(average), round(4 * average))]
    assert spans(found) == [*truth["film"], *truth["tape"], *by_time, *truth["tape"]]
    rates = {c.source_range.duration.rate for c in found.find_clips()}
    assert sorted(rates) == pytest.approx(sorted([*(float(r) for r in RATES.values()), average]), rel=1e-3)

    (tmp_path / "lists").mkdir()
    (tmp_path / "film.edl").rename(tmp_path / "lists" / "film.edl")
    words = (f"shot_lists={tmp_path / 'lists'}", "infra.executor=local", "--until", "shot_list")
    again = rushes("curate", curated.parent / "footage", "--store", tmp_path / "store", *words)
    assert again.exit_code == 0, again.output
    rows = read_table(Catalog(Storage(str(tmp_path / "store"))), "cuts").to_pylist()
    assert [r["first_frame"] for r in rows if r["uri"].endswith("film.mp4")] == [20, 50]


def test_signals_of_frames_go_out_as_a_csv_for_each_source(curated, tmp_path):
    made = rushes("table", "frames", "--store", curated, "--out", tmp_path / "{source}.csv")
    assert made.exit_code == 0, made.output
    for name in ("film", "tape", "old"):
        with (tmp_path / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(r["frame"]) for r in rows] == list(range(90))
        assert {Path(r["uri"]).stem for r in rows} == {name}
        signal = [float(r["cut_signal"]) for r in rows]
        assert sorted(sorted(range(90), key=signal.__getitem__)[-2:]) == [30, 60]
        assert all(0 <= float(r["luma"]) <= 255 for r in rows)
    catalog = Catalog(Storage(str(curated)))
    assert read_table(catalog, "frames").num_rows == 330
    made = rushes("table", "clips", "--store", curated, "--out", tmp_path / "clips-{source}.jsonl")
    assert made.exit_code == 0, made.output
    assert len((tmp_path / "clips-tape.jsonl").read_text().splitlines()) == 3


def test_what_cannot_be_written_is_one_sentence(curated, tmp_path, monkeypatch):
    pytest.importorskip("opentimelineio", reason="opentimelineio is not installed")
    for words, says in (
        (("cuts", "--out", tmp_path / "x.edl"), "an EDL cannot hold"),
        (("sources", "--out", tmp_path / "x.otio"), "the table sources is no timeline"),
        (("cuts", "--all", "--out", tmp_path / "x.otio"), "leave --all out"),
        (("cuts", "--out", tmp_path / "{source}" / "x.otio"), "not of a folder"),
        (("runs", "--out", tmp_path / "{source}.csv"), "the table runs has no source to a row"),
        (("cuts", "--out", tmp_path / "x.xml"), "must end in .parquet, .csv, .jsonl, .edl or .otio"),
    ):
        made = rushes("table", *words, "--store", curated)
        assert (made.exit_code, says in made.output) == (2, True), made.output
    monkeypatch.setitem(__import__("sys").modules, "opentimelineio", None)
    assert ".[otio]" in rushes("table", "cuts", "--store", curated, "--out", tmp_path / "x.otio").output


def test_a_list_that_does_not_fit_costs_its_source_only(tmp_path):
    video(tmp_path / "footage" / "a.mp4", (1,))
    video(tmp_path / "footage" / "b.mp4", (2,))
    (tmp_path / "a.csv").write_text(SCENES)
    words = (f"shot_lists={tmp_path}", "infra.executor=local", "--until", "clips")
    made = rushes("curate", tmp_path / "footage", "--store", tmp_path / "store", *words)
    assert "a.mp4: shot_list: its shot list has frames 20 to 50" in made.output
    catalog = Catalog(Storage(str(tmp_path / "store")))
    errors = {Path(r["uri"]).name: r["error"] for r in read_table(catalog, "sources").to_pylist()}
    assert "frames 20 to 50, and the source has 30 frames" in errors["a.mp4"]
    assert errors["b.mp4"] == ""
    assert [Path(r["uri"]).name for r in read_table(catalog, "clips").to_pylist()] == ["b.mp4"]
    made = rushes("curate", tmp_path / "footage", "--store", tmp_path / "store", "shot_lists=/nothing/there")
    assert (made.exit_code, "cannot be listed" in made.output) == (2, True)
