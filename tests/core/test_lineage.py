import json
import subprocess
import sys

import pytest

from stages.core.errors import BadInput
from stages.core.identity import depends_digest
from stages.core.planning.survey import Survey
from stages.core.running.lineage import Lineage, Link, lineage
from stages.core.running.lineage_text import as_text, changed_settings, version_text
from tests import toys
from tests.toy_run import TAKES, run_all
from tests.toys import toy_plan


def make(catalog):
    plan = toy_plan(catalog, TAKES, {"words": {"suffix": "!"}})
    return catalog, plan, run_all(catalog, plan)


@pytest.fixture
def made(local):
    """A finished toy run: (catalog, plan, run)."""
    return make(local)


def names(links):
    return [(link.kind, link.name) for link in links]


def test_from_a_result_to_its_root(catalog):
    catalog, plan, run = make(catalog)
    mark = Survey(catalog, plan).table("mark").to_pylist()[0]
    found = lineage(catalog, mark["id"][:8])
    assert found.id == mark["id"]
    assert found.run["run_id"] == run.run_id
    assert names(found.above) == [
        ("unit", "start"),
        ("row", "words"),
        ("row", "split"),
        ("child", "split"),
        ("job", "keep"),
        ("row", "mark"),
    ]
    take, words, split, child, kept, last = found.above
    assert last.row["depends"] == depends_digest({"id": child.id, "sha256": child.row["sha256"]})
    assert child.id == kept.id
    assert child.id in [r["id"] for r in split.row["rows"]]
    assert split.row["parents"] == words.id
    assert words.row["depends"] == depends_digest({"text": take.row["text"]})
    assert split.row["depends"] == depends_digest({"seed": take.row["seed"]})
    assert (words.shared, split.shared) == (2, 1)
    assert words.node == plan.node("words")
    assert '"suffix": "!"' in words.node.config


def test_every_result_leads_to_its_own_take(made):
    """Takes of one text share a row, so that what is made of it must tell them apart."""
    catalog, plan, _ = made
    roots = set()
    for row in Survey(catalog, plan).query("SELECT * FROM v_split").to_pylist():
        take = lineage(catalog, row["id"]).above[0].row
        assert catalog.storage.read(row["rows"][0]["uri"]).decode() == f"{take['text']}!/{take['seed']}/0"
        roots.add(take["id"])
    assert len(roots) == len(TAKES)


def test_from_a_take_down(made):
    catalog, _, _ = made
    take = toys.roots(TAKES)[1]
    found = lineage(catalog, take["id"])
    assert names(found.above) == [("unit", "start")]
    made_of = [("row", "words"), ("row", "split"), ("child", "split"), ("row", "mark"), ("child", "split")]
    assert [n for n in names(found.below) if n in made_of][:3] == made_of[:3]
    splits = [link for link in found.below if link.name == "split" and link.kind == "row"]
    assert depends_digest({"seed": 1}) in {link.row["depends"] for link in splits}


def test_what_a_take_made_is_its_own_though_its_first_row_is_shared(made):
    """Takes of one text share the row of `words`; what is made of it differs by the seed."""
    catalog, _, _ = made
    for take in toys.roots(TAKES):
        below = lineage(catalog, take["id"]).below
        assert {"words", "split", "mark"} <= {link.name for link in below}
        texts = [catalog.storage.read(link.row["uri"]).decode() for link in below if link.kind == "child"]
        assert texts
        assert all(text.startswith(f"{take['text']}!/{take['seed']}/") for text in texts)
        splits = [link.row for link in below if (link.kind, link.name) == ("row", "split")]
        assert [row["depends"] for row in splits] == [depends_digest({"seed": take["seed"]})]


def test_a_later_run_of_other_takes_does_not_hide_where_a_row_came_from(local):
    """The later run knows the same steps, not the take."""
    first, later = (toy_plan(local, takes) for takes in (TAKES[:2], TAKES[2:4]))
    runs = [run_all(local, plan).run_id for plan in (first, later)]
    for plan, takes, run_id in ((first, TAKES[:2], runs[0]), (later, TAKES[2:4], runs[1])):
        for row in Survey(local, plan).table("mark").to_pylist():
            found = lineage(local, row["id"])
            assert found.run["run_id"] == run_id
            assert (found.above[0].row["text"], found.above[0].row["seed"]) in takes


def test_of_takes_that_share_a_row_the_one_that_is_meant_is_shown(local):
    """Two campaigns, say, that share a video: the newest run is that of the other take."""
    one, two = (toys.roots([take])[0] for take in (TAKES[0], TAKES[1]))
    plans = [toy_plan(local, [take]) for take in TAKES[:2]]
    runs = [run_all(local, plan).run_id for plan in plans]
    shared = Survey(local, plans[0]).table("words").to_pylist()[0]["id"]
    assert shared == Survey(local, plans[1]).table("words").to_pylist()[0]["id"]
    for take, run_id in ((one, runs[0]), (two, runs[1])):
        found = lineage(local, shared, take["id"])
        assert (found.run["run_id"], found.above[0].id) == (run_id, take["id"])
    assert lineage(local, shared, "no such take").above[0].id == two["id"]


def test_from_a_clip_both_ways(made):
    catalog, plan, _ = made
    kept = Survey(catalog, plan).table("keep").to_pylist()[0]
    found = lineage(catalog, kept["id"])
    assert names(found.above)[0] == ("unit", "start")
    assert found.above[-1].id == kept["id"]
    assert names(found.below) == [("row", "mark")]


