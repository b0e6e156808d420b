"""Cutting clips out of sources that cannot be sought in, or carry no times."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import av
import pytest

from data_prep.publish.cut_clip import CutClip
from data_prep.publish.cutting import written_ends
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


def row_of(path: Path, end_pts: int, base: int, codec: str, container: str) -> dict[str, object]:
    span = {"start_pts": 0, "end_pts": end_pts, "time_base_num": 1, "time_base_den": base, "stream_index": 0}
    span |= {"start_frame": 0, "end_frame": FRAMES, "keyframe_start": True, "keyframe_end": True}
    about = {"width": 128, "height": 96, "interlaced": False, "has_audio": False, "codec": codec}
    where = {"clip_id": "c", "uri": str(path), "bytes": path.stat().st_size, "container": container}
    return {**where, **about, **span}


@pytest.fixture
def cut(tmp_path: Path) -> CutClip:
    return CutClip(CutClip.Config(), Workspace(Storage(str(tmp_path / "store"))))


def test_a_source_that_cannot_be_sought_in_is_cut_by_counting(cut: CutClip, tmp_path: Path) -> None:
    path = without_key_frames(made(tmp_path / "clip.mp4", "-c:v", "mpeg4"))
    with av.open(str(path)) as container, pytest.raises(OSError, match="not permitted"):
        container.seek(0, stream=container.streams.video[0])
    done = cut.process(row_of(path, 2000, 1000, "mpeg4", "matroska,webm"))
    assert (done["n_frames"], done["method"]) == (FRAMES, "encode")


@pytest.mark.skipif(not RAW.is_file(), reason=f"no real videos at {RAW.parent}; RUSHES_DATA names the folder")
def test_a_stream_without_times_is_cut_although_two_readers_time_it_differently(cut: CutClip) -> None:
    row = row_of(RAW, 3_840_000, 1_200_000, "mpeg1video", "mpegvideo")
    done = cut.process({**row, "width": 384, "height": 288, "end_frame": 79})
    assert done["n_frames"] == 79


def test_a_clip_without_video_is_bad_media(tmp_path: Path) -> None:
    path = made(tmp_path / "sound.mp4", "-c:a", "aac", source="sine=duration=1")
    with pytest.raises(BadMedia, match="no frames"):
        written_ends(path)
