"""`rushes choose`: reviews are written whole, name what they replace, and refuse what is unclear in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from flows.cli.main import main
from flows.render.campaign import load_campaign
from flows.render.reviews import choose, read_reviews, standings
from flows.run.session import execute, existing_catalog, prepare
from flows.views.tables import read_table
from stages.core.errors import BadInput

TOYS = {"text": {"use": "tests.flows.toys:Letters"}, "draw": {"use": "tests.flows.toys:Draw"}}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 18 takes: more than there are characters in which an id may begin."""
    folder = tmp_path_factory.mktemp("choose")
    cascade = {"steps": TOYS, "infra": {"executor": "local"}}
    (folder / "cascade.yaml").write_text(yaml.safe_dump(cascade, sort_keys=False))
    campaign = {"name": "c", "prompts": ["one", "two"], "seeds": 9, "cascade": str(folder / "cascade.yaml")}
    (folder / "c.yaml").write_text(yaml.safe_dump(campaign))
    execute(prepare(load_campaign([folder / "c.yaml"], {}, []), str(folder / "store")))
    return folder / "store"


@pytest.fixture
def store(rendered: Path, tmp_path: Path) -> str:
    """A copy of it without reviews."""
    shutil.copytree(rendered, tmp_path / "store")
    return str(tmp_path / "store")


def takes(store: str) -> list[str]:
    return [r["take_id"] for r in read_table(existing_catalog(store), "takes").to_pylist()]


def rushes(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_takes_are_chosen_by_a_beginning_of_their_id_and_a_review_names_what_it_replaces(store):
    first, second, *_ = takes(store)
    done = rushes("choose", first[:9], second, first, "approve", "--store", store, "--who", "ada")
    assert done.exit_code == 0, done.output
    assert f"2 takes ({first[:12]}, {second[:12]}) approved by ada" in done.output
    assert rushes("choose", first, "reject", "--note", "six fingers", "--store", store).exit_code == 0
    catalog = existing_catalog(store)
    rows = read_reviews(catalog)
    assert [(r["take_id"], r["choice"], r["note"]) for r in rows[2:]] == [(first, "reject", "six fingers")]
    assert rows[2]["supersedes"] == [r["id"] for r in rows[:2] if r["take_id"] == first]
    assert rows[2]["who"], "the login name where nobody is named"
    now = standings(catalog)
    assert (now[first].verdict, now[first].note, now[second].verdict) == ("reject", "six fingers", "approve")


def test_two_that_saw_the_same_and_disagree_are_a_conflict_until_somebody_chooses_again(store):
    take, catalog = takes(store)[0], existing_catalog(store)
    (seen,) = choose(catalog, [take], "star", "ada")
    choose(catalog, [take], "approve", "ada", supersedes={take: [seen["id"]]})
    choose(catalog, [take], "reject", "bob", supersedes={take: [seen["id"]]})
    assert standings(catalog)[take].conflict
    done = rushes("choose", take, "star", "--store", store)
    assert "in conflict" in done.output
    choose(catalog, [take], "approve", "eve")
    assert standings(catalog)[take].verdict == "approve"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing was named: end with a choice (approve, reject, clear, star, unstar, note)"),
        (["{0}"], "is none: end with a choice"),
        (["{0}", "approved"], "'approved' is none: end with a choice"),
        (["approve"], "no take was named; `rushes table takes --store"),
        (["nowhere", "approve"], "has the id 'nowhere', or one that begins so; `rushes table takes --store"),
        (["", "approve"], "has the id ''"),
        (["{0}", "note"], "the choice `note` needs a text: give it with --note TEXT"),
        (["{0}", "star", "--who", "a\nb"], "is no name"),
    ],
    ids=str,
)
def test_what_is_unclear_is_refused_in_one_sentence_and_nothing_is_written(store, words, said):
    words = [w.format(*takes(store)) for w in words]
    done = rushes("choose", *words, "--store", store)
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert read_reviews(existing_catalog(store)) == []


def test_a_beginning_of_several_ids_and_a_review_of_another_take_are_refused(store):
    ids, catalog = takes(store), existing_catalog(store)
    shared = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    with pytest.raises(BadInput, match=f"'{shared}' is the beginning of several take ids"):
        choose(catalog, [shared], "approve")
    (of_first,) = choose(catalog, [ids[0]], "approve")
    with pytest.raises(BadInput, match=f"{json.dumps(of_first['id'])}, which is no review of take {ids[1]}"):
        choose(catalog, [ids[1]], "approve", supersedes={ids[1]: [of_first["id"]]})
    with pytest.raises(BadInput, match="not among those that are chosen"):
        choose(catalog, [ids[1]], "approve", supersedes={ids[0]: []})
    assert len(read_reviews(catalog)) == 1
