"""What Ray prints about a start that fails goes to a file, and not over the one sentence that helps."""

import logging
from pathlib import Path

import pytest

from infra.ray.cluster import _starting
from infra.ray.start_output import SPEAKER
from stages.core.errors import BadInput


def start(said: str) -> None:
    """A start that fails as Ray's does."""
    with _starting():
        if said:
            logging.getLogger(SPEAKER).error(said)
        raise RuntimeError("timed out during startup")


def test_a_start_that_fails_names_the_file_with_what_ray_said(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    heard = list[str]()
    above = logging.Handler()
    above.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ray").addHandler(above)
    try:
        with pytest.raises(BadInput, match=r"--executor local\. Ray's own messages are in ") as refused:
            start("The last 20 lines of dashboard.log")
        logging.getLogger(SPEAKER).error("later")
    finally:
        logging.getLogger("ray").removeHandler(above)
    assert heard == ["later"], "what is said outside of a start is shown as before"
    assert Path(str(refused.value).rsplit(" ", 1)[1]).read_text() == "The last 20 lines of dashboard.log\n"


def test_a_start_that_fails_without_a_word_names_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(BadInput, match=r"--executor local$"):
        start("")
    assert not list(tmp_path.iterdir())
