"""Videos as bytes: deterministic, faithful in colour and time, and clear about what is wrong."""

from __future__ import annotations

import contextlib
import io

import av
import numpy as np
import pytest

from stages.core.media import BadMedia, read_fps, read_frames, write_jpeg, write_video

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


def test_an_encoder_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no-such-preset"):
        write_video(bars(), 8, preset="no-such-preset")


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
