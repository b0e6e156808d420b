"""The pass over a source: exact frames and times, sampled columns, hostile files, and metrics of constructed clips."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.shots.shots import find_shots
from data_prep.shots.spans import SpanConfig, clip_spans
from data_prep.signals.aggregate import METRICS, aggregate
from data_prep.signals.signals import FRAMES, Clock, Rates, SignalConfig, decode_signals
from stages.core.measures.shots.detector import Shots, Transition
from tests.data_prep.sequences import encode

DATA = Path(os.environ.get("RUSHES_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
SIZE = (320, 180)


def scene(seed: int = 0, size: tuple[int, int] = (480, 270)) -> np.ndarray:
    """A textured still picture with colour, [h, w, 3]."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8), (0, 0), 4)
    return cv2.normalize(noise, None, 30, 220, cv2.NORM_MINMAX)


def window(picture: np.ndarray, x: float = 0, y: float = 0) -> np.ndarray:
    """The 320 x 180 part of a picture whose middle is shifted by x, y pixels."""
    height, width = picture.shape[:2]
    return cv2.getRectSubPix(picture, SIZE, ((width - 1) / 2 + x, (height - 1) / 2 + y))


def clip(tmp_path: Path, frames: list[np.ndarray], name: str = "clip.mp4", **how) -> Path:
    how = {"options": {"crf": "16", "preset": "veryfast"}, **how}
    return encode(frames, tmp_path / name, **how)


def metrics(tmp_path: Path, frames: list[np.ndarray], **how) -> dict:
    table = decode_signals(clip(tmp_path, frames, **how)).table
    return aggregate(table, 0, len(table))


STILL = [window(scene())] * 50


