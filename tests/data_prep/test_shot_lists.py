"""Shot lists are read to the frame, and what is no list is said with its line."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shots.timeline import RATES, Strip, timeline, write_timeline
from data_prep.sources.shot_lists import by_source, frames_of, listed_shots, read_list, shots_rows, strangers
from stages.core.errors import BadInput
from stages.core.step import PermanentError

HEAD = "Scene Number,Start Frame,Start Timecode,Start Time (seconds),End Frame,End Timecode,End Time (seconds),Length"
EVENT = "001  AX       V     C        {} {} {} {}\n"


def times(frames: int, fps: float) -> np.ndarray:
    return np.arange(frames) / fps


def edl(*shots: tuple[str, str], head: str = "TITLE: x\nFCM: NON-DROP FRAME\n\n") -> bytes:
    return (head + "".join(EVENT.format(a, b, a, b) for a, b in shots)).encode()


@given(st.sampled_from(RATES), st.integers(0, 24 * 3600 * 24 - 1), st.booleans())
def test_timecodes_are_the_frames_that_opentimelineio_counts(rate, frame, drop):
    otio = pytest.importorskip("opentimelineio", reason="opentimelineio is not installed").opentime
    drop = drop and rate.denominator == 1001 and round(rate) % 30 == 0
    counted = float(rate) if drop else float(round(rate))
    text = otio.to_timecode(otio.RationalTime(frame, counted), counted)
    assert (";" in text) == drop
    assert frames_of(text, round(rate), drop) == frame


@settings(max_examples=60)
@given(st.sampled_from([*RATES, Fraction(15), Fraction(10)]), st.lists(st.integers(3, 4000), min_size=2, max_size=5))
def test_what_pyscenedetect_writes_means_the_frames_that_it_found(rate, lengths):
    """Its own writers. The seconds of its EDL are those of the clock, at 23.976 too, and some frames come out one too
    small, as it cuts 28.999999 to 28; its csv has the frames themselves."""
    detect = pytest.importorskip("scenedetect", reason="scenedetect-headless is not installed")
    from scenedetect.output import write_scene_list, write_scene_list_edl

    edges = np.cumsum([0, *lengths]).tolist()
    spans = list(pairwise(edges))
    scenes = [tuple(detect.FrameTimecode(frame, fps=rate) for frame in span) for span in spans]
    texts = {"a.csv": io.StringIO(), "a.edl": io.StringIO()}
    write_scene_list(texts["a.csv"], scenes)
    write_scene_list_edl(texts["a.edl"], scenes)
    for name, text in texts.items():
        listed = read_list(name, text.getvalue().encode())
        for varies in (False, True):
            found = listed_shots(listed, times(edges[-1], float(rate)), float(rate), varies)
            edges_found = np.array([(a, b) for a, b, _ in found])
            early = np.array(spans) - edges_found
            assert (early >= 0).all()
            assert early.max() <= (name == "a.edl")


@settings(max_examples=40)
@given(
    st.sampled_from(RATES),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20_000)), min_size=1, max_size=6),
)
def test_a_timeline_is_read_back_to_the_frame(tmp_path_factory, rate, parts):
    otio = pytest.importorskip("opentimelineio", reason="opentimelineio is not installed")
    spans, at = [], 0
    for gap, length in parts:
        spans.append((at + gap, at + gap + length))
        at += gap + length
    strip = Strip("/footage/tape 1.mp4", float(rate) * 1.0001, at, tuple(spans))
    folder = tmp_path_factory.mktemp("timeline")
    for out in (folder / "x.edl", folder / "x.otio"):
        assert write_timeline([strip], out) == []
        more = {"rate": float(rate)} if out.suffix == ".edl" else {}
        track = otio.adapters.read_from_file(str(out), **more).tracks[0]
        for clip, (start, end) in zip(track.find_clips(), spans, strict=True):
            # the reader of EDLs takes the first event as the start of the programme
            before = spans[0][0] if out.suffix == ".edl" else 0
            for found, behind in ((clip.source_range, 0), (clip.range_in_parent(), before)):
                assert (found.start_time.value, found.end_time_exclusive().value) == (start - behind, end - behind)
                assert found.start_time.rate == pytest.approx(float(rate))
            assert clip.media_reference.target_url == "file:///footage/tape%201.mp4"
    text = (folder / "x.edl").read_text()
    assert text.splitlines()[1] == "FCM: NON-DROP FRAME"
    assert ";" not in text
    found = listed_shots(read_list("x.edl", text.encode()), times(at, float(rate)), float(rate), False)
    assert [(a, b) for a, b, _ in found] == spans


def test_what_an_edl_cannot_hold_is_said(tmp_path):
    pytest.importorskip("opentimelineio", reason="opentimelineio is not installed")
    film, video, odd = (Strip(f"/{n}.mp4", fps, 100, ((0, 100),)) for n, fps in (("a", 24.0), ("b", 25.0), ("c", 15.0)))
    for strips, says in (
        ([film, video], "an EDL has one frame rate, and the sources have several"),
        ([odd], "an EDL cannot hold c.mp4 with its 15 frames a second, only 23.976, 24, 25, 29.97"),
        ([Strip("/a.mp4", 24.0, 24 * 86400 + 1, ((0, 9),))], "timecodes end at 24 hours"),
        ([Strip("/a.mp4", 24.0, 9, ())], "there is nothing to write"),
    ):
        with pytest.raises(BadInput, match=says):
            write_timeline(strips, tmp_path / "x.edl")
    cuts = tuple((i, i + 1) for i in range(1000))
    assert "CMX 3600 ends at 999" in write_timeline([Strip("/a.mp4", 24.0, 1000, cuts)], tmp_path / "x.edl")[0]
    both = timeline([film, odd], "x").tracks[0]
    assert [c.source_range.duration.rate for c in both.find_clips()] == [24, 15]


def test_dissolves_gaps_and_dropped_frames():
    head = "TITLE: x\nFCM: DROP FRAME\n\n"
    lines = (
        "001  A1       V     C        00:00:00:00 00:01:00:02 01:00:00:00 01:01:00:02\n"
        "* FROM CLIP NAME: one\n"
        "002  A1       V     C        00:01:00:02 00:01:00:02 01:01:00:02 01:01:00:02\n"
        "002  A1       V     D    010 00:01:00:02 00:01:10:02 01:01:00:02 01:01:10:02\n"
        "003  A1       A     C        00:00:00:00 00:00:10:00 01:00:00:00 01:00:10:00\n"
        "004  A1       V     C        00:01:20:02 00:01:30:02 01:01:10:02 01:01:20:02\n"
    )
    rate = 30000 / 1001
    shots = listed_shots(read_list("a.edl", (head + lines).encode()), times(3000, rate), rate, False)
    assert shots == [(0, 1800, 0), (1800, 2100, 10), (2400, 2700, 0)]
    assert shots_rows(shots) == [
        {"kind": "dissolve", "first_frame": 1800, "last_frame": 1810},
        {"kind": "gap", "first_frame": 2100, "last_frame": 2400},
    ]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"start,end\n0,1\n", "a.csv has no columns 'Start Frame'"),
        ("a.csv", f"{HEAD}\n1,x,,0,2,,1,1\n".encode(), "a.csv, line 2: its frames or seconds are no numbers"),
        ("a.csv", f"{HEAD}\n".encode(), "a.csv lists no shot"),
        ("a.csv", b"\xff\xfe", "a.csv is not UTF-8"),
        ("a.edl", b"TITLE: x\n001 AX V C 0 1\n", "a.edl, line 2 is no event"),
        (
            "a.edl",
            edl(("00:00:00:00", "00:00:01:00")) + edl(("00:00:01:00", "00:00:02:00"), head="").replace(b"AX", b"B1")
            + edl(("00:00:02:00", "00:00:03:00"), head="").replace(b"AX", b"B2"),
            "several reels",
        ),
    ],
)  # fmt: skip
def test_what_is_no_list_is_bad_input(name, data, says):
    with pytest.raises(BadInput, match=says):
        read_list(name, data)


def test_a_list_that_does_not_fit_its_source_is_an_error_of_that_source():
    for shots, says in (
        ([("00:00:00:00", "00:00:09:00")], "frames 0 to 225, and the source has 100"),
        (
            [("00:00:00:00", "00:00:02:00"), ("00:00:01:00", "00:00:03:00")],
            "a shot from frame 25, before the one ahead",
        ),
        ([("00:00:00:00", "00:00:01:29")], "a second of the source has 25 frames"),
    ):
        with pytest.raises(PermanentError, match=says):
            listed_shots(read_list("a.edl", edl(*shots)), times(100, 25), 25.0, False)


def test_a_list_belongs_to_the_source_of_its_name():
    one = edl(("00:00:00:00", "00:00:01:00"))
    found = by_source({"a.edl": one, "b.mp4.edl": one, "other.edl": one}, ["/f/a.mp4", "b.mp4", "c.mp4"])
    assert {name: len(json.loads(text)["shots"]) for name, text in found.items()} == {"/f/a.mp4": 1, "b.mp4": 1}
    found = by_source({"x/a.edl": one, "f/y/a.edl": one}, ["/f/x/a.mp4", "s3://f/y/a.mp4", "/f/z/a.mp4"])
    assert list(found) == ["s3://f/y/a.mp4", "/f/x/a.mp4"], "a subfolder tells sources of one name apart"
    assert strangers(["x/a.edl", "y/a.edl"], ["/f/x/a.mp4"]) == [("y/a.edl", "")]
    for lists, names, says in (
        ({"a.edl": one, "a-Scenes.csv": one}, ["a.mp4"], "a.mp4 has more than one list there: a-Scenes.csv and a.edl"),
        ({"a.edl": one}, ["a.mp4", "a.mkv"], "more than one source"),
        ({"a.edl": one}, ["/f/x/a.mp4", "/f/y/a.mp4"], r"\(/f/x/a.mp4, /f/y/a.mp4\); put a list for each into a sub"),
        ({"x.edl": one}, ["a.mp4"], "none of the lists there is called as a source is"),
    ):
        with pytest.raises(BadInput, match=says):
            by_source(lists, names)
