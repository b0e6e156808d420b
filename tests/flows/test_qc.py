"""QC of a render as its users meet it: what fails is delivered and marked, and another threshold measures nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.core.measures.take_metrics import METRICS
from tests.flows.test_render import rushes, table

STRICT = ("qc.dynamic_degree.min=99", "qc.cuts.max=null", "qc.blur.max=null", "qc.frozen.max=null")
ALL_PASS = tuple(f"qc.{name}.max=null" for name in METRICS)


@pytest.fixture(scope="module")
def failed(campaign_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with four takes of which none passes QC, and what the command said."""
    folder = tmp_path_factory.mktemp("qc")
    words = ("render", campaign_file, "--store", folder / "store", "--executor", "local", "--export", folder / "out")
    result = rushes(*words, *STRICT)
    assert result.exit_code == 0, result.output
    return folder / "store", result.output


def test_takes_that_fail_are_delivered_and_told(failed):
    store, said = failed
    assert "4 of 4 takes have a video" in said
    assert "4 of 4 takes failed QC: " in said
    assert "too little or too much motion (4)" in said
    assert len(list((store.parent / "out").glob("*.mp4"))) == 4
    assert "4 of 4 takes failed QC: " in rushes("status", "--store", store).output


def test_the_table_has_a_row_per_take_with_its_metrics_and_reasons(failed, tmp_path):
    rows = table(failed[0], "qc", tmp_path)
    assert [(r["stage"], r["status"]) for r in rows] == [("decode", "rejected")] * 4
    assert len({r["take_id"] for r in rows}) == 4
    assert all(r["dynamic_degree"] is not None and r["sharpness"] is not None for r in rows)
    for row in rows:
        reason = next(r for r in row["reasons"] if r["metric"] == "dynamic_degree")
        assert (reason["step"], reason["op"], reason["threshold"]) == ("qc", ">=", "99")


def test_the_page_marks_them(failed):
    assert rushes("page", "--store", failed[0]).exit_code == 0
    page = (failed[0] / "page.html").read_text()
    assert page.count("QC: too little or too much motion: dynamic_degree is ") == 4
    assert page.count("<video") == 4


def test_another_threshold_measures_nothing_again(failed, campaign_file, tmp_path):
    store = failed[0]
    words = ("render", campaign_file, "--store", store, *ALL_PASS)
    steps = {line.split()[0]: line.split()[1:] for line in rushes(*words, "--dry-run").output.splitlines() if line}
    assert (steps["decode"], steps["measure"]) == (["4", "0", "0", "0"], ["4", "0", "0", "0"])
    assert steps["qc"] == ["0", "4", "0", "0"]
    done = rushes(*words, "--executor", "local")
    assert done.exit_code == 0, done.output
    assert "failed QC" not in done.output
    assert {r["status"] for r in table(store, "qc", tmp_path)} == {"ok"}


def test_a_render_without_qc_has_an_empty_table(campaign_file, tmp_path):
    words = ("render", campaign_file, "--store", tmp_path / "store", "--executor", "local", "--until", "text")
    assert rushes(*words).exit_code == 0
    assert table(tmp_path / "store", "qc", tmp_path) == []
