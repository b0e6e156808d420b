"""Batches: pure functions of their position, mirrored with their captions, and never of a held-out combination."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.world.clips import WorldClips
from data_prep.world.scene import default_world
from stages.core.errors import BadInput
from stages.core.media import BadMedia, read_frames, write_video
from stages.training.data.batches import PixelBatches, augmented, bucket_at, clip_seed, load_source, stream
from stages.training.data.clips import PublishedClips, read_clip, time_stamps
from stages.training.settings import Bucket, Data, Phase, load_settings

BUCKET = Bucket(width=48, height=48, frames=5, fps=8, batch=2)
CONFIGS = sorted(Path("configs/train").glob("*.yaml"))


def test_no_held_out_combination_is_ever_drawn():
    source, held = WorldClips(), set(default_world().heldout)
    drawn = {
        thing.attributes
        for step in range(1500)
        for i in range(2)
        for thing in source.scene(clip_seed(3, step, 0, 0, i), BUCKET).things
    }
    assert len(drawn) > 700
    assert not drawn & held
    other = WorldClips(split="heldout")
    judged = {other.scene(clip_seed(3, i), BUCKET).attributes for i in range(100)}
    assert judged <= held


def test_a_motion_that_weighs_more_is_drawn_more_often():
    source = WorldClips(motions={"rotating": 5, "growing": 0})
    drawn = Counter(str(source.scene(seed, BUCKET).attributes.motion) for seed in range(600))
    assert drawn["rotating"] / 600 == pytest.approx(5 / 11, abs=0.06)
    assert drawn["growing"] == 0
    assert drawn["shrinking"] > 0
    assert source.identity != WorldClips().identity != WorldClips(motions={"rotating": 2}).identity
    with pytest.raises(BadInput, match="jumping"):
        WorldClips(motions={"jumping": 1})
    with pytest.raises(BadInput, match="0 or more"):
        WorldClips(motions={"rotating": -1})
    for weight in (0, float("inf")):
        with pytest.raises(BadInput, match="nothing to draw"):
            WorldClips(motions=dict.fromkeys(source.weights, weight))


def test_batches_depend_on_their_position_only_also_from_worker_processes():
    data = Data(curriculum=[Phase(buckets=[BUCKET, Bucket(width=32, height=32, frames=1, batch=3)])])
    here = PixelBatches(WorldClips(), data, seed=5)
    ahead = list(stream(PixelBatches(WorldClips(), data, seed=5), 2, 6, workers=1))
    for i, batch in zip(range(2, 6), ahead, strict=True):
        assert batch["captions"] == here[i]["captions"]
        assert (batch["frames"] == here[i]["frames"]).all()
    other = PixelBatches(WorldClips(), data, seed=5, rank=1)[2]
    assert other["seeds"] != ahead[0]["seeds"]
    assert other["bucket"] == ahead[0]["bucket"]


def test_the_curriculum_changes_at_its_steps_and_shares_hold():
    later = [Bucket(share=3), Bucket(share=1, frames=9)]
    data = Data(curriculum=[Phase(until=10, buckets=[BUCKET]), Phase(buckets=later)])
    assert {bucket_at(data, 0, s)[0] for s in range(10)} == {0}
    counts = np.bincount([bucket_at(data, 0, s)[0] for s in range(10, 810)])
    assert counts[1] / 800 == pytest.approx(0.75, abs=0.06)


def test_mirrored_frames_have_mirrored_captions():
    clip = WorldClips().clip(1, BUCKET)
    clip = dataclasses.replace(clip, caption="a red star moving left on a black background")
    frames, caption = augmented(clip, np.random.default_rng(0), flip=1.0, jitter=0.0)
    assert (frames == clip.frames[:, :, ::-1]).all()
    assert caption == "a red star moving right on a black background"
    jittered, caption = augmented(clip, np.random.default_rng(0), flip=0.0, jitter=0.2)
    assert caption == clip.caption
    change = jittered.astype(float) - clip.frames
    assert np.abs(change).max() > 2
    still = (clip.frames[0] == clip.frames[1]).all(axis=-1)
    assert (jittered[0][still] == jittered[1][still]).all()


def test_windows_follow_the_object_and_keep_the_scale():
    whole = Bucket(width=128, height=128, frames=3, fps=8)
    source = WorldClips()
    coloured = []
    for seed in range(40):
        window = source.clip(seed, dataclasses.replace(whole, crop=48)).frames
        assert window.shape == (3, 48, 48, 3)
        coloured.append((np.ptp(window.astype(int), axis=-1) > 40).any())
    assert np.mean(coloured) > 0.85


def test_sources_outside_our_packages_and_wrong_arguments_are_refused():
    ours = "data_prep.world.clips"
    for use, args in (("os:system", {}), (f"{ours}:Nothing", {}), (f"{ours}:WorldClips", {"x": 1})):
        with pytest.raises(BadInput, match=r"data\.(use|args)"):
            load_source(use, args)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_of_the_recipe_is_sound(path):
    settings = load_settings(path)
    if path.stem == "published":  # its source is a folder that only its user knows
        assert settings.data.use == "stages.training.data.clips:PublishedClips"
        return
    assert settings.stage == ("vae" if path.stem == "decoder" else path.stem)
    assert load_source(settings.data.use, settings.data.args).identity.startswith("world:train")


def published(folder: Path, n: int = 4) -> Path:
    """A small published dataset: an index and its videos."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for i in range(n):
        frames = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None, None] * 10, (24, 48, 96, 3)).copy()
        (folder / f"{i}.mp4").write_bytes(write_video(frames, 12))
        rows.append({"uri": f"{i}.mp4", "caption": f"clip {i}"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "index.parquet")
    return folder


def test_published_clips_are_cut_by_time_and_shape(tmp_path):
    source = PublishedClips(str(published(tmp_path)), holdout=4)
    assert source.length == 3
    clip = source.clip(7, Bucket(width=32, height=32, frames=5, fps=6))
    assert clip.frames.shape == (5, 32, 32, 3)
    levels = clip.frames.mean(axis=(1, 2, 3))
    assert np.diff(levels) == pytest.approx(20, abs=3)  # every other frame of 12 a second
    assert clip.caption in {"clip 0", "clip 1", "clip 2"}
    with pytest.raises(BadMedia, match="are needed"):
        read_clip(tmp_path / "0.mp4", Bucket(width=32, height=32, frames=33, fps=6), 0.0)


@pytest.mark.parametrize("where", [0.0, 0.37, 1.0])
def test_frames_are_those_of_a_decoder_that_reads_all(tmp_path, where):
    frames = np.random.default_rng(0).integers(0, 256, (40, 1, 1, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    (tmp_path / "a.mp4").write_bytes(write_video(frames, 10))
    decoded = read_frames(tmp_path / "a.mp4")
    found = read_clip(tmp_path / "a.mp4", Bucket(width=32, height=32, frames=5, fps=5), where)
    first = int(where * (39 - 8) + 1e-6)
    np.testing.assert_array_equal(found, decoded[first : first + 9 : 2])


def test_the_datasets_own_split_holds_clips_out(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = published(tmp_path) / "index.parquet"
    split = pa.array(["train", "val", "excluded", "train"])
    pq.write_table(pq.read_table(index).append_column("split", split), index)
    found = {s: [c for _, c in PublishedClips(str(tmp_path), split=s).rows] for s in ("train", "heldout", "any")}
    assert found == {"train": ["clip 0", "clip 3"], "heldout": ["clip 1"], "any": [f"clip {i}" for i in range(4)]}
    assert [c for _, c in PublishedClips(str(tmp_path), split="heldout", holdout=4).rows] == ["clip 3"]


def test_a_published_index_is_checked(tmp_path):
    folder = published(tmp_path, 1)
    with pytest.raises(BadInput, match="no column 'text'"):
        PublishedClips(str(folder), columns={"caption": "text"})
    with pytest.raises(BadInput, match="outside"):
        PublishedClips(str(folder)).path("../secret.mp4")
    (folder / "0.mp4").write_bytes(b"broken")
    time_stamps.cache_clear()
    with pytest.raises(BadInput, match="in a row"):
        PublishedClips(str(folder)).clip(0, BUCKET)
