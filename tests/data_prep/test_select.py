"""Verdicts: every failing threshold is named, and what was not measured fails nothing."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.select import Select, check_thresholds
from stages.core.errors import BadInput


def tables(motion, luma, camera=None):
    n = len(motion)
    ids = [f"c{i}" for i in range(n)]
    clips = {"clip_id": ids, "unit_id": ["s"] * n, "start_s": [0.0] * n, "end_s": [2.0] * n, "n_frames": [50] * n}
    source = {
        "id": ["s"], "width": [640], "height": [360], "display_width": [640], "display_height": [360],
        "bitrate": [1000], "fps": [25.0], "interlaced": [False], "is_vfr": [False], "has_audio": [True],
    }  # fmt: skip
    scores = {"clip_id": ids, "motion": pa.array(motion, pa.float64()), "luma": pa.array(luma, pa.float64())}
    scores["camera_motion"] = camera or ["static"] * n
    return {"clips": pa.table(clips), "units": pa.table(source), "scores": pa.table(scores)}


def verdicts(thresholds, given_tables):
    job = Select(Select.Config(thresholds=thresholds), None)
    return {r["id"]: r for r in job.run(given_tables).to_pylist()}


def test_every_failing_threshold_is_said():
    found = verdicts(
        {"motion": {"min": 0.5}, "luma": {"min": 30, "max": 200}, "camera_motion": {"exclude": ["handheld"]}},
        tables([0.1, 0.9, None], [10.0, 100.0, None], ["handheld", "static", "pan"]),
    )
    assert [(r["metric"], r["value"], r["op"], r["threshold"]) for r in found["c0"]["reasons"]] == [
        ("motion", "0.1", ">=", "0.5"),
        ("luma", "10", ">=", "30"),
        ("camera_motion", "handheld", "not in", "handheld"),
    ]
    assert [found[c]["status"] for c in ("c0", "c1", "c2")] == ["rejected", "ok", "ok"]


def test_resolution_duration_and_bitrate_are_metrics():
    found = verdicts(
        {"short_side": {"min": 480}, "duration_s": {"min": 1, "max": 1.5}, "bitrate": {"min": 2000}}, tables([1], [1])
    )
    assert [(r["metric"], r["value"]) for r in found["c0"]["reasons"]] == [
        ("short_side", "360"), ("duration_s", "2"), ("bitrate", "1000"),
    ]  # fmt: skip


def test_no_thresholds_keep_everything_and_null_lifts_one():
    assert verdicts({}, tables([0.1], [1]))["c0"]["status"] == "ok"
    assert verdicts({"motion": {"min": None}}, tables([0.1], [1]))["c0"]["status"] == "ok"


@pytest.mark.parametrize(
    ("thresholds", "says"),
    [
        ({"moton": {"min": 1}}, "did you mean 'motion'"),
        ({"motion": {"minimum": 1}}, "unknown key 'minimum'"),
        ({"motion": {"min": "much"}}, "must be a number"),
        ({"motion": 3}, "must hold min, max or exclude"),
        ({"camera_motion": {"exclude": "pan"}}, "must be a list"),
    ],
)
def test_thresholds_of_no_sense_are_refused(thresholds, says):
    with pytest.raises(BadInput, match=says):
        check_thresholds(thresholds, ["motion", "luma", "camera_motion"])


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_the_verdict_is_what_a_plain_loop_says(values, low, high):
    found = verdicts({"motion": {"min": low, "max": high}}, tables(values, [1.0] * len(values)))
    for i, value in enumerate(values):
        fails = [] if value is None else [op for op, bad in ((">=", value < low), ("<=", value > high)) if bad]
        assert [r["op"] for r in found[f"c{i}"]["reasons"]] == fails


def test_order_of_rows_does_not_matter():
    given_tables = tables(list(np.linspace(0, 1, 20)), [1.0] * 20)
    order = pa.array(np.random.default_rng(0).permutation(20))
    mixed = {k: v.take(order) if v.num_rows == 20 else v for k, v in given_tables.items()}
    job = Select(Select.Config(thresholds={"motion": {"min": 0.5}}), None)
    assert job.run(given_tables).sort_by("id").equals(job.run(mixed).sort_by("id"))


def test_only_what_is_needed_is_asked_for():
    config = Select.Config(thresholds={"motion": {"min": 0.5}, "short_side": {"min": 9}, "luma": None})
    assert set(Select(config, None).columns("scores")) == {"clip_id", "motion", "short_side"}
    assert Select.inputs(config).ports["scores"].columns == ("motion", "short_side")
    assert Select.inputs(config).units == ("display_width", "display_height")
    assert "scores" not in Select.inputs(Select.Config()).ports
