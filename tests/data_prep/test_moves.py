"""The shot detector on shots that move and change their light, and on edits between such shots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.shots.shots import find_shots
from data_prep.signals.signals import decode_signals
from stages.core.measures.registration import (
    best_shifts,
    kept_share,
    motion_likeness,
    motion_over_mixture,
    rank_likeness,
)
from stages.core.measures.shots.detector import Transition
from tests.data_prep.moves import KEPT_BACK, KNOWN, Footage, Tally, edited, footage
from tests.data_prep.sequences import Sequence, encode
from tests.data_prep.test_shots import DATA, FOOTAGE

CODECS = (
    ("libx264", {"crf": "20", "preset": "veryfast"}, "mp4"),
    ("libx264", {"crf": "33", "preset": "veryfast"}, "mp4"),
    ("mpeg2video", {"b": "1500k"}, "mpg"),
)
HELD_OUT_CODECS = (
    ("libx264", {"crf": "28", "preset": "veryfast"}, "mp4"),
    ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "250k"}, "webm"),
    ("mpeg4", {"b": "700k"}, "avi"),
)
HELD_OUT_SOURCES = (
    "sam2_03_blocks.mp4",
    "sam2_05_default_juggle.mp4",
    "openshot_test.avi",
    "intel_car-detection.mp4",
    "deb_visp_cube.mpeg",
    "deb_mimetype_ogg.ogv",
    "deb_kivy_cityCC0.mpg",
    "intel_asl_night.mkv",
)
"""Videos that no threshold was set on."""
CAMERA_AND_LIGHT = {"pan", "tilt", "diagonal", "zoomed", "turned", "tinted", "glowing", "spotlit"}


@pytest.fixture(scope="module")
def shots() -> list[Footage]:
    return [footage(FOOTAGE / name) for name in ("cockatoo.mp4", "dog.mp4", "juggling.mp4")]


def detected(folder: Path, frames: list[np.ndarray] | np.ndarray, codec: tuple) -> list[Transition]:
    name, options, suffix = codec
    path = encode(list(frames), folder / f"x.{suffix}", codec=name, options=dict(options))
    return list(find_shots(decode_signals(path).table).transitions)


@pytest.mark.parametrize(
    ("law", "seed"),
    [
        ("pan", 7),
        ("tilt", 2),
        ("zoomed", 3),
        ("shaken", 3),
        ("jerky", 5),
        ("tinted", 6),
        ("glowing", 7),
        ("titled", 8),
        ("strobed", 9),
    ],
)
def test_what_moves_or_changes_its_light_is_one_shot(tmp_path: Path, shots: list[Footage], law: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = {**KNOWN, **KEPT_BACK}[law](shots[seed % 3], 60, rng)
    assert detected(tmp_path, frames, CODECS[seed % 3]) == []


@pytest.mark.parametrize("seed", [1, 3, 4, 6])
def test_edits_of_moving_shots(tmp_path: Path, shots: list[Footage], seed: int) -> None:
    made = edited(shots, np.random.default_rng(seed))
    tally = Tally()
    tally.count(made.truth, detected(tmp_path, made.frames, CODECS[seed % 3]))
    assert (tally.cuts_found, tally.gradual_found, tally.false) == (tally.cuts, tally.gradual, 0)


def test_what_leaves_a_black_picture_is_no_dissolve(tmp_path: Path) -> None:
    frames = np.zeros((60, 180, 320, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:, max(0, 30 - 5 * i) : max(0, 200 - 5 * i)] = 200
    assert detected(tmp_path, frames, CODECS[0]) == []


def test_a_dark_shot_that_moves_fades_on_both_sides(tmp_path: Path, shots: list[Footage]) -> None:
    rng = np.random.default_rng(3)
    dark = KNOWN["shaken"](shots[0], 60, rng) // 5
    made = Sequence()
    made.cut(dark)
    made.fade(KNOWN["pan"](shots[1], 60, rng), out=6, hold=2, back=6)
    found = detected(tmp_path, made.frames, CODECS[0])
    assert [t.kind for t in found] == ["fade"]
    assert abs(found[0].first_frame - made.truth[0]["start"]) <= 2
    assert abs(found[0].last_frame - made.truth[0]["end"] - 1) <= 2


def blobs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (12, 18)).astype(np.float32)
    return np.kron(small, np.ones((4, 4), np.float32))


def view(seed: int, down: int, across: int) -> np.ndarray:
    return blobs(seed)[10 + down : 28 + down, 18 + across : 50 + across]


class TestRegistration:
    @pytest.mark.parametrize(("down", "across"), [(0, 0), (3, 0), (0, -9), (-5, 14)])
    def test_a_shift_is_found_and_motion_leads_along_it(self, down: int, across: int) -> None:
        a, b = view(1, 0, 0), view(1, down, across)
        assert best_shifts(a, b)[0] == (down, across)
        assert motion_likeness(a, b)[0] > 0.95

    def test_of_shifts_as_good_the_one_that_shares_most_is_tried(self) -> None:
        bars = np.tile(np.kron(np.array([120, 90, 30, 200, 60, 170, 20], np.float32), np.ones(9)), (18, 1))
        assert (0, 4) in best_shifts(bars[:, :32], bars[:, 4:36])

    def test_motion_leads_to_no_other_picture(self) -> None:
        moved, still = motion_likeness(view(1, 0, 0), view(2, 0, 0))
        assert moved < 0.9
        assert still < 0.3

    def test_motion_or_mixture(self) -> None:
        a, b = view(1, 0, 0), view(2, 0, 0)
        assert motion_over_mixture(a, (a + b) / 2, b, 0.5) > 4
        assert motion_over_mixture(a, view(1, 0, 2), view(1, 0, 4), 0.5) < 0.5

    def test_light_keeps_ranks_whatever_its_curve(self) -> None:
        a = view(3, 0, 0)
        assert rank_likeness(a, 255 * (a / 255) ** 2.2) == pytest.approx(1)
        assert rank_likeness(a, np.clip(a * 2.5, 0, 255)) > 0.95
        assert abs(rank_likeness(a, view(4, 0, 0))) < 0.3
        assert rank_likeness(np.full_like(a, 40), np.full_like(a, 200)) == 0

    def test_an_overlay_leaves_most_as_it_is(self) -> None:
        a = view(5, 0, 0)
        titled = a.copy()
        titled[13:] = 250
        assert kept_share(a, titled) == pytest.approx(13 / 18, abs=0.06)
        assert kept_share(a, view(6, 0, 0)) < 0.2


@pytest.mark.soak
@pytest.mark.skipif(not (DATA / "videos").exists(), reason=f"no videos at {DATA}; RUSHES_DATA names the folder")
def test_held_out_sources_laws_and_codecs(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    found = [footage(DATA / "videos" / name) for name in HELD_OUT_SOURCES]
    made = wrong = asked = wrong_asked = 0
    for name, law in {**KNOWN, **KEPT_BACK}.items():
        for _ in range(4):
            frames = law(found[int(rng.integers(len(found)))], 75, rng)
            false = bool(detected(tmp_path, frames, HELD_OUT_CODECS[made % 3]))
            made, wrong = made + 1, wrong + false
            asked, wrong_asked = asked + (name in CAMERA_AND_LIGHT), wrong_asked + (false and name in CAMERA_AND_LIGHT)
    tally = Tally()
    for i in range(20):
        pick = [found[j] for j in rng.choice(len(found), 4, replace=False)]
        sequence = edited(pick, rng)
        tally.count(sequence.truth, detected(tmp_path, sequence.frames, HELD_OUT_CODECS[i % 3]))
    print(f"one shot each: {wrong} of {made} with a transition, camera and light {wrong_asked} of {asked}; {tally}")
    assert wrong_asked <= asked / 50 + 1
    assert wrong <= made / 10
    assert tally.hard_f1 >= 0.98
    assert tally.gradual_found >= 0.9 * tally.gradual
    assert tally.false <= 2
