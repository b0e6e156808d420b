"""The report: its figures are those of the tables, its sliders tell what another selection would keep, text is text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.curate.report import build_report, report_command
from flows.curate.report_data import BINS, failing_more, grid, near_threshold, read_scored, spread, spreads
from flows.curate.throughput import throughput
from flows.run.session import open_catalog
from flows.views.tables import read_table
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.running.runs import find_run
from tests.data_prep.little import video
from tests.flows.curated import curate

HOSTILE = "<img src=x onerror=alert(1)>.mp4"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    """Six clips that move at different speeds, one of them with a hostile name, and one broken source."""
    from tests.data_prep.little import shot, write

    folder = tmp_path_factory.mktemp("footage")
    for seed, speed in enumerate((0.5, 1, 2, 4, 6), 1):
        write(folder / f"s{seed}.mp4", shot(seed, 20, speed))
    video(folder / HOSTILE, (9,), 20)
    (folder / "broken.mp4").write_bytes(b"not a video")
    words = ["select.motion.min=0.05", "select.luma.max=250", "clips.min_s=0.5"]
    return curate(tmp_path_factory.mktemp("report") / "store", folder, *words, label_from_folder=True)[0]


@pytest.fixture(scope="module")
def page(catalog) -> str:
    return build_report(catalog)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def kept(m: dict, i: int, j: int) -> int:
    """What the page's script computes for a minimum at edge i and a maximum at edge j."""
    left = m["free"] + sum(m["from_edge"][i:])
    return left - (sum(m["to_edge"][j:]) if j < BINS else 0)


def test_the_figures_are_those_of_the_tables(catalog, page):
    verdicts = read_table(catalog, "verdicts").to_pylist()
    data = data_of(page)
    n_kept = sum(v["status"] == "kept" for v in verdicts)
    assert 0 < n_kept < len(verdicts) == data["clips"] == 6
    assert data["kept"] == n_kept
    for m in data["metrics"]:
        edges = m["edges"]
        low = min(range(BINS + 1), key=lambda i: abs(edges[i] - m["limits"].get("min", edges[0])))
        high = min(range(BINS + 1), key=lambda i: abs(edges[i] - m["limits"].get("max", edges[-1])))
        assert kept(m, low, high) == n_kept
        assert sum(m["every"]) + m["free"] >= 6
    failing = sum("motion" in {r["metric"] for r in v["reasons"]} for v in verdicts)
    assert f"<td>motion &gt;= 0.05</td><td>{failing}</td>" in page
    assert re.search(r"<td>[^<]{10,}</td><td>error</td><td>1</td>", page), "the sentence of what could not be read"
    assert "PermanentError" not in page
    assert page.count("data:image/jpeg;base64,") >= 6


def test_every_place_of_a_slider_tells_what_selecting_so_would_keep(catalog, page):
    m = next(m for m in data_of(page)["metrics"] if m["metric"] == "motion")
    values = [s["motion"] for s in read_table(catalog, "scores").to_pylist()]
    for i, edge in enumerate(m["edges"]):
        if 0 < i < BINS and min(abs(v - edge) for v in values) > 1e-4:
            assert kept(m, i, BINS) == sum(v >= edge for v in values)
            assert kept(m, 0, i) == sum(v <= edge for v in values)


def test_examples_lie_next_to_the_threshold(catalog):
    scored = read_scored(find_run(catalog, "curate").survey(catalog))
    values = {s["clip_id"]: s["motion"] for s in read_table(catalog, "scores").to_pylist()}
    out, inside = near_threshold(scored, "motion", "min", 0.05, 2)
    below = sorted((v, i) for i, v in values.items() if v < 0.05)
    above = sorted((v, i) for i, v in values.items() if v >= 0.05)
    assert out == [i for _, i in below[::-1][:2]]
    assert inside == [i for _, i in above[:2]]
    assert spread(scored, "letterbox") is None, "a score that is the same everywhere has no chart"
    ends = {m["metric"]: (m["edges"][0], m["shown_from"]) for m in spreads(scored)}
    assert any(edge < 0 for edge, _ in ends.values())
    assert min(shown for _, shown in ends.values()) == 0, "no axis goes below what a score can be"
    assert {m["shown_to"] for m in spreads(scored) if m["metric"] == "static_ratio"} <= {1.0}


