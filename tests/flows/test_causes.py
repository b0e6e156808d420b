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


def column(name: str, output: str) -> str:
    """What stands under a heading of a table that was printed, without spaces, as sentences wrap at them."""
    head, _, *lines = output.splitlines()
    start = head.index(name)
    found = re.compile(r"\s{2,}\S").search(head, start)
    end = found.end() - 1 if found else None
    return "".join(line[start:end] for line in lines).replace(" ", "")


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
    counts = {line.split()[0]: line.split()[1:] for line in shown.splitlines()[2:5]}  # done, to do, waiting, failed
    assert counts == {"text": ["1", "0", "0", "1"], "draw": ["0", "0", "0", "2"], "finish": ["0", "0", "2", "0"]}
    sentence = CAUSE.partition(": ")[2]
    for width in ("400", "80", "60"):
        monkeypatch.setenv("COLUMNS", width)
        artifacts = column("error", rushes("table", "artifacts", "--store", store).output)
        assert artifacts.count(sentence.replace(" ", "")) == 2, width
        takes = column("error", rushes("table", "takes", "--store", store).output)
        assert takes.count(f"draw: {sentence}".replace(" ", "")) == 2, width
        assert takes.count("text:thispromptisbroken") == 2, width
    monkeypatch.delenv("RUSHES_TOY_OFF")
    assert rushes("render", campaign, "--store", store).exit_code == 0
    shown = rushes("status", "--store", store).output
    assert CAUSE not in shown
    assert "this prompt is broken" in shown
