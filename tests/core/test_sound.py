"""Sound beside pictures: of their length, in sync, and in the mp4 as it was."""

from __future__ import annotations

import io
import math

import av
import numpy as np
import pytest

from stages.core.media import read_frames, with_tags, write_video
from stages.core.sound import BadSound, Sound

FPS, COUNT = 8.0, 9


def tone(rate: int, seconds: float, begins: float = 0.0) -> Sound:
    """440 Hz at half of full scale, in two channels, silent up to `begins`."""
    time = np.arange(round(seconds * rate)) / rate
    wave = np.where(time < begins, 0, 0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    return Sound(np.stack([wave, wave]), rate)


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("rate", [16000, 24000, 48000])
def test_what_is_heard_begins_and_ends_with_what_is_seen(rate):
    seconds = COUNT / FPS
    data = write_video(frames(), FPS, sound=tone(rate, seconds, begins=0.5))
    assert write_video(frames(), FPS, sound=tone(rate, seconds, begins=0.5)) == data
    tagged = with_tags(data, {"title": "x"})
    for file in (data, tagged):
        with av.open(io.BytesIO(file)) as container:
            (seen,), (heard,) = container.streams.video, container.streams.audio
            assert (heard.codec_context.name, heard.rate, heard.start_time, seen.start_time) == ("aac", rate, 0, 0)
            assert float(heard.duration * heard.time_base) == float(seen.duration * seen.time_base) == seconds
            found = np.concatenate([f.to_ndarray() for f in container.decode(heard)], axis=1)
        onset = np.argmax(np.abs(found[0]) > 0.2) / rate
        assert abs(onset - 0.5) < 0.002
        loud = found[:, round(0.6 * rate) : round(seconds * rate)]
        assert abs(float(np.sqrt(np.mean(loud**2))) - 0.5 / math.sqrt(2)) < 0.01
    np.testing.assert_array_equal(read_frames(data), read_frames(write_video(frames(), FPS)))


def test_the_length_of_the_pictures_is_the_length_of_the_sound():
    sound = tone(1000, 1.0)
    short, long = sound.lasting(0.95, 0.06), sound.lasting(1.05, 0.06)
    assert (short.seconds, long.seconds) == (0.95, 1.05)
    np.testing.assert_array_equal(short.samples, sound.samples[:, :950])
    np.testing.assert_array_equal(long.samples[:, :1000], sound.samples)
    assert not long.samples[:, 1000:].any()
    with pytest.raises(BadSound, match=r"the sound lasts 1\.000 s and the pictures 1\.100 s"):
        sound.lasting(1.1, 0.06)


def test_loudness_is_that_of_full_scale_and_silence_has_none():
    assert Sound(np.ones((1, 8), np.float32), 8).loudness == 0
    assert tone(48000, 1.0).loudness == pytest.approx(-9.03, abs=0.01)
    assert Sound(np.zeros((2, 8), np.float32), 8).loudness is None


@pytest.mark.parametrize(
    ("samples", "rate", "said"),
    [
        (np.zeros((2, 8)), 8, r"must be float32 \[channels, samples\], this one is float64 \[2, 8\]"),
        (np.zeros((2, 0), np.float32), 8, "must be float32"),
        (np.zeros((8,), np.float32), 8, "must be float32"),
        (np.zeros((2, 8), np.float32), 0, "must have a rate of 1 to 192000"),
        (np.full((2, 8), np.nan, np.float32), 8, "16 of the 16 samples of the sound are not finite"),
    ],
)
def test_what_is_no_sound_is_refused(samples, rate, said):
    with pytest.raises(BadSound, match=said):
        Sound(samples, rate)