def test_clips_that_fail_a_threshold_and_another_are_counted_beside_its_pictures(catalog):
    """So that `just fail: none` does not read as if nothing failed it."""
    scored = read_scored(find_run(catalog, "curate").survey(catalog))
    verdicts = read_table(catalog, "verdicts").to_pylist()
    metrics = [{r["metric"] for r in v["reasons"]} for v in verdicts]
    assert failing_more(scored, "motion", "min", 0.05) == sum("motion" in m and len(m) > 1 for m in metrics)
    above_all = max(s["motion"] for s in read_table(catalog, "scores").to_pylist()) + 1
    assert failing_more(scored, "luma", "max", -1.0) == sum(bool(m - {"luma"}) for m in metrics) > 0
    assert failing_more(scored, "motion", "min", above_all) == sum(bool(m - {"motion"}) for m in metrics)


def test_sources_without_clips_are_named_with_the_reason(page):
    table = re.search(r'<table class="names">(.*?)</table>', page, re.S).group(1)
    assert "broken.mp4" in table
    assert "it is no video that FFmpeg can read" in table
    assert "s1.mp4" not in table


@pytest.mark.parametrize("value", [0.0, 2e-309, -8.9e-310, 7.0, 1e12])
def test_a_score_that_is_always_the_same_has_an_axis_that_can_be_read(value):
    start, step = grid(value, value, [])
    assert start <= value <= start + BINS * step
    assert step >= 1e-9 * max(1.0, abs(value))


def test_text_of_the_footage_is_text(page):
    assert HOSTILE not in page
    assert "&lt;img src=x onerror=alert(1)&gt;.mp4" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_it_goes_into_the_store_or_a_file(catalog, tmp_path, capsys):
    assert report_command(catalog.storage.url, "", None) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert b"What was kept, and why the rest was rejected" in catalog.storage.read("report.html")
    assert report_command(catalog.storage.url, "", tmp_path / "sub" / "r.html") == 0
    assert (tmp_path / "sub" / "r.html").stat().st_size > 10_000
    with pytest.raises(BadInput, match="cannot write"):
        report_command(catalog.storage.url, "", tmp_path)


def test_a_run_without_verdicts_is_refused(catalog, tmp_path):
    empty = open_catalog(str(tmp_path / "empty"))
    with pytest.raises(BadInput, match="no curate run"):
        build_report(empty)
    store = shutil.copytree(catalog.storage.url, tmp_path / "store")
    footage = Path(read_table(catalog, "sources").to_pylist()[0]["uri"]).parent
    short, _ = curate(store, footage, "clips.min_s=0.5", until="scores")
    with pytest.raises(BadInput, match="no verdicts"):
        build_report(short)


def test_a_run_says_how_fast_each_step_was(catalog):
    record = find_run(catalog, "curate")
    found = {r["step"]: r for r in throughput(record.survey(catalog), record.row["run_id"])}
    assert list(found)[:4] == ["ingest", "analyse", "cuts", "clips"]
    assert (found["analyse"]["rows"], found["analyse"]["frames"]) == (6, 120)
    assert found["analyse"]["footage_s"] == pytest.approx(8)
    for row in found.values():
        assert row["frames_per_core_second"] * row["core_seconds"] == pytest.approx(row["frames"])
        assert row["hours_per_hour"] * row["seconds"] == pytest.approx(row["footage_s"])
    assert found["caption"]["rows"] == sum(v["status"] == "kept" for v in read_table(catalog, "verdicts").to_pylist())
    assert throughput(record.survey(catalog), "another") == []


LIMITS = st.floats(-1e3, 1e3).map(lambda v: round(v, 3))


@settings(deadline=None)
@given(LIMITS, st.floats(1e-3, 1e3), st.lists(LIMITS, max_size=2, unique=True))
@example(0.0, 619.0, [0.0, 0.25])
@example(-500.0, 1000.0, [0.0, 0.25])
def test_every_threshold_lies_on_an_edge(low, width, limits):
    limits = sorted(limits)
    if len(limits) == 2 and limits[1] - limits[0] < 1e-3:
        return
    start, step = grid(low, low + width, limits)
    assert step > 0
    for limit in limits:
        place = (limit - start) / step
        assert abs(place - round(place)) < 1e-6
        assert -1e-6 <= place <= BINS + 1e-6
    if len(limits) < 2:
        assert start <= low
        assert start + BINS * step >= low + width - 1e-9
