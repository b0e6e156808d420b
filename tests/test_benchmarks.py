"""Benchmarks are not run with the tests; that they can be, and compare like with like, is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from flows.render.campaign import load_campaign

FILES = sorted(path.stem for path in (Path(__file__).parent / "benchmarks").glob("bench_*.py"))


@pytest.mark.parametrize("name", FILES)
def test_a_benchmark_can_be_started(name):
    assert callable(importlib.import_module(f"tests.benchmarks.{name}").main)


def test_the_plain_script_makes_the_calls_that_the_cascade_makes():
    from tests.benchmarks import plain_script

    campaign = load_campaign([], {"prompts": list(plain_script.PROMPTS)}, [])
    steps = campaign.steps
    base, refine = steps["base"].config, steps["refine"].config
    assert pytest.approx(base.sampling.levels()) == plain_script.BASE_TIMESTEPS
    assert pytest.approx(refine.sampling.levels()) == plain_script.REFINE_TIMESTEPS
    assert (campaign.takes[0]["guidance"], refine.strength) == (plain_script.GUIDANCE, plain_script.STRENGTH)


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["vae", "base"])
def test_a_step_of_the_loop_is_set_beside_a_bare_one(stage):
    from tests.benchmarks.bench_train import compare

    figures = compare(stage, 1)
    assert figures["pairs"] == 1
    assert figures["seconds"] > 0
    assert figures["bare_seconds"] > 0
