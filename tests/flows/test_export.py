"""Delivery: exports add and replace and remove nothing, say what they show, and are refused before any work."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from flows.render import export as export_module
from flows.render.export import check_export, export, export_name
from flows.render.provenance import GENERATED, INDEX, METADATA, identify, public, read_index, tags_of
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.storage import Storage
from stages.core.media import read_frames, read_tags, write_video
from stages.core.step import Row

SPAWN = multiprocessing.get_context("spawn")
SETTINGS = {"settings": {"base": {"width": 64, "sampling": {"steps": 2}}}, "models": {"base": {"model": "ab12"}}}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def made(storage: Storage, prompt: str, seed: int = 0, *, shade: int = 0, status: str = "ok") -> Row:
    """The row of a video whose pixels are one grey."""
    frames = np.full((3, 32, 32, 3), shade or 40 + 10 * seed, np.uint8)
    take = digest("take", prompt, seed)
    kept = storage.put_media(write_video(frames, 8, preset="ultrafast"), ".mp4")
    return {
        **{"take_id": take, "video_id": digest(take, kept["sha256"]), "prompt": prompt, "negative_prompt": "dull"},
        **{"seed": seed, "uri": kept["uri"], "sha256": kept["sha256"], "width": 32, "height": 32, "n_frames": 3},
        **{"fps": 8.0, "status": status, "error": "", "campaign": "c"},
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def packets(video: bytes) -> list[bytes]:
    with av.open(io.BytesIO(video)) as container:
        return [bytes(p) for p in container.demux(video=0)]


# -- what is in the folder ---------------------------------------------------------------------------------------------


def test_exports_add_and_replace_and_remove_nothing(storage, tmp_path):
    out = tmp_path / "out"
    first, second, other = made(storage, "a star"), made(storage, "a star", 1), made(storage, "a moon")
    export(storage, [first, second], out)
    before = contents(out)
    export(storage, [other], out)  # another campaign
    export(storage, [first, made(storage, "never", status="error")], out)  # a run that a budget has stopped
    after = contents(out)
    assert set(after) == set(before) | {export_name(other)}
    assert {name: after[name] for name in before if name != INDEX} == {k: v for k, v in before.items() if k != INDEX}
    export(storage, [made(storage, "a star", shade=200)], out)  # the same take with other settings
    replaced = contents(out)
    assert set(replaced) == set(after)
    assert [name for name in after if after[name] != replaced[name]] == [export_name(first), INDEX]
    assert read_frames(replaced[export_name(first)]).mean() == pytest.approx(200, abs=3)


def test_files_of_others_stay_and_are_no_obstacle(storage, tmp_path):
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    (out / "holiday.mp4").write_bytes(b"mine")
    (out / "export.json").write_text("mine too")
    export(storage, [made(storage, "a star")], out)
    assert (out / "holiday.mp4").read_bytes() == b"mine"
    assert (out / "export.json").read_text() == "mine too"
    assert (out / "folder").is_dir()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "changed", "index"])
def test_a_name_that_is_not_ours_is_refused(kind, storage, tmp_path):
    out, video = tmp_path / "out", made(storage, "a star")
    taken = out / (INDEX if kind == "index" else export_name(video))
    out.mkdir()
    if kind == "folder":
        taken.mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(b"mine")
        taken.symlink_to(tmp_path / "elsewhere")
    else:
        if kind == "changed":
            export(storage, [video], out)
        taken.write_bytes(b"mine")
    take = {"id": video["take_id"], "prompt": video["prompt"], "seed": video["seed"]}
    for ask in (lambda: check_export(out, [take], storage), lambda: export(storage, [video], out)):
        with pytest.raises(BadInput) as caught:
            ask()
        assert f"holds {taken.name!r}, which Rushes did not write" in str(caught.value)
    assert kind == "folder" or taken.read_bytes() == b"mine"
    if kind != "index":
        check_export(out, [], storage)  # in the way of nothing else


def test_without_its_index_the_store_knows_what_it_has_delivered(storage, tmp_path):
    out, video = tmp_path / "out", made(storage, "a star")
    export(storage, [video], out)
    (out / INDEX).unlink()
    with pytest.raises(BadInput):
        check_export(out, [video])
    check_export(out, [video], storage)
    export(storage, [video], out)
    assert set(read_index(out)) == {export_name(video)}


def test_a_folder_that_is_a_mount_point_is_never_renamed(storage, tmp_path):
    """The folder stays the one that it was: who holds it open sees the files."""
    out = tmp_path / "out"
    out.mkdir()
    handle = os.open(out, os.O_RDONLY)
    try:
        export(storage, [made(storage, "a star")], out)
        assert export_name(made(storage, "a star")) in os.listdir(handle)
        assert os.fstat(handle).st_ino == out.stat().st_ino
    finally:
        os.close(handle)


def test_a_file_that_is_there_is_not_made_again_and_one_that_is_gone_comes_back(storage, tmp_path, monkeypatch):
    out, videos = tmp_path / "out", [made(storage, "a star"), made(storage, "a moon")]
    paths = export(storage, videos, out)
    assert [p.name for p in paths] == [export_name(v) for v in videos]
    times = [p.stat().st_mtime_ns for p in paths]
    before = contents(out)
    paths[1].unlink()
    assert export(storage, videos, out) == paths
    assert paths[0].stat().st_mtime_ns == times[0]
    assert paths[1].read_bytes() == before[paths[1].name]


def test_the_rights_are_those_of_any_new_file(storage, tmp_path):
    (path,) = export(storage, [made(storage, "a star")], tmp_path / "out")
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def export_killed(storage: Storage, videos: list[Row], out: Path, after: int) -> None:
    """Export in a process that is killed before a certain move."""
    moves = []

    def replace(source, target, real=os.replace):
        if out in Path(target).parents:
            moves.append(target)
            if len(moves) > after:
                os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    export_module.os.replace = replace
    export(storage, videos, out)


@pytest.mark.parametrize("after", range(4))
def test_killed_at_any_move_the_next_export_goes_on(after, storage, tmp_path):
    """Moves: the index, then the files. What a kill leaves behind is ours to the next export."""
    out = tmp_path / "out"
    videos = [made(storage, "a star"), made(storage, "a moon")]
    export(storage, [videos[0]], out)
    videos[0] = made(storage, "a star", shade=200)
    child = SPAWN.Process(target=export_killed, args=(storage, videos, out, after))
    child.start()
    child.join()
    assert child.exitcode == (0 if after == 3 else -signal.SIGKILL)
    check_export(out, videos)
    paths = export(storage, videos, out)
    assert read_frames(paths[0]).mean() == pytest.approx(200, abs=3)
    assert set(contents(out)) == {INDEX, *(p.name for p in paths)}, "no temporary file is left"
    assert {e["sha256"] for e in read_index(out).values()} == {
        hashlib.sha256(p.read_bytes()).hexdigest() for p in paths
    }


def test_two_exports_at_once_lose_nothing_of_each_other(storage, tmp_path):
    out = tmp_path / "out"
    videos = [[made(storage, f"{name} {i}") for i in range(3)] for name in ("a star", "a moon")]
    threads = [threading.Thread(target=export, args=(storage, part, out)) for part in videos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_index(out)) == {export_name(v) for part in videos for v in part}


# -- what cannot be written --------------------------------------------------------------------------------------------


def test_a_place_where_no_folder_can_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in ("file", "file/below", "file/below/it"):
        with pytest.raises(BadInput, match="file is a file; give a folder"):
            check_export(tmp_path / folder)
    for folder in (tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(BadInput, match="no files can be written there"):
            check_export(folder)
    assert sorted(os.listdir(tmp_path)) == ["file"]
    assert check_export(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    assert sorted(os.listdir(tmp_path)) == ["file"], "nothing is created"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no read-only file system here")
@pytest.mark.parametrize("folder", ["/proc", "/proc/new"])
def test_a_file_system_that_takes_no_files_is_refused(folder):
    with pytest.raises(BadInput, match=f"--export {folder}: no files can be written there"):
        check_export(folder)


@pytest.mark.parametrize("folder", ["out", "out/new"])
def test_missing_rights_are_found_before_work(folder, tmp_path_factory):
    parent = tmp_path_factory.mktemp("rights")
    (parent / "out").mkdir()
    (parent / "out").chmod(0o555)
    if os.geteuid() == 0:  # root may write anywhere, so another user asks
        parent.chmod(0o755)
        parent.parent.chmod(0o755)
        parent.parent.parent.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(BadInput, match="no files can be written there: Permission denied"):
            check_export(parent / folder)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_done(storage, tmp_path, monkeypatch):
    out, videos = tmp_path / "out", [made(storage, "a star"), made(storage, "a moon")]
    export(storage, videos[:1], out)
    before = contents(out)

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export_module.os, "fsync", fsync)
    monkeypatch.setattr(Storage, "write", lambda *_: None)  # the store lies on another disk
    with pytest.raises(BadInput, match="No space left on device; the videos are in the store, so export again"):
        export(storage, videos, out)
    assert contents(out) == before


@pytest.mark.parametrize("fault", ["gone", "damaged", "no video"])
def test_one_bad_video_does_not_stop_the_others(fault, storage, tmp_path):
    bad, good = made(storage, "a star", shade=90), made(storage, "a moon")
    if fault == "gone":
        storage.remove(bad["uri"])
    elif fault == "damaged":
        storage.write(bad["uri"], b"x" + storage.read(bad["uri"])[1:])
    else:
        bad |= storage.put_media(b"latents", ".safetensors")
    with pytest.raises(BadInput) as caught:
        export(storage, [bad, good], tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0] == "1 of 2 videos could not be exported:"
    assert lines[1].startswith(f"{export_name(bad)}: ")
    assert set(contents(tmp_path / "out")) == {INDEX, export_name(good)}


# -- what a file says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", METADATA)
def test_metadata_is_written_by_stream_copy_and_equal_for_equal_takes(metadata, storage, tmp_path):
    video = made(storage, "a star; 'quoted' = \"yes\" ü\n# second line")
    (path,) = export(storage, [video], tmp_path / "out", metadata=metadata, about=SETTINGS)
    (again,) = export(storage, [video], tmp_path / "another name", metadata=metadata, about=SETTINGS)
    assert path.read_bytes() == again.read_bytes()
    assert packets(path.read_bytes()) == packets(storage.read(video["uri"]))
    tags = read_tags(path)
    said = json.loads(tags.get("comment", "{}"))
    ids = {"take_id": video["take_id"], "artifact_id": video["video_id"], "artifact_sha256": video["sha256"]}
    if metadata == "none":
        assert not {"title", "comment"} & set(tags)
    elif metadata == "id":
        assert said == {"rushes": 1, **GENERATED, **ids}
        assert "title" not in tags
    else:
        assert tags["title"] == video["prompt"]
        assert said == {
            **{"rushes": 1, **GENERATED, **ids, "prompt": video["prompt"], "negative_prompt": "dull", "seed": 0},
            **{"width": 32, "height": 32, "n_frames": 3, "fps": 8.0, **SETTINGS},
        }


def test_other_metadata_makes_the_file_again_and_an_unknown_word_is_refused_before_work(storage, tmp_path):
    video = made(storage, "a star")
    (path,) = export(storage, [video], tmp_path / "out")
    first = path.read_bytes()
    export(storage, [video], tmp_path / "out", metadata="none")
    assert path.read_bytes() != first
    with pytest.raises(BadInput, match=r"metadata of exported videos is 'all'; it must be one of full, id, none"):
        check_export(tmp_path / "out", metadata="all")


def test_no_path_and_no_credential_is_in_what_a_file_says():
    settings = {
        **{"width": 64, "max_tokens": 77, "keyframes": [1, 2], "dtype": "float32", "shift": None, "tiled": True},
        **{"path": "/canary/weights", "home": "~canary", "windows": "C:\\canary", "url": "s3://canary:canary@b"},
        **{"api_key": "canary", "token": "canary", "loras": {"/canary/a.safetensors": 0.5}, "list": ["/canary", 3]},
    }
    said = public({"settings": settings})["settings"]
    assert said == {
        **{"width": 64, "max_tokens": 77, "keyframes": [1, 2], "dtype": "float32", "tiled": True, "loras": {}},
        "list": [3],
    }
    row = {"take_id": "a" * 32, "video_id": "b" * 32, "sha256": "c" * 64, "prompt": "x", "seed": 1}
    assert "canary" not in str(tags_of(row, {"settings": settings, "models": {}, "store": "/canary"}, "full"))


# -- which take a file shows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", METADATA)
def test_a_copy_under_any_name_is_known(metadata, storage, tmp_path):
    video = made(storage, "a star")
    (path,) = export(storage, [video], tmp_path / "out", metadata=metadata)
    copy = tmp_path / "other name.mov"
    shutil.copy(path, copy)
    for file, known in ((copy, storage), (path, None)):
        found = identify(file, known)
        assert found is not None
        ids = (found.take_id, found.artifact_id, found.artifact_sha256)
        assert ids == (video["take_id"], video["video_id"], video["sha256"])
        assert found.by == ("hash" if metadata == "none" else "metadata")


def test_by_name_where_nothing_else_is_left(storage, tmp_path):
    video = made(storage, "a star", 3)
    (path,) = export(storage, [video], tmp_path / "out", metadata="none")
    for name in (path.name, path.name.replace(".mp4", " (1).mp4"), path.name.replace(".mp4", "_small.webm")):
        changed = tmp_path / name
        changed.write_bytes(b"encoded by somebody else")
        found = identify(changed, storage)
        assert found is not None
        assert (found.by, found.artifact_id) == ("name", "")
        assert video["take_id"].startswith(found.take_id)
        assert len(found.take_id) == 8
    stranger = tmp_path / "holiday.mp4"
    stranger.write_bytes(b"x")
    assert identify(stranger, storage) is None


def test_a_copy_of_the_artifact_itself(storage, tmp_path):
    video = made(storage, "a star")
    (tmp_path / "copy.mp4").write_bytes(storage.read(video["uri"]))
    found = identify(tmp_path / "copy.mp4", storage)
    assert found is not None
    assert (found.artifact_sha256, found.take_id, found.by) == (video["sha256"], "", "hash")


@pytest.mark.parametrize(
    "comment", ["[1]", "{", '{"rushes": 1}', '{"rushes": 1, "take_id": "../../x"}', "7", "[" * 9999]
)
def test_tags_of_others_may_hold_anything(comment, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(write_video(np.zeros((1, 32, 32, 3), np.uint8), 8, metadata={"comment": comment}))
    assert identify(path) is None


def test_a_playlist_under_the_name_of_a_video_opens_nothing(tmp_path):
    (tmp_path / "a.mp4").write_bytes(write_video(np.zeros((1, 32, 32, 3), np.uint8), 8))
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'a.mp4'}\n")
    assert identify(tmp_path / "b.mp4") is None
    with pytest.raises(BadInput, match=r"none\.mp4 cannot be read: No such file"):
        identify(tmp_path / "none.mp4")
