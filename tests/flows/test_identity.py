"""What decides a result and what does not, over the real steps: nothing that is merely carried, named or undeclared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from flows.curate.curation import load_curation
from flows.render.campaign import load_campaign
from flows.run.session import Prepared, execute, existing_catalog, prepare
from flows.views.tables import read_table
from stages.core.config import load_class
from stages.core.config_files import CONFIGS
from stages.core.ledger.catalog import VOLATILE
from tests.data_prep.little import video

LOCAL = "infra.executor=local"


def done(prepared: Prepared) -> Prepared:
    assert execute(prepared).status == "done"
    return prepared


def rows_of_steps(prepared: Prepared) -> dict[str, list[str]]:
    """Every row of every step, as text, without what differs between two honest runs."""
    survey = prepared.survey
    survey.refresh()
    found = {}
    for node in (n for n in prepared.plan.nodes if not n.job):
        table = survey.query(f'SELECT * FROM "l_{node.name}"').drop_columns(list(VOLATILE))
        found[node.name] = sorted(map(str, table.to_pylist()))
    return found


def media(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (store / "media").rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage") / "where-it-lay-first"
    folder.mkdir()
    video(folder / "two shots.mp4", (1, 2))
    return folder


def test_where_footage_lies_decides_nothing_and_is_kept_nowhere(footage, tmp_path):
    """The same files in another folder: all rows behind the probe are equal, and no file or row names the folder."""
    moved = shutil.copytree(footage, tmp_path / "another-place")
    stores = {}
    for name, folder in (("first", footage), ("second", moved)):
        stores[name] = done(prepare(load_curation([str(folder)], "curate", {}, [LOCAL]), str(tmp_path / name)))
    first, second = (rows_of_steps(p) for p in stores.values())
    assert len(first) > 7
    assert sum(map(len, first.values())) > 8
    differing = [n for n in first if first[n] != second[n]]
    assert differing == ["ingest"], "a probe is found again by where the file lies, and by nothing else"
    assert media(tmp_path / "first") == media(tmp_path / "second")
    for place in (footage, moved):
        told = str(place).encode()
        assert not [n for n, data in media(tmp_path / "first").items() if told in data]
        assert not [n for n, rows in first.items() for row in rows if str(place) in row]


def one_take(campaign_file: Path, *overrides: str, **values):
    return load_campaign([campaign_file], {"limit": 1, **values}, [LOCAL, "seeds=1", *overrides])


@pytest.fixture(scope="module")
def store(campaign_file, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identity") / "store"
    done(prepare(one_take(campaign_file), str(folder)))
    return folder


def test_a_step_that_does_not_apply_changes_no_id(campaign_file, store):
    """With `see` and `extend` in the plan or without: the same rows."""
    assert prepare(one_take(campaign_file), str(store)).idle
    without = prepare(one_take(campaign_file, "see.enabled=false", "extend.enabled=false"), str(store))
    assert "see" not in [n.name for n in without.plan.nodes]
    assert without.idle


def test_tags_priority_and_campaign_decide_no_row(campaign_file, store):
    other = prepare(one_take(campaign_file, "name=another", "tags=[hero]", "priority=3"), str(store))
    assert not [n for n, c in other.survey.counts().items() if c.todo or c.waiting]


@pytest.mark.parametrize(
    ("change", "first"),
    [("seed=5", "base"), ("guidance=1.5", "base"), ("fps=9", "base"), ("negative_prompt=blur", "text")],
)
def test_what_a_take_asks_for_decides_from_the_step_that_reads_it(campaign_file, store, change, first):
    counts = prepare(one_take(campaign_file, change), str(store)).survey.counts()
    assert next(n for n, c in counts.items() if c.todo or c.waiting) == first


def test_a_changed_default_touches_only_takes_that_used_it(campaign_file, store):
    own = {"prompt": load_campaign([campaign_file], {}, []).takes[0]["prompt"], "fps": 8, "guidance": 2}
    before = prepare(one_take(campaign_file, prompts=[own]), str(store))
    assert before.idle
    assert prepare(one_take(campaign_file, "fps=12", "guidance=7", prompts=[own]), str(store)).idle


def test_the_same_step_twice_draws_other_noise(campaign_file, store):
    twice = one_take(campaign_file, "steps.again.use=stages.refine:Refine", "steps.again.before=decode",
                     "steps.again.model=${model}", "steps.again.sampling=${steps.refine.sampling}")  # fmt: skip
    prepared = done(prepare(twice, str(store)))
    rows = {r["stage"]: r for r in read_table(existing_catalog(str(store)), "artifacts").to_pylist()}
    assert list(rows)[-3:] == ["refine", "again", "decode"]
    prepared.survey.refresh()
    seeds = [prepared.survey.table(n).to_pylist()[0]["stage_seed"] for n in ("base", "refine", "again")]
    assert len(set(seeds)) == 3
    assert prepare(one_take(campaign_file), str(store)).idle, "and changes nothing of the plan without it"


def test_a_cascade_of_other_names_renders(campaign_file, tmp_path):
    """No step knows the name of another: `tiny` with every node renamed."""
    text = (CONFIGS / "cascades" / "tiny.yaml").read_text()
    entries = yaml.safe_load(text)["steps"]
    names = {n: f"my-{i}-{n[::-1]}" for i, n in enumerate(entries)}
    cascade = yaml.safe_load(text.replace("steps.base.", f"steps.{names['base']}."))
    after = {n: {"after": names[e["after"]]} for n, e in cascade["steps"].items() if "after" in e}
    cascade["steps"] = {names[n]: {**entry, **after.get(n, {})} for n, entry in cascade["steps"].items()}
    (tmp_path / "renamed.yaml").write_text(yaml.safe_dump(cascade, sort_keys=False))
    campaign = yaml.safe_load(campaign_file.read_text())
    own = {names[n]: campaign.pop(n) for n in ("base", "refine")}
    (tmp_path / "campaign.yaml").write_text(
        yaml.safe_dump({**campaign, "cascade": str(tmp_path / "renamed.yaml"), "steps": own}, sort_keys=False)
    )
    prepared = prepare(one_take(tmp_path / "campaign.yaml", "longer=2"), str(tmp_path / "store"))
    done(prepared)
    rows = read_table(prepared.catalog, "artifacts").to_pylist()
    makers = [n for n, e in entries.items() if "uri" in load_class(e["use"]).writes.names]
    assert [r["stage"] for r in rows] == [names[n] for n in makers if n != "see" and entries[n].get("enabled", True)]
    assert {r["status"] for r in rows} == {"ok"}
