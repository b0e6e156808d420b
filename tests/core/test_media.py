"""Videos as bytes: deterministic, faithful in colour and time, and clear about what is wrong."""

from __future__ import annotations

import contextlib
import io
import math
import re
import subprocess

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.core import media
from stages.core.errors import BadInput
from stages.core.media import (
    PRESETS,
    BadMedia,
    check_encoding,
    ffmpeg_binary,
    read_fps,
    read_frames,
    read_tags,
    with_tags,
    write_jpeg,
    write_video,
)

COLOURS = [(214, 30, 44), (30, 158, 56), (36, 64, 214), (236, 230, 50), (16, 16, 16), (238, 238, 238)]


def bars(frames: int = 5, height: int = 64) -> np.ndarray:
    """Vertical bars of known colours, each 32 wide, that move 4 pixels a frame."""
    row = np.repeat(np.array(COLOURS, np.uint8), 32, axis=0)
    picture = np.broadcast_to(row, (height, *row.shape))
    return np.stack([np.roll(picture, 4 * i, axis=1) for i in range(frames)])


@pytest.mark.parametrize(("count", "fps"), [(1, 8.0), (33, 16.0), (10, 24000 / 1001), (7, 29.97)])
def test_frames_and_rate_survive(count, fps):
    video = write_video(bars(count), fps)
    assert read_frames(video).shape == (count, 64, 192, 3)
    assert read_fps(video) == pytest.approx(fps, rel=1e-3)


def test_colours_survive_within_three_of_255():
    frames = bars(3)
    back = read_frames(write_video(frames, 8, crf=10)).astype(int)
    middles = np.arange(16, 192, 32)
    difference = np.abs(back[0, 32, middles] - frames[0, 32, middles].astype(int))
    assert difference.max() <= 3, difference


def test_motion_keeps_its_order():
    back = read_frames(write_video(bars(9), 8, crf=10)).astype(int)
    for index, frame in enumerate(bars(9).astype(int)):
        nearest = np.abs(back - frame).mean(axis=(1, 2, 3)).argmin()
        assert nearest == index


def test_equal_frames_give_equal_bytes_and_tags_are_kept():
    tags = {"title": "a red circle; 'quoted' = \"yes\" ünï", "comment": '{"seed": 3}'}
    first, second = (write_video(bars(), 8, metadata=tags) for _ in range(2))
    assert first == second
    assert first != write_video(bars(), 8, metadata={**tags, "comment": '{"seed": 4}'})
    with av.open(io.BytesIO(first)) as container:
        assert {k: container.metadata[k] for k in tags} == tags
        assert "creation_time" not in container.metadata
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.video[0].codec_context.name == "h264"


def test_nothing_of_the_machine_is_in_the_bytes():
    """The number of encoder threads, which changes the stream, is fixed, and the muxer leaves its version out."""
    video = write_video(bars(), 8)
    assert b" threads=1 lookahead_threads=1 " in video
    assert b"Lavf" not in video


def test_the_index_comes_before_the_pictures():
    video = write_video(bars(), 8)
    assert 0 < video.find(b"moov") < video.find(b"mdat")


def test_a_lower_crf_is_closer_and_larger():
    frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    fine, coarse = (write_video(frames, 8, crf=crf) for crf in (5, 40))
    assert len(fine) > 2 * len(coarse)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.zeros((3, 63, 64, 3), np.uint8), "even"),
        (np.zeros((3, 64, 64, 4), np.uint8), "uint8"),
        (np.zeros((3, 64, 64, 3), np.float32), "uint8"),
        (np.zeros((0, 64, 64, 3), np.uint8), "uint8"),
    ],
)
def test_frames_of_another_form_are_refused(frames, reason):
    with pytest.raises(ValueError, match=reason):
        write_video(frames, 8)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"fps": math.nan}, "fps is nan"),
        ({"fps": math.inf}, "fps is inf"),
        ({"fps": 1e9}, "fps is 1000000000.0"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": -8.0}, "fps is -8.0"),
        ({"fps": 1e-9}, "fps is 1e-09"),
        ({"fps": True}, "fps is True"),
        ({"fps": "8"}, "fps is '8'"),
        ({"crf": 52}, "crf is 52"),
        ({"crf": -1}, "crf is -1"),
        ({"crf": math.nan}, "crf is nan"),
        ({"preset": "no-such-preset"}, "preset is 'no-such-preset'; give one of ultrafast"),
        ({"preset": ""}, "preset is ''"),
    ],
)
def test_what_no_video_can_be_written_with_is_refused_before_work(values, says, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)  # no ffmpeg is started
    asked = {"fps": 8.0, **values}
    with pytest.raises(BadInput, match=re.escape(says)):
        check_encoding(**asked)
    with pytest.raises(BadInput, match=re.escape(says)):
        write_video(bars(), **asked)


