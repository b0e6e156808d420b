"""Benchmarks are not run with the tests; that they can be, and compare like with like, is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from flows.render import load_campaign

FILES = sorted(path.stem for path in (Path(__file__).parent / "benchmarks").glob("bench_*.py"))


@pytest.mark.parametrize("name", FILES)
def test_a_benchmark_can_be_started(name):
    assert callable(importlib.import_module(f"tests.benchmarks.{name}").main)


def test_the_plain_script_makes_the_calls_that_the_cascade_makes():
    from tests.benchmarks import plain_script

    steps = load_campaign([], {"prompts": list(plain_script.PROMPTS)}, []).steps
    base, refine = steps["base"].config, steps["refine"].config
    assert pytest.approx(base.sampling.levels()) == plain_script.BASE_TIMESTEPS
    assert pytest.approx(refine.sampling.levels()) == plain_script.REFINE_TIMESTEPS
    assert (base.sampling.guidance, refine.strength) == (plain_script.GUIDANCE, plain_script.STRENGTH)
