"""Clips of pixels at rest: every value and sample back as it was, a frame at a time."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from stages.core.latents.artifacts import get_tracks, put_tracks
from stages.core.latents.form import BadLatent, LatentSpec
from stages.core.latents.frames import PIXELS, open_clip, put_clip
from stages.core.ledger.storage import Storage
from stages.core.sound import BadSound
from stages.core.step import Workspace

FRAMES, FPS, RATE = 9, 8.0, 24000


def spec(**values):
    given = {"width": 64, "height": 48, "n_frames": FRAMES, "fps": FPS, "fps_conditioning": 12.0, "seed": 3}
    return LatentSpec(
        family="whole", vae_id=PIXELS, spatial_ratio=1, temporal_ratio=1, scale=0.01, parents=("a",),
        **{**given, **values},
    )  # fmt: skip


def pixels(frames=FRAMES):
    return np.random.default_rng(0).random((3, frames, 48, 64), dtype=np.float32)


def sound(seconds=FRAMES / FPS):
    return np.random.default_rng(1).uniform(-1, 1, (2, round(RATE * seconds))).astype(np.float32)


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    """A store on local disk, and one that is none: its files are brought here to be read."""
    return Workspace(Storage(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}"))


def test_pixels_come_back_as_every_encoder_takes_them_and_sound_as_it_was(store):
    video, heard = pixels(), sound()
    row = put_tracks(store, {"video": video, "sound": heard, "sound_rate": np.array([RATE])}, spec())
    assert row["uri"].endswith(".mkv")
    assert row["std"] == pytest.approx(video.std(), abs=1e-4)
    with open_clip(store, row, PIXELS) as clip:
        pieces = list(clip.frames)
        assert [p.shape for p in pieces] == [(1, 48, 64, 3)] * FRAMES
        np.testing.assert_array_equal(np.concatenate(pieces), (np.moveaxis(video, 0, -1) * 255).round())
        assert clip.sound is not None
        assert clip.sound.rate == RATE
        np.testing.assert_array_equal(clip.sound.samples, heard)
        assert (clip.spec.n_frames, clip.spec.fps_conditioning, clip.spec.seed) == (FRAMES, 12.0, 3)
    tracks, found = get_tracks(store, row, PIXELS)
    assert np.abs(tracks["video"] - video).max() <= 0.5 / 255 + 1e-6
    assert found == clip.spec
    silent = put_tracks(store, {"video": video}, spec())
    with open_clip(store, silent) as clip:
        assert clip.sound is None


def test_frames_are_written_and_read_one_piece_at_a_time(store):
    alive = weakref.WeakSet()
    most = []

    class Piece(np.ndarray):
        """An array that can be watched."""

    def drawn():
        for number in range(FRAMES):
            piece = np.random.default_rng(number).integers(0, 256, (1, 48, 64, 3), np.uint8).view(Piece)
            alive.add(piece)
            most.append(len(alive))
            yield piece
            del piece

    Piece.__hash__ = object.__hash__
    row = put_clip(store, drawn(), spec())
    assert max(most) <= 2
    assert row["size"] > 0


@pytest.mark.parametrize(
    ("change", "values", "said"),
    [
        ({"n_frames": 10}, None, "the clip has 9 frames, not 10"),
        ({"width": 32}, None, "the frames are 64x48, not 32x48"),
        ({}, 0.5, "the clip is blank: every pixel has the same value"),
        ({}, np.nan, "9216 of the 9216 values of frame 0 are not finite"),
    ],
)
def test_what_is_no_clip_is_not_kept(tmp_path, change, values, said):
    store = Workspace(Storage(str(tmp_path)))
    video = pixels() if values is None else np.full_like(pixels(), values)
    with pytest.raises(BadLatent, match=said):
        put_tracks(store, {"video": video}, spec(**change))
    assert not store.storage.files("media")


def test_sound_of_another_length_and_a_file_cut_short_are_refused(tmp_path):
    store = Workspace(Storage(str(tmp_path)))
    with pytest.raises(BadSound, match="they do not belong together"):
        put_tracks(store, {"video": pixels(), "sound": sound(3.0), "sound_rate": np.array([RATE])}, spec())
    row = put_tracks(store, {"video": pixels()}, spec())
    with pytest.raises(BadLatent, match="takes latents: the hand-off is refused"), open_clip(store, row, "abc"):
        pass
    with open_clip(store, {**row, "n_frames": 17}) as clip, pytest.raises(BadLatent, match="its row says 17"):
        list(clip.frames)
    (tmp_path / row["uri"]).write_bytes(b"no video")
    with pytest.raises(BadLatent, match="the frames at rest are broken"), open_clip(store, row):
        pass
    (tmp_path / row["uri"]).unlink()
    with pytest.raises(FileNotFoundError), open_clip(store, row):
        pass
