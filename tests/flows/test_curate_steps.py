"""The plan of a curation: steps of one's own, what is done again for them, and what no row may hold."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from flows.curate.curation import load_curation
from flows.run.session import execute, prepare
from flows.views.tables import read_table
from stages.core.errors import BadInput
from stages.core.ledger.catalog import LEDGER, VOLATILE, Catalog
from stages.core.planning.plan import Plan
from stages.core.planning.survey import Survey
from tests.data_prep.little import video

KEEP_ALL = ["select.motion=null", "select.static_ratio=null", "select.sharpness=null", "select.short_side.min=null"]


def run(store: Path, footage: Path, *words: str, config: str = "curate") -> tuple[Catalog, Plan, Counter[str]]:
    """A curation, and how many rows of each step it made."""
    work = Counter[str]()
    prepared = prepare(load_curation([str(footage)], config, {}, [*words, "infra.executor=local"]), str(store))
    assert execute(prepared, listener=lambda n, _: work.update([n])).exit_status == 0
    return prepared.catalog, prepared.plan, work


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[Path, Path]:
    """A source of two shots, and the store of a run over it."""
    folder, store = tmp_path_factory.mktemp("footage"), tmp_path_factory.mktemp("base") / "store"
    video(folder / "a.mp4", (1, 2))
    run(store, folder)
    return folder, store


@pytest.fixture
def store(base, tmp_path) -> Path:
    return Path(shutil.copytree(base[1], tmp_path / "store"))


def layer(folder: Path, **steps: dict[str, str]) -> str:
    """A config file with steps of one's own."""
    entries = {name: {"use": f"tests.flows.scores:{name.title()}", **entry} for name, entry in steps.items()}
    (folder / "mine.yaml").write_text(yaml.safe_dump({"steps": entries}))
    return str(folder / "mine.yaml")


def test_a_score_that_nothing_reads_costs_itself_alone(base, store, tmp_path):
    mine = layer(tmp_path, halves={"before": "select"})
    catalog, plan, work = run(store, base[0], config=mine)
    assert work == Counter(halves=1)
    names = [n.name for n in plan.nodes]
    assert names.index("copies") < names.index("halves") == names.index("select") - 1
    assert [r["halves"] for r in read_table(catalog, "scores").to_pylist()] == [15, 15]
    catalog, _, work = run(store, base[0], "select.halves.min=16", config=mine)
    assert work == Counter(select=1, dedup=1)
    reasons = [v["reasons"] for v in read_table(catalog, "verdicts").to_pylist()]
    assert [[(r["step"], r["metric"], r["value"]) for r in own] for own in reasons] == 2 * [
        [("select", "halves", "15")]
    ]


def test_a_score_that_captions_say_makes_new_ones(base, store, tmp_path):
    catalog, _, work = run(store, base[0], config=layer(tmp_path, signs={"before": "select"}))
    assert work == Counter(signs=1, caption=2)
    long = [c["text"] for c in read_table(catalog, "captions").to_pylist() if c["kind"] == "long"]
    assert [text.endswith("Readable text: \u201cEXIT\u201d.") for text in long] == [True, True]


@pytest.mark.parametrize(
    ("steps", "words", "says"),
    [
        (
            {"halves": {}},
            [],
            "makes clips; clips belongs to other units: set `before`",
        ),
        ({"halves": {"before": "selects"}}, [], "did you mean 'select'"),
        ({"halves": {}}, ["until=halve"], "did you mean 'halves'"),
        ({"signs": {"before": "select"}}, ["select.halves.min=1"], "no step measures 'halves'"),
        ({}, ["ingest.enabled=false"], "step sources needs an earlier step that makes probe"),
        ({}, ["clips.min_s=5", "clips.max_s=2"], r"^clips\.max_s is 2\.0; it must be 0, or at least min_s \(5\)"),
        ({}, ["cuts.rules.moved=fast"], r"^cuts\.rules\.moved must be a number, not 'fast'"),
        ({}, ["text.frames=${oops"], "the value of text.frames on the command line is not valid YAML"),
        ({}, ["clips.enabled=false", "until=cuts"], "needs an earlier step that makes clips"),
    ],
)
def test_a_plan_that_does_not_fit_together_is_refused_before_any_work(tmp_path, steps, words, says):
    with pytest.raises(BadInput, match=says):
        load_curation(["a.mp4"], layer(tmp_path, **steps), {}, words)


def rows_of(catalog: Catalog, plan: Plan) -> dict[str, list[dict]]:
    """The rows of every step behind the listing, without what two honest runs differ in."""
    survey = Survey(catalog, plan)
    steps = [n for p in plan.phases[1:] for n in p.steps]
    left_out = {*VOLATILE, "retry", "unit_id"}
    return {
        n.name: sorted(
            ({k: v for k, v in r.items() if k not in left_out} for r in survey.query(f'FROM "v_{n.name}"').to_pylist()),
            key=lambda r: r["id"],
        )
        for n in steps
    }


@pytest.mark.soak
def test_no_row_says_where_its_file_lay(tmp_path):
    """Two copies of the same footage, one of its files broken, give the same rows: names, files and notes."""
    whole = video(tmp_path / "first" / "a.mp4", (1, 2)).read_bytes()
    broken = bytearray(video(tmp_path / "first" / "b.mkv", (3,), frames=40, g=5).read_bytes())
    broken[len(broken) // 2 : len(broken) // 2 + 400] = b"\xff" * 400
    (tmp_path / "first" / "b.mkv").write_bytes(broken)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "other.mp4").write_bytes(whole)
    (tmp_path / "second" / "renamed.mkv").write_bytes(broken)
    scenes = "Start Frame,End Frame,Start Time (seconds),End Time (seconds)\n1,25,0.0,1.667\n26,60,1.667,4.0\n"
    for name in ("a", "other"):
        (tmp_path / f"{name}.csv").write_text(scenes)
    words = (*KEEP_ALL, f"shot_lists={tmp_path}")
    one, other = (
        rows_of(*run(tmp_path / f"{name} store", tmp_path / name, *words)[:2]) for name in ("first", "second")
    )
    assert one == other
    assert any(r["decode_note"] or r["truncated"] for r in one["analyse"]), "the broken file was read to its end"
    assert {"analyse", "cuts", "clips", "scores", "prints", "thumbs", "caption", "shot_list"} <= set(one)
    assert len(one["shot_list"]) == 1
    assert str(tmp_path) not in str(one)
    assert set(one["analyse"][0]) >= {n for n in LEDGER.names if n not in VOLATILE}
