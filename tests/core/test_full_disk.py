"""Full disks and missing rights: one sentence with the place, the run stops, no row fails, and a rerun completes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import av
import pytest

from stages.core.errors import Stopped
from stages.core.full_disk import CannotWrite, as_cannot_write, cannot_write
from stages.core.ledger import storage as storage_module
from stages.core.ledger.storage import Storage
from stages.core.ledger.upkeep import verify
from stages.core.media import BadMedia
from stages.core.planning.survey import Count, Survey
from tests import toys
from tests.toy_run import TAKES, run_all

NO_ROOM = "no space is left there; make room and run the same command again"


def fill(*_: object) -> None:
    """What the system says where no space is left: the real thing."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        os.write(full, b"x")
    finally:
        os.close(full)


def raised(*errors: Exception) -> Exception:
    """The last of these, each raised while the one before was handled."""
    try:
        if len(errors) > 1:
            try:
                raise raised(*errors[:-1])
            except Exception:
                raise errors[-1] from None
        raise errors[-1]
    except Exception as error:
        return error


FULL, QUOTA = OSError(errno.ENOSPC, "full", "/a/b"), OSError(errno.EDQUOT, "quota", "/a/b")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FULL, f"cannot write to /a/b: {NO_ROOM}"),
        (QUOTA, "cannot write to /a/b: the quota there is used up"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "cannot write to /a/b: Read-only file system; run"),
        (raised(FULL, BadMedia("the written clip has no frames")), f"cannot write to /a/b: {NO_ROOM}"),
        (raised(cannot_write("/s", FULL), RuntimeError("a library's own")), f"cannot write to /s: {NO_ROOM}"),
        (av.error.OSError(errno.ENOSPC, "No space left on device", "/a/c"), f"cannot write to /a/c: {NO_ROOM}"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/x']"),
            "set TMPDIR to one that can",
        ),
    ],
)
def test_the_place_is_named_however_a_library_says_it(error, says):
    assert says in str(as_cannot_write(error))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied", "/a/film.mp4"),
        BadMedia("No space left on device.mp4 is no video"),
        ConnectionError("cut"),
        raised(ValueError("first"), KeyError("then")),
    ],
)
def test_what_is_a_rows_own_error_stops_no_run(error):
    """A source that may not be read, and a name that reads like a full disk, too."""
    assert as_cannot_write(error) is None


def test_a_full_disk_in_a_row_stops_the_run(local, monkeypatch):
    plan = toys.toy_plan(local, TAKES)
    with monkeypatch.context() as patch:
        patch.setattr(toys.Split, "process", fill)
        with pytest.raises(Stopped, match=NO_ROOM):
            run_all(local, plan)
    assert Survey(local, plan).count("words") == Count(4, 0, 0, 0)
    assert Survey(local, plan).count("split") == Count(0, 8, 0, 0), "no row has failed"
    assert_completes(local, plan)


@pytest.mark.parametrize("at", [2, 5, 9, 13])
def test_a_full_store_stops_the_run(local, monkeypatch, at):
    """Wherever it happens: at a file, a part, a job's result."""
    plan, written = toys.toy_plan(local, TAKES), list[Any]()
    through = storage_module._write_through

    def until_full(path: Path, data: Any) -> None:
        written.append(path)
        if len(written) >= at:
            fill()
        through(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "_write_through", until_full)
        with pytest.raises((Stopped, CannotWrite), match=f"{local.storage.local_root}: {NO_ROOM}"):
            run_all(local, plan)
    assert not any(c.failed for c in Survey(local, plan).counts().values())
    assert_completes(local, plan)


def assert_completes(local: Any, plan: Any) -> None:
    report = verify(local)
    assert (report.faults, report.temporaries) == ([], [])
    run_all(local, plan)
    assert Survey(local, plan).count("mark") == Count(8, 0, 0, 0)
    assert verify(local).ok


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_missing_right_is_said(tmp_path):
    storage = Storage(str(tmp_path))
    storage.write("a/b", b"1")
    (tmp_path / "a").chmod(0o500)
    try:
        with pytest.raises(CannotWrite, match=f"cannot write to {tmp_path}: Permission denied; run the same command"):
            storage.write("a/c", b"1")
    finally:
        (tmp_path / "a").chmod(0o700)
