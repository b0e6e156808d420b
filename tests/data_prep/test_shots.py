"""The cut detector on composed sequences and on the labelled ones."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from data_prep.shots.shots import find_shots
from data_prep.signals.signals import decode_signals
from stages.core.measures.shots.detector import PRESETS
from tests.data_prep.sequences import Sequence, encode, read_shot

DATA = Path(os.environ.get("RUSHES_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
FOOTAGE = Path(__file__).parents[2] / "data_prep" / "footage"
labelled = pytest.mark.skipif(
    not (DATA / "cuts" / "score.py").exists(),
    reason=f"no labelled sequences at {DATA}; RUSHES_DATA names the folder",
)


def scene(seed: int, n: int = 40, drift: float = 0.6) -> np.ndarray:
    """A slowly moving shot of blobs, [n, 180, 320, 3], unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (240, 480, 3), dtype=np.uint8), (0, 0), 14)
    wide = cv2.normalize(noise, None, 20, 235, cv2.NORM_MINMAX)
    return np.stack([cv2.getRectSubPix(wide, (320, 180), (160 + drift * i, 120)) for i in range(n)])


def detect(tmp_path: Path, sequence: Sequence, preset: str = "broadcast", **how) -> list[tuple[str, int, int]]:
    path = encode(sequence.frames, tmp_path / "x.mp4", options={"crf": "20", "preset": "veryfast"}, **how)
    found = find_shots(decode_signals(path).table, PRESETS[preset])
    return [(t.kind, t.first_frame, t.last_frame) for t in found.transitions]


def agree(found: list[tuple[str, int, int]], truth: list[tuple[str, int, int]], slack: int = 2) -> bool:
    return [f[0] for f in found] == [t[0] for t in truth] and all(
        abs(f[1] - t[1]) <= slack and abs(f[2] - t[2]) <= slack for f, t in zip(found, truth, strict=True)
    )


