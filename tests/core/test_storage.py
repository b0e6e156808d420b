import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.crash import POINTS
from stages.core.errors import BadInput
from stages.core.full_disk import CannotWrite
from stages.core.ledger.storage import REWRITE_AFTER, Storage
from tests import toys

OUTSIDE = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a\\..\\x",
    "file:///etc/passwd",
    "s3://x/y",
    "a\0b",
    "./../x",
]


@pytest.mark.parametrize("uri", OUTSIDE)
def test_no_path_leaves_the_store(catalog, uri):
    for ask in (
        catalog.storage.read,
        catalog.storage.exists,
        catalog.storage.remove,
        lambda u: catalog.storage.write(u, b""),
    ):
        with pytest.raises(BadInput, match="not a path inside"):
            ask(uri)


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "..a"]), min_size=1).map("/".join))
def test_what_is_let_through_stays_inside(tmp_path_factory, uri):
    root = tmp_path_factory.getbasetemp() / "paths"
    storage = Storage(str(root))
    try:
        path = storage.local_path(uri)
    except BadInput:
        return
    assert os.path.realpath(path).startswith(os.path.realpath(root) + os.sep)


def test_links_do_not_lead_out(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "media").symlink_to(tmp_path / "secret")
    storage = Storage(str(tmp_path / "store"))
    with pytest.raises(BadInput, match="not a path inside"):
        storage.read("media/file")
    with pytest.raises(BadInput):
        storage.put_media(b"x", ".txt")


def test_a_store_may_itself_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for url in (str(tmp_path / "link"), f"file://{tmp_path / 'link'}"):
        made = Storage(url).put_media(b"x", ".txt")
        assert Storage(url).read(made["uri"]) == b"x"


def test_media_are_named_by_their_content_and_kept_once(catalog):
    storage = catalog.storage
    first, second = storage.put_media(b"frames", ".mp4"), storage.put_media(b"frames", ".mp4")
    assert first == second
    assert first["sha256"] == hashlib.sha256(b"frames").hexdigest()
    assert first["size"] == 6
    assert storage.read(first["uri"]) == b"frames"
    assert [info.uri for info in storage.files("media")] == [first["uri"]]


def test_options_reach_a_pickled_storage(catalog):
    catalog.storage.write("a/b", b"here")
    again = pickle.loads(pickle.dumps(catalog.storage))
    assert again.read("a/b") == b"here"
    assert again.options == catalog.storage.options


def test_what_another_writes_is_seen_at_once(catalog):
    assert catalog.storage.files("a") == []
    assert not catalog.storage.exists("a/b")
    pickle.loads(pickle.dumps(catalog.storage)).write("a/b", b"x")
    assert [i.uri for i in catalog.storage.files("a")] == ["a/b"]
    assert catalog.storage.exists("a/b")


def test_missing_files(catalog):
    with pytest.raises(FileNotFoundError):
        catalog.storage.read("a/b")
    assert catalog.storage.info("a/b") is None
    catalog.storage.remove("a/b")


def test_old_or_broken_media_are_written_again(local):
    """So that repair, which removes orphans of a day, cannot take a file that is just being given its row."""
    made = local.storage.put_media(b"frames", ".mp4")
    path = local.storage.local_path(made["uri"])
    long_ago = (datetime.now(UTC) - 2 * REWRITE_AFTER).timestamp()
    os.utime(path, (long_ago, long_ago))
    local.storage.put_media(b"frames", ".mp4")
    assert datetime.now(UTC) - local.storage.info(made["uri"]).modified < timedelta(minutes=1)
    path.write_bytes(b"fr")
    local.storage.put_media(b"frames", ".mp4")
    assert path.read_bytes() == b"frames"


def test_a_failed_write_leaves_nothing(local, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CannotWrite, match="no space is left there"):
        local.storage.write("a/b", b"x")
    assert local.storage.files("tmp") == []
    assert not local.storage.exists("a/b")


def test_readers_see_whole_files_only(local):
    """Two sizes in turn: a torn file would have another."""
    stop, seen = threading.Event(), set()
    local.storage.write("a", b"x" * 100_000)

    def read() -> None:
        while not stop.is_set():
            seen.add(len(local.storage.read("a")))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        local.storage.write("a", b"x" * (100_000 if i % 2 else 200_000))
    stop.set()
    reader.join()
    assert seen <= {100_000, 200_000}


WRITE = "import sys; from stages.core.ledger.storage import Storage; Storage(sys.argv[1]).write('a', b'new')"


@pytest.mark.parametrize(("point", "after"), [("before_move", b"old"), ("mid_move", b"old"), ("after_move", b"new")])
def test_a_kill_leaves_the_old_file_or_the_new(local, point, after):
    assert point in POINTS
    local.storage.write("a", b"old")
    done = subprocess.run([sys.executable, "-c", WRITE, local.storage.url], env=toys.environment(RUSHES_CRASH=point))
    assert done.returncode == -signal.SIGKILL
    assert local.storage.read("a") == after