class TestPass:
    def test_every_frame_has_a_row_with_its_own_integer_time(self, tmp_path: Path) -> None:
        gaps = [0, 40, 80, 200, 240, 900, 1300, 1340]
        signals = decode_signals(clip(tmp_path, STILL[: len(gaps)], "v.mkv", pts=gaps))
        assert signals.table.schema == FRAMES
        assert signals.table.column("frame").to_pylist() == list(range(len(gaps)))
        assert [p * signals.time_base for p in signals.table.column("pts").to_pylist()] == [
            Fraction(g, 1000) for g in gaps
        ]
        assert not signals.truncated
        assert signals.decode_error is None

    def test_costly_signals_keep_their_rate_whatever_the_frame_rate(self, tmp_path: Path) -> None:
        for fps, codec, name in ((12, "libx264", "a.mp4"), (60, "libx264", "b.mp4")):
            table = decode_signals(clip(tmp_path, STILL[:1] * fps * 3, name, codec=codec, fps=fps)).table
            assert len(table) - table.column("sharpness").null_count == 3
            assert 17 <= len(table) - table.column("speed").null_count <= 36
            assert table.column("luma").null_count == table.column("signature").null_count == 0

    def test_thumbnails_are_bounded_and_spread(self, tmp_path: Path) -> None:
        config = SignalConfig(thumbnails=8, rates=Rates(thumbnails=10.0))
        pictures = decode_signals(clip(tmp_path, STILL * 5, fps=25), config).thumbnails
        frames = [p.frame for p in pictures]
        assert 4 <= len(frames) <= 8
        assert frames[0] == 0
        assert frames[-1] > 150
        jpeg = cv2.imdecode(np.frombuffer(pictures[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert jpeg.shape == (144, 256, 3)
        truth = cv2.cvtColor(cv2.resize(STILL[0], (256, 144), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        assert np.abs(jpeg.astype(int) - truth).mean() < 8

    @pytest.mark.parametrize(
        ("codec", "pix_fmt", "size"),
        [
            ("libx264", "yuv420p10le", (320, 180)),
            ("ffv1", "yuv444p", (321, 181)),
            ("mjpeg", "yuvj422p", (98, 130)),
            ("ffv1", "gray", (64, 64)),
            ("ffv1", "bgr0", (66, 34)),
            ("libx264", "yuv420p", (640, 16)),
        ],
    )
    def test_any_pixel_format_and_size(self, tmp_path: Path, codec: str, pix_fmt: str, size: tuple[int, int]) -> None:
        picture = cv2.resize(scene(), size)
        with av.open(str(tmp_path / "x.mkv"), "w") as out:
            stream = out.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            for _ in range(6):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)))
            out.mux(stream.encode(None))
        signals = decode_signals(tmp_path / "x.mkv")
        assert len(signals.table) == 6
        assert (signals.width, signals.height) == size
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        assert signals.table.column("luma")[3].as_py() == pytest.approx(grey.mean(), abs=6)
        assert signals.table.column("contrast")[3].as_py() == pytest.approx(grey.std(), rel=0.25)

    def test_rotation_is_undone(self, tmp_path: Path) -> None:
        pytest.importorskip("imageio_ffmpeg")
        import subprocess

        import imageio_ffmpeg

        top = STILL[0].copy()
        top[:90] = 230
        plain, turned, upright = clip(tmp_path, [top] * 10), tmp_path / "turned.mp4", tmp_path / "upright.mp4"
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
        subprocess.run([*ffmpeg, "-display_rotation", "90", "-i", plain, "-c", "copy", turned], check=True)
        subprocess.run([*ffmpeg, "-i", turned, "-crf", "16", upright], check=True)
        ours, theirs = decode_signals(turned), decode_signals(upright)
        assert (ours.width, ours.height) == (theirs.width, theirs.height) == (180, 320)
        pictures = [np.asarray(s.table.column("signature")[5].as_py(), int) for s in (ours, theirs)]
        assert np.abs(pictures[0] - pictures[1]).mean() < 4

    def test_a_broken_file_gives_what_can_be_decoded_and_says_so(self, tmp_path: Path) -> None:
        moving = [window(scene(), x=i) for i in range(60)]
        path = clip(tmp_path, moving, "x.mkv", options={"crf": "16", "g": "10"})
        data = bytearray(path.read_bytes())
        half = tmp_path / "half.mkv"
        half.write_bytes(data[: len(data) // 2])
        assert 10 < len(decode_signals(half).table) < 55
        rng = np.random.default_rng(0)
        for at in rng.integers(len(data) // 4, len(data), 400):
            data[at] ^= 0xFF
        bad = tmp_path / "bad.mkv"
        bad.write_bytes(data)
        signals = decode_signals(bad)
        assert len(signals.table) >= 10
        assert np.all(np.diff(signals.table.column("pts").to_numpy()) > 0)
        few = decode_signals(bad, SignalConfig(max_errors=0))
        assert few.truncated == (few.broken > 0)

    def test_time_limit_ends_the_pass_early(self, tmp_path: Path) -> None:
        signals = decode_signals(clip(tmp_path, STILL * 6), time_limit_s=0.03)
        assert signals.truncated
        assert "time limit" in signals.decode_error
        assert 0 < len(signals.table) < 300

    def test_no_video_is_a_clear_error(self, tmp_path: Path) -> None:
        with av.open(str(tmp_path / "a.wav"), "w") as out:
            stream = out.add_stream("pcm_s16le", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.rate = 8000
            out.mux(stream.encode(frame))
        with pytest.raises(ValueError, match="no video stream"):
            decode_signals(tmp_path / "a.wav")


class TestClock:
    def clock(self) -> Clock:
        return Clock(SimpleNamespace(guessed_rate=Fraction(25), average_rate=None, time_base=Fraction(1, 1000)))

    def times(self, said: list[tuple[int | None, int | None]]) -> list[int]:
        clock = self.clock()
        timed = [t for i, s in enumerate(said) for t in clock.put(i, *s)] + clock.flush()
        assert [t.frame for t in timed] == list(range(len(said)))
        assert [t.said for t in timed] == [pts for pts, _ in said]
        return [t.pts for t in timed]

    def test_sound_times_stay_as_they_are(self) -> None:
        assert self.times([(t, t - 80) for t in (5, 45, 300, 301, 2**40)]) == [5, 45, 300, 301, 2**40]

    def test_without_times_the_frame_rate_decides(self) -> None:
        assert self.times([(None, None)] * 3) == [0, 40, 80]

    def test_where_pts_are_those_of_packets_dts_count(self) -> None:
        said = [(40, 40), (120, 80), (80, 120), (200, 160), (160, 200), (280, 240)]
        found = self.times(said)
        assert np.all(np.diff(found) > 0)
        assert found[-1] == pytest.approx(240, abs=40)

    def test_footage_joined_end_to_end_goes_on(self) -> None:
        again = [(t, t) for t in range(0, 2000, 40)] * 2
        assert self.times(again) == list(range(0, 4000, 40))

    def test_frames_that_share_a_time_are_spread_evenly(self) -> None:
        said = [(t, t) for t in range(0, 800, 80) for _ in range(2)]
        assert self.times(said) == list(range(0, 800, 40))

    def test_several_joints_are_counted_also_forward_ones_where_formats_know_breaks(self) -> None:
        stream = SimpleNamespace(guessed_rate=Fraction(25), average_rate=None, time_base=Fraction(1, 1000))
        for breaks, epochs in ((True, 3), (False, 2)):
            clock, timed = Clock(stream, breaks), []
            for start in (1400, 1400, 60_000, 0):
                timed += [t for i in range(50) for t in clock.put(None, start + 40 * i, start + 40 * i)]
            assert timed[-1].epoch == epochs
            if breaks:
                assert [t.pts for t in timed] == list(range(1400, 1400 + 200 * 40, 40))

    @given(st.lists(st.tuples(*[st.none() | st.integers(-(2**62), 2**62)] * 2), max_size=60))
    def test_times_always_grow(self, said: list[tuple[int | None, int | None]]) -> None:
        assert np.all(np.diff(np.array(self.times(said), object)) > 0)


class TestMetrics:
    def test_a_still_clip(self, tmp_path: Path) -> None:
        found = metrics(tmp_path, STILL)
        assert set(METRICS) <= set(found)
        assert found["camera_motion"] == "static"
        assert found["motion"] < 0.003
        assert found["static_ratio"] > 0.95
        assert found["shake"] < 0.003
        assert found["flicker"] < 0.3
        assert found["letterbox"] == found["pillarbox"] == 0
        assert len(found["phash"]) == 2

    def test_a_known_pan(self, tmp_path: Path) -> None:
        speed = 1.5 * 25 / np.hypot(*SIZE)  # pixels a frame
        found = metrics(tmp_path, [window(scene(), x=1.5 * i - 35) for i in range(50)])
        assert found["camera_motion"] == "pan"
        assert found["motion"] == pytest.approx(speed, rel=0.12)
        assert found["static_ratio"] < 0.1
        assert found["shake"] < 0.02

    def test_shake_grows_with_its_amplitude(self, tmp_path: Path) -> None:
        offsets = np.random.default_rng(3).normal(0, 1, (50, 2))
        small, large = (
            metrics(tmp_path, [window(scene(), *(a * o)) for o in offsets], name=f"{a}.mp4") for a in (1.0, 3.0)
        )
        assert large["camera_motion"] == "handheld"
        assert large["shake"] > 0.05
        assert large["shake"] == pytest.approx(3 * small["shake"], rel=0.3)

    def test_blur_noise_and_compression(self, tmp_path: Path) -> None:
        fine = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
        fine = cv2.resize(fine, SIZE, interpolation=cv2.INTER_CUBIC)
        sharp = metrics(tmp_path, [fine] * 10, name="s.mp4")
        soft = metrics(tmp_path, [cv2.GaussianBlur(fine, (0, 0), 2)] * 10, name="b.mp4")
        clean = metrics(tmp_path, STILL[:10], name="c.mp4")
        poor = metrics(tmp_path, STILL[:10], name="p.avi", codec="mpeg4", options={"qmin": "31", "qscale": "31"})
        assert soft["sharpness"] < 0.3 * sharp["sharpness"]
        assert poor["blockiness"] > clean["blockiness"] + 0.3

    def test_brightness_flicker_and_bars(self, tmp_path: Path) -> None:
        dim = metrics(tmp_path, [np.uint8(STILL[0] * 0.5)] * 10, name="d.mp4")
        plain = metrics(tmp_path, STILL[:10], name="e.mp4")
        assert dim["luma"] == pytest.approx(plain["luma"] / 2, abs=2)
        assert dim["contrast"] == pytest.approx(plain["contrast"] / 2, rel=0.1)
        flutter = [np.uint8(STILL[0] * (1.0 if i % 2 else 0.9)) for i in range(30)]
        assert metrics(tmp_path, flutter, name="f.mp4")["flicker"] == pytest.approx(0.2 * plain["luma"], rel=0.15)
        boxed = STILL[0].copy()
        boxed[:27] = boxed[-27:] = 0
        found = metrics(tmp_path, [boxed] * 10, name="g.mp4")
        assert found["letterbox"] == pytest.approx(0.3, abs=0.012)
        assert found["pillarbox"] == 0
        assert found["black_ratio"] == pytest.approx(0.3, abs=0.02)

    def test_zoom_tilt_and_roll_are_named(self, tmp_path: Path) -> None:
        wide, middle = scene(), (239.5, 134.5)
        turned = [cv2.getRotationMatrix2D(middle, 0.5 * i, 1) for i in range(50)]
        grown = [cv2.getRotationMatrix2D(middle, 0, 1.006**i) for i in range(50)]
        for label, moves in (("roll", turned), ("zoom", grown)):
            frames = [window(cv2.warpAffine(wide, m, (480, 270), borderMode=cv2.BORDER_REFLECT)) for m in moves]
            found = metrics(tmp_path, frames, name=f"{label}.mp4")
            assert (found["camera_motion"], found["shake"] < 0.02) == (label, True)
        assert metrics(tmp_path, [window(wide, y=1.0 * i - 25) for i in range(50)])["camera_motion"] == "tilt"

    def test_what_passes_before_a_camera_that_stands_is_no_camera_motion(self, tmp_path: Path) -> None:
        frames = [STILL[0].copy() for _ in range(60)]
        for i in range(12):
            frames[20 + i][15 * i : 15 * i + 90, 40:290] = window(scene(9))[:90, :250][: 180 - 15 * i]
        found = metrics(tmp_path, frames)
        assert found["camera_motion"] == "static"
        assert found["motion"] > 0.01

    def test_a_caption_that_changes_on_a_plain_ground_moves_no_camera(self, tmp_path: Path) -> None:
        frames = []
        for i in range(30):
            frames.append(np.full((180, 320, 3), 120, np.uint8))
            cv2.putText(frames[-1], f"Frame {i * 37}", (170, 160), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
        assert metrics(tmp_path, frames)["camera_motion"] == "static"

    def test_noise_raises_sharpness_and_leaves_brightness(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(4)
        noisy = [np.uint8(np.clip(f + rng.normal(0, 20, f.shape), 0, 255)) for f in STILL[:10]]
        clean, rough = metrics(tmp_path, STILL[:10], name="c.mp4"), metrics(tmp_path, noisy, name="n.mp4")
        assert rough["sharpness"] > 5 * clean["sharpness"]
        assert rough["luma"] == pytest.approx(clean["luma"], abs=3)

    def test_colours_are_those_of_the_picture_within_its_bars(self, tmp_path: Path) -> None:
        grass = np.zeros((180, 320, 3), np.uint8)
        grass[40:140] = (110, 130, 40)
        grass[40:140:7] = (150, 170, 70)
        assert metrics(tmp_path, [grass] * 10)["colours"] == ["green"]

    def test_nothing_sampled_is_null(self, tmp_path: Path) -> None:
        table = decode_signals(clip(tmp_path, STILL[:12])).table
        found = aggregate(table, 1, 2)
        for name in ("motion", "shake", "camera_motion", "sharpness", "blockiness", "letterbox"):
            assert found[name] is None
        assert found["luma"] > 0


class TestSpans:
    def table(self, tmp_path: Path, n: int = 100):
        return decode_signals(clip(tmp_path, STILL[:1] * n, fps=25)).table

    def test_clips_leave_out_transition_frames_and_leading_fades(self, tmp_path: Path) -> None:
        table = self.table(tmp_path)
        shots = Shots((Transition("cut", 30, 30, 0.9), Transition("dissolve", 60, 70, 0.9)), 5, 95)
        spans = clip_spans(shots, table, SpanConfig(min_s=0.5))
        assert [(s.start_frame, s.end_frame, s.boundary_in, s.boundary_out) for s in spans] == [
            (5, 30, "edge", "cut"),
            (30, 60, "cut", "dissolve"),
            (70, 95, "dissolve", "edge"),
        ]
        pts = table.column("pts").to_pylist()
        assert [(s.start_pts, s.end_pts) for s in spans] == [(pts[5], pts[30]), (pts[30], pts[60]), (pts[70], pts[95])]

    def test_long_shots_are_split_evenly_and_short_ones_dropped(self, tmp_path: Path) -> None:
        table = self.table(tmp_path)
        spans = clip_spans(Shots((Transition("cut", 10, 10, 0.9),), 0, 100), table, SpanConfig(min_s=1, max_s=1.5))
        assert [(s.start_frame, s.end_frame) for s in spans] == [(10, 40), (40, 70), (70, 100)]
        assert [s.boundary_in for s in spans] == ["cut", "split", "split"]
        assert spans[-1].end_pts == table.column("pts")[99].as_py() + 512

    def test_trim(self, tmp_path: Path) -> None:
        spans = clip_spans(
            Shots((Transition("cut", 50, 50, 0.9),), 0, 100), self.table(tmp_path), SpanConfig(min_s=0.2, trim_s=0.2)
        )
        assert [(s.start_frame, s.end_frame) for s in spans] == [(0, 45), (55, 100)]

    def test_the_end_of_a_whole_source_is_its_last_frame(self, tmp_path: Path) -> None:
        table = self.table(tmp_path, 30)
        spans = clip_spans(find_shots(table), table)
        assert [(s.start_frame, s.end_frame) for s in spans] == [(0, 30)]
