"""TransNetV2 on the shipped reel, and what its word changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.models.packaged import torch_pickle
from data_prep.models.transnet import load, odds, window_frames
from data_prep.shots import second_opinion
from data_prep.shots.second_opinion import ConfirmedCuts
from data_prep.signals.pictures import Fit, Moment, pictures_at
from data_prep.signals.signals import decode_signals
from data_prep.signals.store import write_signals
from stages.core.config import load_class, make_ref
from stages.core.ledger.storage import Storage
from stages.core.measures.shots.detector import Transition
from stages.core.step import Workspace
from tests.data_prep.test_models import installed

REEL = Path(__file__).parents[2] / "data_prep" / "footage" / "reel.mp4"
NEEDS = installed(second_opinion.MODEL)


@pytest.fixture(scope="module")
def reel(tmp_path_factory) -> tuple[Workspace, dict]:
    """The row that the step is given for the reel: cut at 72, dissolve 150-168, fade 223-246, cut at 343."""
    workspace = Workspace(Storage(str(tmp_path_factory.mktemp("store"))))
    kept = write_signals(workspace, decode_signals(REEL).table)
    there = REEL.stat()
    file = {"uri": str(REEL), "bytes": there.st_size, "sha256": "", "version": str(there.st_mtime_ns)}
    return workspace, {"source_id": "reel", **file, "stream_index": 0, "signals": kept}


@NEEDS
def test_it_finds_the_cut_of_the_reel_and_says_the_same_twice():
    net = load(torch_pickle(second_opinion.MODEL.checked("x")))
    frames = window_frames(72, 415)
    pts = decode_signals(REEL).table.column("pts").to_pylist()
    pictures = [p for _, p in pictures_at(REEL, 0, [Moment(n, pts[n]) for n in frames], Fit(long=96))]
    single, many = odds(net, pictures)
    assert frames[int(single.argmax())] == 71
    assert single.max() > 0.9
    assert np.delete(single, np.arange(45, 55)).max() < 0.3
    again = load(torch_pickle(second_opinion.MODEL.checked("x")))
    assert np.array_equal(np.stack([single, many]), odds(again, pictures))


def test_windows_at_the_ends_repeat_the_last_frame():
    assert window_frames(10, 200)[:42] == [0] * 41 + [1]
    assert window_frames(10, 30)[-32:-29] == [28, 29, 29]


class Told(ConfirmedCuts):
    """Asks a table instead of the network, to see what each answer leads to."""

    said: dict[int, float]

    def odds(self, transition, path, row, table):
        self.asked.append((transition.kind, transition.first_frame))
        return self.said.get(transition.first_frame, 0.0)


def told(reel, said, **config) -> Told:
    workspace, _ = reel
    step = Told.__new__(Told)
    step.config, step.workspace, step.said, step.asked = ConfirmedCuts.Config(**config), workspace, said, []
    return step


def found(step: Told, reel) -> list[tuple[str, int]]:
    return [(r["kind"], r["first_frame"]) for r in step.process(reel[1])["rows"]]


@NEEDS
def test_only_doubtful_cuts_and_dissolves_are_asked_about(reel):
    step = told(reel, {}, sure=0.5)
    whole = found(step, reel)
    assert [(k, abs(f - w) <= 1) for (k, f), w in zip(whole, (72, 150, 223, 343), strict=True)] == [
        ("cut", True), ("dissolve", True), ("fade", True), ("cut", True),
    ]  # fmt: skip
    assert step.asked == []
    doubtful = told(reel, {72: 0.9, 343: 0.1}, sure=1.0)
    assert [k for k, _ in found(doubtful, reel)] == ["cut", "fade"]
    assert {k for k, _ in doubtful.asked} == {"cut", "dissolve"}


@NEEDS
def test_a_cut_that_was_missed_is_added_where_it_is_sure(reel):
    strict = {"rules": {"cut_floor": 40.0}, "reach": 0.2, "sure": 0.0}
    base = [f for k, f in found(told(reel, {}, **strict), reel) if k == "cut"]
    step = told(reel, {72: 0.95, 343: 0.95}, **strict)
    added = [f for k, f in found(step, reel) if k == "cut"]
    assert set(added) >= set(base)
    assert {72, 343} <= set(added)


@NEEDS
def test_frames_that_cannot_be_decoded_again_drop_nothing(reel):
    """The table knows of frames that the file has no more."""
    times = range(0, 830 * 10**7, 10**7)
    longer = pa.table({"pts": times, "said": times})
    assert ConfirmedCuts.odds(told(reel, {}), Transition("cut", 600, 600, 0.6), REEL, reel[1], longer) == 1.0


@NEEDS
def test_it_takes_the_place_of_the_step_cuts():
    ref = make_ref("cuts", {"use": "data_prep.shots.second_opinion:ConfirmedCuts", "preset": "web"})
    cls = load_class(ref.use)
    assert cls.writes == load_class("data_prep.shots.cuts:Cuts").writes
    assert cls.kind == load_class("data_prep.shots.cuts:Cuts").kind
