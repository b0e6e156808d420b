"""Where Ray keeps its session when it cannot in TMPDIR, and what is said where it does not start.

tests/flows/test_faults.py has runs under such TMPDIRs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import ray

from infra.ray.cluster import Cluster
from infra.ray.session_folder import MOST_BYTES, SOCKET, session_folder
from infra.ray.settings import RaySettings
from stages.core.errors import BadInput


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


def test_a_folder_that_ray_can_use_is_kept(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert session_folder() == "/var/tmp/ray"
    monkeypatch.delenv("TMPDIR")
    assert session_folder() == "/tmp/ray"


@pytest.mark.parametrize("name", ["x" * 120, "a b", "ü", "a;b", "none"])
def test_another_is_passed_over(tmp_path, monkeypatch, name):
    """Also one that is not there."""
    folder = Path("/tmp") / name if name == "none" else tmp_path / name
    if name != "none":
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    found = session_folder()
    assert found == "/tmp/ray"
    assert len(f"{found}/{SOCKET}") <= MOST_BYTES


def test_where_none_can_be_used_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "a b"))
    with pytest.raises(BadInput, match=r"RAY_TMPDIR=.*a b: Ray needs a folder .* without spaces$"):
        session_folder()
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr("infra.ray.session_folder.is_usable", lambda folder: False)
    with pytest.raises(BadInput, match="set RAY_TMPDIR to one that can be written to"):
        session_folder()


def test_a_ray_that_does_not_start_is_one_sentence_and_the_log_has_the_rest(monkeypatch, caplog):
    """Ray raises a bare exception of several lines for it."""

    def late(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nmore")  # what Ray raises

    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with caplog.at_level(logging.INFO, "rushes.ray"), pytest.raises(BadInput) as caught:
        Cluster(RaySettings()).connect()
    assert "(The current node timed out during startup.)" in str(caught.value)
    assert str(caught.value).endswith("--executor local")
    assert "\n" not in str(caught.value)
    assert "Traceback" in caplog.text
