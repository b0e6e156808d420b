"""What a campaign cost, and what it will cost: from the rows of its store."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli.main import main
from flows.render.campaign import load_campaign
from flows.run.estimate import MEASURED, SCALED, UNKNOWN, estimate, estimate_text, fit
from flows.run.session import existing_catalog, prepare
from flows.run.settings import PricesConfig
from stages.core.running.run import Budget


def rushes(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == code, result.output
    return result.output


def read(store: Path, name: str, out: Path) -> list[dict]:
    rushes("table", name, "--store", store, "--out", out / f"{name}.parquet")
    return pq.read_table(out / f"{name}.parquet").to_pylist()


@given(
    st.floats(0, 5),
    st.floats(0.01, 5),
    st.lists(st.floats(1, 100), min_size=2, max_size=6, unique_by=round),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_a_fixed_part_and_a_part_that_grows_are_found_again(fixed, slope, sizes, more):
    found = fit(sizes, [fixed + slope * s for s in sizes], [False] * len(sizes))
    wanted = sum(fixed + slope * s * 1.5 for s in sizes) * more
    assert found.of([s * 1.5 for s in sizes] * more) == pytest.approx(wanted, rel=1e-3)
    assert found.sizes == (min(sizes), max(sizes))


def test_rows_of_one_size_scale_and_the_first_row_of_a_worker_is_counted_once():
    found = fit([4.0, 4.0, 4.0], [9.0, 2.0, 2.0], [True, False, False])
    assert (found.fixed, found.slope, found.first) == (0.0, 0.5, 7.0)
    assert found.of([8.0] * 10) == 40.0 + 7.0
    assert found.of([8.0] * 10, workers=3) == 40.0 + 21.0
    alone = fit([4.0], [2.0], [True])
    assert alone.of([4.0, 4.0]) == 4.0, "of a worker with a single row it is not known how the others differ"


def test_a_budget_of_money_is_used_up_by_its_prices():
    prices = PricesConfig(core_hour=3.6, gpu_hour=36, currency="EUR")
    budget = Budget(money=1, price=prices.money, unit=prices.currency)
    assert budget.exceeded({"core_seconds": 499, "gpu_seconds": 50}) == ""
    assert budget.exceeded({"core_seconds": 501, "gpu_seconds": 50}) == "the budget of 1 EUR is used up"
    assert (prices.text(1234.5), prices.text(0.00123), prices.text(0)) == ("1,234.50 EUR", "0.0012 EUR", "0.00 EUR")


@pytest.fixture(scope="module")
def rendered(campaign_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("costs") / "store"
    dry = rushes("render", campaign_file, "--store", store, "--dry-run")
    assert "estimate: unknown, as none of these steps was run in this store yet" in dry
    rushes("render", campaign_file, "--store", store, "prices.core_hour=2", "prices.currency=EUR")
    return store


def test_the_costs_of_all_takes_are_what_was_spent(rendered, tmp_path):
    costs = read(rendered, "costs", tmp_path)
    assert len(costs) == 4 * 8, "six stages, what is measured of the video, and its check"
    (run,) = [r for r in read(rendered, "runs", tmp_path) if r["flow"] == "render"]
    spent = sum(c["core_seconds"] for c in costs)
    assert spent == pytest.approx(run["core_seconds"], rel=1e-6)
    assert sum(c["money"] for c in costs) == pytest.approx(spent * 2 / 3600)
    assert {c["campaign"] for c in costs} == {"small"}
    # Two takes of a prompt share its text, and so each bears half of it.
    text = [c["core_seconds"] for c in costs if c["stage"] == "text" and "circle" in c["prompt"]]
    assert len(text) == 2
    assert text[0] == text[1]
    assert rushes("table", "costs", "--store", rendered)


def test_a_dry_run_says_what_is_left_will_cost(rendered, campaign_file):
    again = rushes("render", campaign_file, "--store", rendered, "--dry-run")
    assert "estimate" not in again, "there is nothing to do"
    more = rushes("render", campaign_file, "--store", rendered, "--dry-run", "seeds=4", "prices.core_hour=3")
    assert "8 rows" not in more.split("estimate")[0]
    lines = [line.split() for line in more.splitlines()]
    assert next(w for w in lines if w[:1] == ["base"] and w[-1] == "rows")[1] == "4", "four takes are reused"
    assert "estimate: about" in more
    assert "on the clock" in more


def _base(found) -> float:
    return next(s.core_seconds for s in found.steps if s.step == "base")


def test_sizes_and_rows_decide_the_estimate_and_steps_never_run_are_named(rendered, campaign_file, tmp_path):
    def asked(*overrides: str):
        campaign = load_campaign([campaign_file], {}, overrides, str(rendered))
        prepared = prepare(campaign, str(rendered), look_only=True)
        return estimate(prepared.catalog, prepared.survey)

    by = {s.step: s for s in asked("seeds=4").steps}
    assert {by[n].sureness for n in ("base", "refine", "decode")} == {MEASURED}
    large = {s.step: s for s in asked("seeds=4", "width=128", "height=128").steps}
    assert large["base"].rows == 8, "none of another size is reused"
    assert large["base"].sureness == SCALED
    of = [_base(asked("seeds=4", f"width={w}", f"height={h}")) for w, h in ((128, 128), (256, 128), (256, 256))]
    assert of[2] - of[1] == pytest.approx(2 * (of[1] - of[0])), "twice the pixels, but for the first row of a worker"
    assert large["text"].rows == 0, "a text is encoded once, whatever the size"
    changed = asked("refine.sampling.steps=3")
    assert {s.step: s.sureness for s in changed.steps if s.rows} == {
        "refine": UNKNOWN,
        **dict.fromkeys(("decode", "measure", "qc"), MEASURED),
    }
    assert changed.unknown == ["refine"]
    assert "without refine, never run in this store" in estimate_text(changed, PricesConfig())
    assert all(math.isfinite(s.core_seconds) for s in changed.steps)
    assert existing_catalog(str(rendered))


def test_a_budget_of_money_stops_a_campaign_and_asks_for_prices(campaign_file, tmp_path):
    says = rushes("render", campaign_file, "--store", tmp_path / "s", "budget.money=1", code=2)
    assert "budget.money needs prices: set prices.core_hour or prices.gpu_hour, too" in says
    words = ("budget.money=0.000001", "prices.core_hour=100", "prices.currency=EUR")
    says = rushes("render", campaign_file, "--store", tmp_path / "s", "--executor", "local", *words, code=3)
    assert "the budget of 1e-06 EUR is used up" in says
    assert "not finished" in says
    rushes("render", campaign_file, "--store", tmp_path / "s", "--executor", "local")


def test_prices_are_checked(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "prompts": ["a red circle"], "prices": {"core_hour": -1}}))
    assert "prices.core_hour must be 0 or more, not -1" in rushes("render", path, "--store", tmp_path / "s", code=2)
