"""Frames at rest: every pixel back as it was, the same bytes however the frames came."""

from __future__ import annotations

import io
import re
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.ffmpeg import Feed, ffmpeg_binary
from stages.core.lossless import LosslessWriter
from stages.core.media import VideoWriter, read_fps, read_frames, write_video


def noise(frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 5), st.integers(0, 9))
@settings(deadline=None, max_examples=8)
def test_every_pixel_comes_back_in_any_size(tmp_path_factory, height, width, count, seed):
    frames = noise(count, height, width, seed)
    target = tmp_path_factory.mktemp("x") / "video.mkv"
    with LosslessWriter(target, 24000 / 1001) as video:
        video.write(frames)
    np.testing.assert_array_equal(read_frames(target), frames)
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"
    assert read_fps(target) == pytest.approx(24000 / 1001, rel=1e-3)


def test_the_bytes_do_not_depend_on_the_pieces(tmp_path):
    frames, made = noise(7, 32, 48), []
    for number, cuts in enumerate(([], [1], [2, 5])):
        pieces = np.split(frames, cuts)
        targets = tmp_path / f"{number}.mkv", tmp_path / f"{number}.mp4"
        with LosslessWriter(targets[0], 8) as whole, VideoWriter(targets[1], 8) as video:
            for piece in pieces:
                whole.write(piece)
                video.write(piece)
        assert whole.count == video.count == 7
        made.append([t.read_bytes() for t in targets])
    assert made[0] == made[1] == made[2]
    assert made[0][1] == write_video(frames, 8)
    assert not re.search(rb"Lav[fc]\d", made[0][0]), "nothing of the machine is in the bytes"
    with av.open(io.BytesIO(made[0][0])) as container:
        assert all(p.is_keyframe for p in container.demux(video=0) if p.size)


@pytest.mark.parametrize("writer", [LosslessWriter, VideoWriter])
def test_a_writer_refuses_other_forms_and_ends_where_its_body_fails(tmp_path, writer):
    with pytest.raises(ValueError, match=r"before were \[32, 48, 3\], these are \[32, 32, 3\]"):  # noqa: PT012, SIM117
        with writer(tmp_path / "a.mkv", 8) as video:
            video.write(noise(1, 32, 48))
            video.write(noise(1, 32, 32))
    with pytest.raises(ValueError, match="at least one frame"), writer(tmp_path / "b.mkv", 8):
        pass
    with pytest.raises(KeyError), writer(tmp_path / "c.mkv", 8) as video:  # noqa: PT012
        video.write(noise(1, 32, 48))
        raise KeyError
    assert video._feed._process.poll() is not None, "ffmpeg was ended"


def test_what_ffmpeg_says_is_the_error_also_where_it_ends_before_it_was_fed(tmp_path: Path):
    for command in ([ffmpeg_binary(), "-hide_banner", "-no-such-option"], [ffmpeg_binary(), "-i", "pipe:", "-f", "no"]):
        with pytest.raises(RuntimeError, match="ffmpeg failed"), Feed(command, tmp_path / "x.mp4") as feed:  # noqa: PT012
            for _ in range(100):
                feed.write(b"0" * 2**20)
    assert not (tmp_path / "x.mp4").exists()