@settings(deadline=None, max_examples=15)
@given(st.one_of(st.floats(0.01, 1000), st.sampled_from([24000 / 1001, 1000, 0.01])), st.floats(0, 51))
def test_what_passes_the_check_can_be_written(fps, crf):
    check_encoding(fps, crf, "ultrafast")
    video = write_video(bars(2), fps, crf=crf, preset="ultrafast")
    assert len(read_frames(video)) == 2


def test_the_presets_are_those_of_the_encoder():
    """x264 itself lists them when it is given one that it does not know."""
    source = ["-f", "lavfi", "-i", "color=black:s=16x16:d=0.1", "-c:v", "libx264", "-preset", "none", "-f", "null", "-"]
    said = subprocess.run([ffmpeg_binary(), "-hide_banner", *source], capture_output=True, text=True).stderr
    line = next(line for line in said.splitlines() if "presets:" in line)
    assert line.split("presets:")[1].split() == list(PRESETS)


def test_an_encoder_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(media, "check_encoding", lambda *_: None)
    with pytest.raises(RuntimeError, match="no-such-preset"):
        write_video(bars(), 8, preset="no-such-preset")


def test_every_colour_tag_stands_in_the_stream_and_in_the_container():
    """Primaries and transfer too: browsers decode as BT.601 where these are unknown."""
    for video in (write_video(bars(), 8), with_tags(write_video(bars(), 8), {"title": "x"})):
        with av.open(io.BytesIO(video)) as container:
            frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
        place = video.find(b"colrnclx")  # matrix, primaries, transfer as 16 bits each: ISO/IEC 14496-12
        assert video[place + 8 : place + 14] == b"\0\1\0\1\0\1"


def packets(video: bytes) -> list[bytes]:
    with av.open(io.BytesIO(video)) as container:
        return [bytes(p) for p in container.demux(video=0)]


def test_there_are_no_tags_by_default():
    found = set(read_tags(write_video(bars(), 8)))
    assert found == {"major_brand", "minor_version", "compatible_brands"}


@settings(deadline=None, max_examples=25)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
@example("a=b;c#d\\e\nf\rg\r\nh")
@example("x" * 400_000)
@example(" both ends ")
def test_tags_are_written_by_stream_copy(text):
    plain = write_video(bars(2), 8, preset="ultrafast", metadata={"title": "another", "artist": "somebody"})
    tagged = with_tags(plain, {"comment": text})
    assert {k: v for k, v in read_tags(tagged).items() if k in ("comment", "title", "artist")} == {"comment": text}
    assert packets(tagged) == packets(plain)
    assert b"Lavf" not in tagged
    assert 0 < tagged.find(b"moov") < tagged.find(b"mdat")


def test_equal_tags_give_equal_bytes_whatever_the_name_of_the_file(tmp_path):
    video = write_video(bars(), 8)
    (tmp_path / "other name.mp4").write_bytes(video)
    tags = {"title": "one", "comment": "two"}
    assert with_tags(video, tags) == with_tags(tmp_path / "other name.mp4", dict(reversed(tags.items())))


def test_what_is_no_video_cannot_be_tagged():
    with pytest.raises(RuntimeError, match="ffmpeg failed"):
        with_tags(b"no video", {"title": "x"})
    with pytest.raises(BadMedia):
        read_tags(b"no video")


@pytest.mark.parametrize("data", [b"", b"no video", write_jpeg(bars()[0])[:100]])
def test_broken_media_is_refused(data):
    with pytest.raises(BadMedia):
        read_frames(data)


def test_half_a_video_is_refused_or_shorter_never_padded():
    video = write_video(np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8), 8)
    with contextlib.suppress(BadMedia):
        assert len(read_frames(video[: len(video) // 2])) < 20


def test_a_jpeg_is_deterministic():
    assert write_jpeg(bars()[0]) == write_jpeg(bars()[0])
    assert write_jpeg(bars()[0])[:2] == b"\xff\xd8"