class TestKinds:
    def test_hard_cuts_are_exact_at_any_rate(self, tmp_path: Path) -> None:
        for fps in (12, 25, 60):
            made = Sequence()
            for seed in range(4):
                made.cut(scene(seed, 25))
            assert detect(tmp_path, made, fps=fps) == [("cut", f, f) for f in (25, 50, 75)]

    def test_variable_frame_rate(self, tmp_path: Path) -> None:
        made = Sequence()
        for seed in range(3):
            made.cut(scene(seed, 25))
        gaps = random.Random(1)
        pts = np.cumsum([gaps.choice([17, 33, 40, 100]) for _ in made.frames]).tolist()
        assert detect(tmp_path, made, pts=pts) == [("cut", 25, 25), ("cut", 50, 50)]

    @pytest.mark.parametrize(
        ("mask", "length"),
        [("dissolve", 4), ("dissolve", 12), ("dissolve", 30), ("left", 4), ("up", 12), ("diagonal", 30)],
    )
    def test_dissolves_and_wipes(self, tmp_path: Path, mask: str, length: int) -> None:
        made = Sequence()
        made.cut(scene(11, 60))
        made.mixed(scene(12, 70), length, mask)
        start = 60 - length
        kind = "dissolve" if mask == "dissolve" else "wipe"
        assert agree(detect(tmp_path, made), [(kind, start, 60)], slack=max(3, length // 6))

    @pytest.mark.parametrize("colour", [0, 255])
    @pytest.mark.parametrize(("out", "hold", "back"), [(10, 5, 10), (5, 0, 6), (20, 30, 8)])
    def test_a_fade_through_black_or_white_is_one_row(
        self, tmp_path: Path, out: int, hold: int, back: int, colour: int
    ) -> None:
        made = Sequence()
        made.cut(scene(21, 50))
        made.fade(scene(22, 50), out, hold, back, colour)
        assert agree(detect(tmp_path, made), [("fade", 50 - out, 50 + hold + back)])

    def test_a_cut_to_black_and_a_fade_in_are_two_rows_and_so_the_other_way_round(self, tmp_path: Path) -> None:
        made = Sequence()
        made.cut(scene(31, 40))
        made.fade(scene(32, 60), 0, 8, 12)
        made.fade(scene(33, 40), 12, 8, 0)
        truth = [("cut", 40, 40), ("fade", 48, 60), ("fade", 96, 108), ("cut", 116, 116)]
        assert agree(detect(tmp_path, made), truth)

    def test_fades_at_the_ends_are_trimmed_and_are_no_rows(self, tmp_path: Path) -> None:
        made = Sequence()
        black = np.zeros((5, 180, 320, 3), np.uint8)
        made.cut(black)
        made.fade(scene(41, 60), 0, 0, 15)
        made.fade(np.concatenate([black, black]), 15, 0, 0)
        path = encode(made.frames, tmp_path / "x.mp4", options={"crf": "20"})
        shots = find_shots(decode_signals(path).table)
        assert shots.transitions == ()
        assert shots.first == pytest.approx(20, abs=2)
        assert shots.end == pytest.approx(50, abs=2)


class TestDistractors:
    @pytest.mark.parametrize(("length", "colour"), [(1, 255), (3, 255), (2, 0)])
    def test_flashes(self, tmp_path: Path, length: int, colour: int) -> None:
        made = Sequence()
        made.cut(scene(51, 60))
        made.flash(30, length, colour)
        assert detect(tmp_path, made) == []

    def test_whip_pans_and_changes_of_exposure(self, tmp_path: Path) -> None:
        made = Sequence()
        made.cut(scene(52, 90))
        made.whip(20, 7)
        made.expose(40, 20, 0.5)
        made.expose(70, 1, 1.5)
        assert detect(tmp_path, made) == []

    def test_a_pan_is_no_dissolve(self, tmp_path: Path) -> None:
        made = Sequence()
        made.cut(scene(53, 70, drift=2.2))
        assert detect(tmp_path, made) == []

    def test_a_letterbox_with_a_logo(self, tmp_path: Path) -> None:
        made = Sequence()
        made.cut(scene(54, 30))
        made.cut(scene(55, 30))
        for frame in made.frames:
            frame[:60] = frame[120:] = 0
            frame[10:30, 220:300] = (250, 250, 250)
        assert detect(tmp_path, made) == [("cut", 30, 30)]

    def test_low_light(self, tmp_path: Path) -> None:
        made = Sequence()
        made.cut(scene(56, 30))
        made.cut(scene(57, 30))
        made.frames = [np.uint8(f * 0.2) for f in made.frames]
        assert detect(tmp_path, made) == [("cut", 30, 30)]


class TestLongSources:
    @pytest.mark.soak
    def test_parts_give_what_the_whole_gives(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = Sequence()
        made.cut(scene(61, 60))
        for seed in range(62, 67):
            made.mixed(scene(seed, 70), 12, "dissolve")
            made.cut(scene(seed + 20, 50))
        path = encode(made.frames, tmp_path / "x.mp4", options={"crf": "18", "preset": "veryfast"})
        table = decode_signals(path).table
        whole = find_shots(table)
        monkeypatch.setattr("data_prep.shots.shots._CORE", 90)
        parts = find_shots(table)
        assert len(whole.transitions) == 10
        assert [(t.kind, t.first_frame, t.last_frame) for t in parts.transitions] == [
            (t.kind, t.first_frame, t.last_frame) for t in whole.transitions
        ]

    def test_a_table_of_nothing_or_one_frame(self) -> None:
        from data_prep.signals.signals import FRAMES

        assert find_shots(pa.Table.from_batches([], FRAMES)).transitions == ()


def scored(files: list[dict], preset: str = "broadcast") -> dict[str, int]:
    """How the labelled files score, by the rules of their own score.py."""
    spec = importlib.util.spec_from_file_location("score", DATA / "cuts" / "score.py")
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    total = {"hard": 0, "hard_of": 0, "gradual": 0, "gradual_of": 0, "false": 0}
    for file in files:
        shots = find_shots(decode_signals(DATA / "cuts" / "dev" / file["file"]).table, PRESETS[preset])
        found = [(t.first_frame, t.last_frame, t.kind) for t in shots.transitions]
        result = score.score_sequence(file["transitions"], found)
        for group in ("hard", "gradual"):
            total[group] += result[group][0]
            total[f"{group}_of"] += result[group][1]
        total["false"] += result["false"]
    return total


@labelled
@pytest.mark.parametrize(
    "name",
    ["dev_04_fades_mpeg4_avi.avi", "dev_06_montage_short_shots.mp4", "dev_08_whip_pans.mp4", "dev_12_vfr_mkv.mkv"],
)
def test_labelled_sequences(name: str) -> None:
    files = [f for f in json.loads((DATA / "cuts" / "truth.json").read_text())["files"] if f["file"] == name]
    total = scored(files)
    assert total["hard"] == total["hard_of"]
    assert total["gradual"] == total["gradual_of"]
    assert total["false"] == 0


@labelled
@pytest.mark.soak
def test_all_labelled_sequences() -> None:
    total = scored(json.loads((DATA / "cuts" / "truth.json").read_text())["files"])
    assert 2 * total["hard"] / (total["hard"] + total["hard_of"] + total["false"]) >= 0.98
    assert total["gradual"] >= 0.9 * total["gradual_of"]
    assert total["false"] <= 2


@pytest.mark.skipif(not FOOTAGE.exists(), reason="the packaged footage is not there")
def test_real_shots_composed(tmp_path: Path) -> None:
    size, made = (320, 180), Sequence()
    dog, juggling, cockatoo = (read_shot(FOOTAGE / f"{n}.mp4", 0, 45, size) for n in ("dog", "juggling", "cockatoo"))
    made.cut(dog)
    made.cut(juggling)
    made.mixed(cockatoo, 12, "dissolve")
    made.fade(dog, 8, 3, 8)
    found = detect(tmp_path, made)
    assert agree(found, [("cut", 45, 45), ("dissolve", 78, 90), ("fade", 115, 134)], slack=3)
