"""Why rows failed, as `status` and `table` show it: the cause, whole, also of what the next run tries again."""

from __future__ import annotations

import re

import yaml
from click.testing import CliRunner, Result

from flows.cli.main import main

CAUSE = "ConnectionError: the weights of this step lie on a server that does not answer: it is switched off"
TOYS = {
    "text": {"use": "tests.flows.toys:Letters"},
    "draw": {"use": "tests.flows.toys:NoWeights"},
    "finish": {"use": "tests.flows.toys:Finish"},
}


def rushes(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


def test_the_cause_of_a_failed_set_up_is_shown(tmp_path, monkeypatch):
    cascade, campaign, store = tmp_path / "cascade.yaml", tmp_path / "toys.yaml", tmp_path / "store"
    cascade.write_text(yaml.safe_dump({"steps": TOYS, "infra": {"executor": "local"}}, sort_keys=False))
    values = {"name": "toys", "prompts": ["one", "this is broken"], "seeds": 2, "cascade": str(cascade)}
    campaign.write_text(yaml.safe_dump(values))
    monkeypatch.setenv("RUSHES_TOY_OFF", "1")
    done = rushes("render", campaign, "--store", store)
    assert done.exit_code == 1, done.output
    assert "failed; 1 row of text, 2 rows of draw failed" in done.output
    shown = rushes("status", "--store", store).output
    assert f"draw 2 rows (attempt 1, the next run tries again): {CAUSE} (toys.py:" in shown
    assert re.search(r"text this is broken, \w{12} \(attempt 1\): this prompt is broken", shown)
    assert "draw 0 2 0 0" in " ".join(shown.split()), "they are to do"
    monkeypatch.setattr("flows.cli.store.console._width", 400)  # so that no sentence wraps
    sentence = CAUSE.partition(": ")[2]
    assert rushes("table", "artifacts", "--store", store).output.count(sentence) == 2
    takes = rushes("table", "takes", "--store", store).output
    assert (takes.count(f"draw: {sentence}"), takes.count("text: this prompt is broken")) == (2, 2)
    monkeypatch.delenv("RUSHES_TOY_OFF")
    assert rushes("render", campaign, "--store", store).exit_code == 0
    shown = rushes("status", "--store", store).output
    assert CAUSE not in shown
    assert "this prompt is broken" in shown
