"""Probing a source: the rules for what is not a plain video, exact times, and limits."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from data_prep.signals.signals import decode_signals
from data_prep.sources.ingest import Ingest, deadline, probe
from data_prep.sources.reading import open_media
from stages.core.ledger.storage import Storage
from stages.core.reach.containers import MAX_PIXELS
from stages.core.step import PermanentError, Skipped, Workspace
from tests.data_prep.hostile_makers import sound, turned
from tests.data_prep.little import video


def probed(path: Path) -> dict:
    return probe(path, lambda: None)


def two_streams(path: Path, defaults: tuple[bool, bool] = (False, False)) -> Path:
    """A small picture first, a larger one second."""
    with av.open(str(path), "w") as container:
        sizes = ((64, 48), (128, 96))
        streams = [container.add_stream("mpeg4", rate=10) for _ in sizes]
        for stream, (width, height), default in zip(streams, sizes, defaults, strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
        for _ in range(6):
            for stream in streams:
                picture = np.full((stream.height, stream.width, 3), 90, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("defaults", "index"), [((True, True), 0), ((True, False), 0), ((False, True), 1), ((False, False), 0)]
)
def test_of_several_video_streams_the_first_default_one_counts(tmp_path, defaults, index):
    path = two_streams(tmp_path / "x.mkv", defaults)
    found = probed(path)
    assert (found["stream_index"], found["n_video_streams"]) == (index, 2)
    signals = decode_signals(path)
    assert (signals.width, signals.height) == (found["width"], found["height"]) == [(64, 48), (128, 96)][index]


def test_codecs_are_called_by_their_own_names(tmp_path):
    """And not by what decodes them here: libdav1d, mp3float."""
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream("libsvtav1", rate=10), container.add_stream("libmp3lame", rate=44100)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        for _ in range(6):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            container.mux(pictures.encode(picture))
        quiet = av.AudioFrame.from_ndarray(np.zeros((2, 1152), np.int16).astype("<i2"), format="s16p", layout="stereo")
        quiet.rate = 44100
        container.mux(sound.encode(quiet))
        for stream in (pictures, sound):
            container.mux(stream.encode(None))
    found = probed(path)
    assert (found["codec"], found["audio_codec"]) == ("av1", "mp3")


def test_sound_alone_and_a_single_frame_are_passed_over(tmp_path):
    sound(tmp_path / "x.m4a", "aac", 16000)
    video(tmp_path / "one.mp4", frames=1)
    for name, metric in (("x.m4a", "video_streams"), ("one.mp4", "frames")):
        with pytest.raises(Skipped) as caught:
            probed(tmp_path / name)
        assert caught.value.reasons[0]["metric"] == metric


def test_display_size_follows_the_turn(tmp_path):
    turned(tmp_path / "x.mp4", 90)
    found = probed(tmp_path / "x.mp4")
    assert found["rotation"] in (90, 270)
    assert (found["width"], found["height"]) == (96, 64)
    assert (found["display_width"], found["display_height"]) == (64, 96)


def test_times_are_integers_of_the_stream(tmp_path):
    found = probed(video(tmp_path / "x.mkv", frames=31, fps=15))
    assert (found["time_base_num"], found["time_base_den"]) == (1, 1000)
    assert (found["start_pts"], found["n_frames"]) == (0, 31)
    assert found["duration_s"] == pytest.approx(31 / 15, abs=0.002)
    assert found["fps"] == pytest.approx(15, rel=0.002)
    assert not found["is_vfr"]


def test_no_picture_beyond_the_limit_is_decoded(tmp_path):
    data = bytearray(video(tmp_path / "x.gif", frames=4, codec="gif", pix_fmt="rgb8").read_bytes())
    data[6:10] = (16000).to_bytes(2, "little") * 2
    (tmp_path / "x.gif").write_bytes(data)
    assert MAX_PIXELS < 16000 * 16000
    with pytest.raises((PermanentError, Skipped)):
        probed(tmp_path / "x.gif")


def test_a_name_means_nothing_to_the_decoder(tmp_path):
    for name in ("concat:a|b.mp4", "%03d.mp4", b"not \xff utf8.mp4".decode("utf-8", "surrogateescape"), "x.müll"):
        path = tmp_path / name
        path.write_bytes(video(tmp_path / "sound.mkv", frames=3).read_bytes())
        with open_media(path) as container:
            assert len(container.streams.video) == 1


def test_the_time_limit_ends_a_probe(tmp_path):
    path = video(tmp_path / "x.mp4", frames=3)
    step = Ingest(Ingest.Config(time_limit_s=1e-9), Workspace(Storage(str(tmp_path / "store"))))
    with pytest.raises(TimeoutError, match="the limit of 1e-09 s"):
        step.process({"uri": str(path), "size": 1, "problem": ""})
    deadline(0)()
