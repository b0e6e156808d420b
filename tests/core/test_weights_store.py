"""Checkpoints out of a store that is elsewhere: a copy that is not what was kept is refused."""

from __future__ import annotations

import pytest

from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.weights.digests import cache_folder, weights_digest
from stages.core.weights.store import CHECKPOINTS, fetch, keep


@pytest.fixture
def kept(tmp_path, monkeypatch) -> tuple[Storage, dict]:
    """A checkpoint in a store in memory, and its row."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "model"
    (model / "vae").mkdir(parents=True)
    (model / "vae" / "config.json").write_text("{}")
    (model / "vae" / "weights").write_bytes(b"0123456789")
    storage = Storage(f"memory://{tmp_path.name}")
    files = keep(storage, model, "checkpoints/one")
    row = {"id": "one", "folder": "checkpoints/one", "digest": weights_digest(model), "files": files}
    return storage, row


def test_a_copy_is_the_checkpoint_and_is_made_once(kept):
    storage, row = kept
    folder = fetch(storage, row)
    assert (folder / "vae" / "weights").read_bytes() == b"0123456789"
    for file in row["files"]:
        storage.write(file["uri"], b"no longer read")
    assert fetch(storage, row) == folder


def test_content_that_changed_in_the_store_is_refused_and_nothing_stays(kept):
    storage, row = kept
    storage.write("checkpoints/one/vae/weights", b"9876543210")
    for _ in range(2):
        with pytest.raises(BadInput, match="not what was kept"):
            fetch(storage, row)
    assert not list((cache_folder() / CHECKPOINTS).rglob("weights"))


def test_a_copy_that_changed_here_is_refused(kept):
    storage, row = kept
    (fetch(storage, row) / "vae" / "weights").write_bytes(b"9876543210")
    with pytest.raises(BadInput, match="was changed; remove that folder"):
        fetch(storage, row)
