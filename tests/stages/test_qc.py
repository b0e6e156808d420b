"""`measure` and `qc`: a file against its row, metrics against thresholds, and what a refused row still holds."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from stages.core.config import make_ref
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.measures.take_metrics import METRICS
from stages.core.media import write_video
from stages.core.running.executor import Work, Worker
from stages.core.sound import Sound
from stages.core.step import InputRow, Rejected, Row, Workspace
from stages.measure import Measure
from stages.qc import Qc, Range

FPS = 16.0
MEASURED = {**dict.fromkeys(METRICS, 0.0), "blur": None, "faults": []}


def frames(count: int = 9) -> np.ndarray:
    ramp = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    return np.stack([np.roll(np.stack([ramp, ramp // 2, 255 - ramp], axis=-1), 3 * i, axis=1) for i in range(count)])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(Storage(str(tmp_path)))


def video(workspace: Workspace, data: bytes, **other: object) -> Row:
    """The row of a video of 9 frames that was decoded to these bytes."""
    said = {"width": 96, "height": 64, "n_frames": 9, "fps": FPS, "seconds": 9 / FPS, "sound_rate": None}
    return {**workspace.put(data, ".mp4"), **said, **other}


def measure(workspace: Workspace, row: Row) -> Row:
    return Measure(Measure.Config(), workspace).process(InputRow({"video": row}))


def test_a_video_as_its_row_says_has_no_fault(workspace):
    found = measure(workspace, video(workspace, write_video(frames(), FPS)))
    assert found["faults"] == []
    assert set(found) == {*METRICS, "faults"} == set(Measure.writes.names)
    assert found["dynamic_degree"] > 0


@pytest.mark.parametrize(
    ("other", "metric"),
    [
        ({"n_frames": 10}, "frames"),
        ({"width": 98}, "width"),
        ({"height": 66}, "height"),
        ({"fps": 24.0}, "fps"),
        ({"seconds": 1.5}, "seconds"),
        ({"sound_rate": 48000}, "sound"),
    ],
)
def test_a_file_that_is_not_what_its_row_says_has_a_fault(workspace, other, metric):
    row = video(workspace, write_video(frames(), FPS), **other)
    assert metric in [fault["metric"] for fault in measure(workspace, row)["faults"]]


def test_sound_is_held_against_the_row_too(workspace):
    rate = 16000
    sound = Sound(np.zeros((1, round(9 / FPS * rate)), np.float32), rate)
    data = write_video(frames(), FPS, sound=sound)
    assert measure(workspace, video(workspace, data, sound_rate=rate))["faults"] == []
    faults = measure(workspace, video(workspace, data))["faults"]
    assert [(f["metric"], f["value"], f["threshold"]) for f in faults] == [("sound", "16000 Hz", "none")]
    short = write_video(frames(), FPS, sound=replace(sound, samples=sound.samples[:, : rate // 10]))
    faults = measure(workspace, video(workspace, short, sound_rate=rate))["faults"]
    assert [f["metric"] for f in faults] == ["sound seconds"]


def test_colours_that_are_not_said_are_a_fault(workspace, tmp_path):
    with av.open(str(tmp_path / "bare.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for picture in frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    faults = measure(workspace, video(workspace, (tmp_path / "bare.mp4").read_bytes()))["faults"]
    assert [f["metric"] for f in faults] == ["colour tags"]


@pytest.mark.parametrize("keep", [0, 300, 0.6])
def test_a_file_that_breaks_off_is_a_fault_and_no_error(workspace, keep):
    data = write_video(frames(), FPS)
    row = video(workspace, data[: int(keep * len(data)) if keep < 1 else keep] or b"nothing")
    found = measure(workspace, row)
    assert found["faults"]
    with pytest.raises(Rejected):
        Qc(Qc.Config(), workspace).process(InputRow({"measures": found}))


def verdict(workspace: Workspace, config: Qc.Config, **measured: object) -> list[Row]:
    try:
        Qc(config, workspace).process(InputRow({"measures": {**MEASURED, **measured}}))
    except Rejected as refused:
        return refused.reasons
    return []


def test_every_threshold_that_is_not_met_is_a_reason(workspace):
    assert verdict(workspace, Qc.Config()) == []
    found = verdict(workspace, Qc.Config(), flicker=0.5, cuts=2.0, blur=None)
    assert [r["metric"] for r in found] == ["flicker", "cuts"]
    assert found[1] == {"metric": "cuts", "value": "2.0", "op": "<=", "threshold": "0"}
    low = verdict(workspace, Qc.Config(sharpness=Range(min=5)))
    assert [(r["metric"], r["op"]) for r in low] == [("sharpness", ">=")]
    assert verdict(workspace, Qc.Config(flicker=Range(max=None)), flicker=0.5) == []


def test_a_threshold_is_checked_before_any_work():
    entry = {"use": "stages.qc:Qc"}
    assert make_ref("qc", {**entry, "flicker": {"max": 0.5}}).config.flicker == Range(max=0.5)
    for wrong, said in (
        ({"fliker": {"max": 1}}, "did you mean 'flicker'"),
        ({"flicker": {"most": 1}}, "max"),
        ({"flicker": {"max": "much"}}, "must be a number"),
        ({"flicker": {"max": math.nan}}, "must be a number or null"),
        ({"flicker": {"min": 2, "max": 1}}, "nothing would pass"),
    ):
        with pytest.raises(BadInput, match=said):
            make_ref("qc", {**entry, **wrong})


def test_a_refused_row_keeps_its_metrics_in_the_ledger(workspace):
    """So that a gate, the table and other thresholds find them."""
    worker = Worker(replace(make_ref("qc", {"use": "stages.qc:Qc"}), fingerprint="f"), workspace.storage)
    row = worker.run_one(Work("p", "", 0, {"measures": {**MEASURED, "flicker": 0.5, "colour_drift": 50.0}}))
    assert (row["status"], row["flicker"], row["colour_drift"]) == ("rejected", 0.5, 50.0)
    assert [(r["step"], r["metric"]) for r in row["reasons"]] == [("qc", "flicker"), ("qc", "colour_drift")]


@pytest.mark.soak
def test_defects_are_found_in_clips_that_nothing_was_calibrated_on():
    """The short form of tests/benchmarks/bench_qc.py: ten real clips and ten of the world, a defect each."""
    from tests.benchmarks.bench_qc import figures, gather, measure_all, thresholds

    data = Path(os.environ.get("RUSHES_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (data / "videos").is_dir():
        pytest.skip("there are no test videos; set RUSHES_DATA")
    found = figures(measure_all(gather(data, "", "heldout", 10, 10), None), thresholds())
    for name, figure in found["defects"].items():
        assert figure["own"] >= 0.9 * figure["clips"] > 0, (name, figure)
        assert figure["alarms"] <= 1, (name, found["alarms"])