def test_errors_attempts_and_reasons_are_shown(local):
    toys.TROUBLE["red ball"] = "transient"
    plan = toy_plan(local, TAKES)
    run_all(local, plan)
    run_all(local, plan)
    toys.TROUBLE["blue box"] = "reject"
    other = toy_plan(local, TAKES, {"words": {"suffix": "?"}})
    run_all(local, other)
    failed, refused = (
        next(r for r in Survey(local, p).table("words").to_pylist() if r["status"] == s)
        for p, s in ((plan, "error"), (other, "rejected"))
    )
    text = "\n".join(as_text(lineage(local, failed["id"])))
    assert "error after 2 attempts: ConnectionError: the line was cut" in text
    assert "attempt 1: ConnectionError" in text
    assert "length 8 (required: >= 100)" in "\n".join(as_text(lineage(local, refused["id"])))


def test_text_names_prompt_seed_settings_and_file(made):
    catalog, plan, run = made
    split = Survey(catalog, plan).table("split").to_pylist()[0]
    text = "\n".join(as_text(lineage(catalog, split["id"])))
    for wanted in ("text: ", "seed: ", "suffix=!", plan.node("words").fingerprint, run.run_id, split["uri"]):
        assert wanted in text


def test_only_settings_that_decide_and_differ_are_shown(made):
    """Of a step whose class is gone, all of them."""
    catalog, plan, _ = made
    assert changed_settings("tests.toys:Words", '{"suffix": "!", "pause": 0}') == {"suffix": "!"}
    assert changed_settings("tests.toys:Gone", '{"suffix": "", "pause": 0}') == {"suffix": "", "pause": "0"}
    model = {"family": "ltx", "checkpoint": "/where", "dtype": "bfloat16", "device": "cuda", "threads": 1}
    config = json.dumps({"model": model, "sampling": {"steps": 3, "shift": 1.0, "knobs": {}}})
    assert changed_settings("stages.base:Base", config) == {"model.dtype": "bfloat16", "sampling.steps": "3"}
    mark = Survey(catalog, plan).table("mark").to_pylist()[0]
    text = "\n".join(as_text(lineage(catalog, mark["id"])))
    assert "settings that are not the default: suffix=!" in text
    assert "pause" not in text
    assert "add=1" not in text


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1795898298365812097", ("file changed", "2026-11-28 20:38:18 UTC")),
        ('"9f86d081884c7d65"', ("version (ETag or time of change)", '"9f86d081884c7d65"')),
        ("12", ("version (ETag or time of change)", "12")),
    ],
)
def test_the_version_of_a_file_says_what_it_is(version, said):
    assert version_text(version) == said


def test_weights_are_named(local, tmp_path):
    folder = tmp_path / "model" / "encoder"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(toys.EMPTY_SAFETENSORS)
    ref = toys.ref("odd", "Weighted", model=str(tmp_path / "model"))
    plan = toys.planned(local, toys.roots(TAKES[:1]), {"odd": ref})
    run_all(local, plan)
    row = Survey(local, plan).table("odd").to_pylist()[0]
    assert f"weights model: {tmp_path / 'model'}, content {dict(plan.node('odd').weights)['model']}" in "\n".join(
        as_text(lineage(local, row["id"]))
    )


def test_ids_that_do_not_tell(made):
    catalog, _, _ = made
    with pytest.raises(BadInput, match="nothing in"):
        lineage(catalog, "ffffffffff0000")
    with pytest.raises(BadInput, match="6 characters"):
        lineage(catalog, "abc")
    with pytest.raises(BadInput, match="nothing in"):
        lineage(catalog, "")


def test_an_ambiguous_beginning_is_refused(local):
    from stages.core.ledger.catalog import ledger_schema

    plan = toy_plan(local, TAKES[:1])
    run_all(local, plan)
    words = plan.node("words")
    rows = [{"id": f"abcdef{i}", "parents": str(i), "status": "ok"} for i in range(2)]
    local.commit("words", words.fingerprint, rows, ledger_schema(toys.Words.writes, False))
    with pytest.raises(BadInput, match="is the beginning of 2 ids"):
        lineage(local, "abcdef")


def test_a_clip_is_called_a_clip_and_columns_that_only_programs_read_are_left_out():
    row = {"clip_id": "c1", "start_s": 0.0, "end_s": 13.950000000000001, "end_frame": 280, "n_frames": 280,
           "boundary_in": "edge", "addressable": True, "time_base_den": 10240}  # fmt: skip
    run = {"run_id": "r", "flow": "curate", "status": "done"}
    text = as_text(Lineage("c1", run, [Link("row", "clips", "c1", row)]))
    assert text[2:] == ["clip c1", "  clip_id: c1", "  start_s: 0.0", "  end_s: 13.95", "  n_frames: 280"]


LOOK = """
import sys
from stages.core import config
config.PACKAGES = (*config.PACKAGES, "tests.")
from stages.core.ledger.catalog import Catalog
from stages.core.running.lineage import Lineage, Link, lineage
from stages.core.running.lineage_text import as_text
from stages.core.running.runs import find_run
from stages.core.ledger.storage import Storage
catalog = Catalog(Storage(sys.argv[1]))
find_run(catalog).survey(catalog).counts()
print(len(as_text(lineage(catalog, sys.argv[2]))))
print(sorted({"torch", "ray", "prefect", "diffusers", "cv2", "av"} & set(sys.modules)))
"""


def test_looking_loads_nothing_heavy(local):
    plan = toy_plan(local, TAKES)
    run_all(local, plan)
    row = Survey(local, plan).table("mark").to_pylist()[0]
    done = subprocess.run(
        [sys.executable, "-c", LOOK, local.storage.url, row["id"]],
        capture_output=True,
        text=True,
        env=toys.environment(PYTHONPATH="."),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "[]"
