"""Cutting clips out of sources that cannot be sought in, or carry no times."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from data_prep.publish.check import Seen, Written, check_written, read_written
from data_prep.publish.cut_clip import CutClip
from data_prep.publish.cutting import VideoForm
from data_prep.publish.origin import pack_spans
from data_prep.signals.signals import decode_signals
from data_prep.signals.store import write_signals
from stages.core.ledger.storage import Storage
from stages.core.media import BadMedia, ffmpeg_binary
from stages.core.step import Workspace

FRAMES = 50
DATA = Path(os.environ.get("RUSHES_DATA", Path(__file__).parents[2] / "../shared/data"))
RAW = (DATA / "videos" / "deb_visp_cube.mpeg").resolve()


def made(target: Path, *options: str, source: str = "testsrc2=size=128x96:rate=25:duration=2") -> Path:
    subprocess.run([ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", source, *options, str(target)], check=True)
    return target


def without_key_frames(path: Path) -> Path:
    """The same packets in Matroska, none marked as a key frame: libav then has no index, and refuses to seek."""
    target = path.with_suffix(".mkv")
    with av.open(str(path)) as source, av.open(str(target), "w", format="matroska", options={"live": "1"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.is_keyframe, packet.stream = False, stream
                out.mux(packet)
    return target


def row_of(path: Path, workspace: Workspace, codec: str) -> dict[str, object]:
    """The row of a clip that is the whole source, after the pass over it."""
    found = decode_signals(path)
    signals = write_signals(workspace, found.table)
    n = found.table.num_rows
    about = {"stream_index": 0, "has_audio": False, "codec": codec, "start_frame": 0, "end_frame": n}
    where = {"uri": str(path), "bytes": path.stat().st_size, "source_version": str(path.stat().st_mtime_ns)}
    seen = {"signals_uri": signals["uri"], "siblings": pack_spans([(0, n)]), "source_sha256": "0" * 64}
    return {"clip_id": "c", **where, **about, **seen}


@pytest.fixture
def cut(tmp_path: Path) -> CutClip:
    return CutClip(CutClip.Config(), Workspace(Storage(str(tmp_path / "store"))))


def test_a_source_that_cannot_be_sought_in_is_cut_by_counting(cut: CutClip, tmp_path: Path) -> None:
    path = without_key_frames(made(tmp_path / "clip.mp4", "-c:v", "mpeg4"))
    with av.open(str(path)) as container, pytest.raises(OSError, match="not permitted"):
        container.seek(0, stream=container.streams.video[0])
    done = cut.process(row_of(path, cut.workspace, "mpeg4"))
    assert (done["n_frames"], done["method"]) == (FRAMES, "encode")


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_a_clip_in_av1_is_copied(cut: CutClip, tmp_path: Path, container: str) -> None:
    """Its decoder has another name than what it decodes, and no encoder has that."""
    path = made(tmp_path / f"clip.{container}", "-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p")
    done = cut.process(row_of(path, cut.workspace, "av1"))
    assert (done["n_frames"], done["method"]) == (FRAMES, "copy")


@pytest.mark.skipif(not RAW.is_file(), reason=f"no real videos at {RAW.parent}; RUSHES_DATA names the folder")
def test_a_stream_without_times_is_cut_although_two_readers_time_it_differently(cut: CutClip) -> None:
    done = cut.process(row_of(RAW, cut.workspace, "mpeg1video"))
    assert done["n_frames"] == 79


def test_a_clip_without_video_is_bad_media(tmp_path: Path) -> None:
    path = made(tmp_path / "sound.mp4", "-c:a", "aac", source="sine=duration=1")
    with pytest.raises(BadMedia, match="no frames"):
        read_written(path)


def test_what_is_cut_in_the_same_pass_changes_no_clip(tmp_path: Path) -> None:
    options = ("-c:v", "libx264", "-x264-params", "keyint=250:scenecut=0")
    path = made(tmp_path / "clip.mp4", *options)
    spans, found = [(0, 12), (12, 30), (36, FRAMES)], []
    for together in (False, True):
        cut = CutClip(CutClip.Config(), Workspace(Storage(str(tmp_path / f"store{together}"))))
        row = row_of(path, cut.workspace, "h264")
        for first, end in reversed(spans) if together else spans:
            siblings = pack_spans(spans if together else [(first, end)])
            clip = {**row, "start_frame": first, "end_frame": end, "siblings": siblings}
            assert cut._source(clip).in_one_pass == (together and first == spans[-1][0])
            found.append((first, end, cut.process(clip)))
    assert sorted(found[:3], key=lambda f: f[0]) == sorted(found[3:], key=lambda f: f[0])


def test_where_a_file_lies_and_what_else_is_cut_from_it_is_no_part_of_what_a_clip_is() -> None:
    declared = CutClip.inputs(CutClip.Config())
    assert not set(declared.depends) & {"uri", "source_version", "siblings"}
    assert {"source_id", "start_frame", "end_frame"} <= set(declared.depends)


@pytest.mark.parametrize(("end", "passes"), [(1.0, True), (17 / 12, True), (1.7, False), (0.3, False)])
def test_the_last_frame_of_a_slow_source_lasts_to_the_end_of_its_span(end, passes):
    """Three frames, half a second each, at 12 a second: the third is shown up to 1.5 s, and no longer."""
    same = np.zeros((3, 864), np.uint8)
    seen = Seen(same, np.array([0.0, 0.5, 1.0]), 1.5)
    written = Written(same[:2], np.array([0.0, end]))
    if passes:
        check_written(written, seen, VideoForm(fps=12), 6.0)
    else:
        with pytest.raises(BadMedia, match="last frame comes after"):
            check_written(written, seen, VideoForm(fps=12), 6.0)
