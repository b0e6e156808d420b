"""A gate between base and super-resolution: the best take of every prompt goes on, and the rest stays as it is."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from flows.render.campaign import Campaign, load_campaign
from flows.run import schedule
from flows.run.schedule import ThreadSubmit, run_plan
from flows.run.session import execute, existing_catalog, prepare
from flows.views.tables import read_tables
from stages.core.running.executor import LocalExecutor, Work, Worker
from stages.core.running.run import Run
from stages.core.step import Row, StepRef
from tests.flows.test_faults import (
    KILL_LIMIT_S,
    ROOM,
    assert_ran_on_workers,
    assert_whole,
    contents,
    end_group,
    finish,
    random_kills,
    render,
)

SITE = str(Path(__file__).parent / "site")
GATE = {"use": "tests.flows.toys:Top"}
TOYS = {
    "text": {"use": "tests.flows.toys:Letters"},
    "draw": {"use": "tests.flows.toys:Draw"},
    "gate": GATE,
    "finish": {"use": "tests.flows.toys:Finish"},
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three prompts x two seeds through a text, a drawing, a gate and an end."""
    folder = tmp_path_factory.mktemp("toys")
    (folder / "cascade.yaml").write_text(
        yaml.safe_dump({"steps": TOYS, "infra": {"executor": "local"}}, sort_keys=False)
    )
    campaign = {"name": "toys", "prompts": ["one", "two two", "three three"], "seeds": 2}
    (folder / "toys.yaml").write_text(yaml.safe_dump({**campaign, "cascade": str(folder / "cascade.yaml")}))
    return folder / "toys.yaml"


def load(path: Path, *overrides: str) -> Campaign:
    return load_campaign([path], {}, overrides)


def run(path: Path, store: Path, *overrides: str) -> dict[str, list[Row]]:
    """Runs a campaign to its end; the tables of takes and artifacts."""
    outcome = execute(prepare(load(path, *overrides), str(store)))
    assert outcome.status == "done"
    catalog = existing_catalog(str(store))
    tables = read_tables(catalog, ("takes", "artifacts"), run_id=outcome.run_id)
    return {name: table.to_pylist() for name, table in tables.items()}


def by_stage(artifacts: Sequence[Row], stage: str) -> dict[str, str]:
    return {r["take_id"]: r["artifact_id"] for r in artifacts if r["stage"] == stage}


def test_one_take_of_each_prompt_goes_on(toys, tmp_path):
    made = run(toys, tmp_path)
    assert Counter(r["stage"] for r in made["artifacts"]) == {"text": 6, "draw": 6, "finish": 3}
    assert [t["status"] for t in made["takes"]] == ["rejected", "ok"] * 3, "the higher seed draws more"
    assert {t["error"] for t in made["takes"] if t["status"] == "rejected"} == {"gate: not promoted"}
    again = prepare(load(toys), str(tmp_path))
    assert again.idle


def test_one_more_seed_and_another_order_redo_nothing_that_was_promoted(toys, tmp_path):
    first = by_stage(run(toys, tmp_path)["artifacts"], "finish")
    more = run(toys, tmp_path, "seeds=3")
    assert Counter(r["status"] for r in more["takes"]) == {"ok": 3, "rejected": 6}
    least = by_stage(run(toys, tmp_path, "gate.by=-drawn")["artifacts"], "finish")
    back = by_stage(run(toys, tmp_path)["artifacts"], "finish")
    assert back == first
    assert not set(least) & set(first)
    whole = by_stage(run(toys, tmp_path, "gate.enabled=false")["artifacts"], "finish")
    assert {**first, **least} == whole, "a gate enters no id"
    rows = sum(p.exists() for p in (tmp_path / "tables" / "finish").rglob("*.parquet"))
    assert rows >= 1


class ManyAtOnce(LocalExecutor):
    """Rows of different calls side by side, as on a cluster; the last prompt waits until a winner is through."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.through = threading.Event()
        self.waited: list[bool] = []

    def map(self, ref: StepRef, work: Sequence[Work], stop: threading.Event) -> Iterator[Row]:
        worker = Worker(ref, self.storage)
        for one in work:
            if ref.name == "draw" and one.row["text"]["length"] == len("three three"):
                self.waited.append(self.through.wait(900))
            yield worker.run_one(one)
            if ref.name == "finish":
                self.through.set()


@pytest.mark.parametrize("look_share", [pytest.param(0, marks=pytest.mark.soak), 20 * schedule.LOOK_SHARE])
def test_winners_go_on_while_later_takes_are_still_made(toys, tmp_path, monkeypatch, look_share):
    """However soon after a look all others end: those at work, which wait for a winner, are not waited for."""
    monkeypatch.setattr(schedule, "LOOK_SHARE", look_share)
    prepared = prepare(load(toys, "shard_rows=1"), str(tmp_path))
    executor = ManyAtOnce(prepared.catalog.storage)
    run_ = Run(prepared.catalog, executor, prepared.plan, survey=prepared.survey)
    run_.begin()
    threads = ThreadSubmit()
    try:
        run_plan(run_, threads, shard_rows=1)
    finally:
        threads.close()
    assert executor.waited == [True, True], "the first prompt's winner was not held up by the last prompt"
    counts = run_.look().counts()
    assert (counts["finish"].done, counts["gate"].done) == (3, 3)


def test_a_failed_take_is_not_chosen_and_holds_up_no_other_prompt(toys, tmp_path):
    path = tmp_path / "broken.yaml"
    campaign = yaml.safe_load(toys.read_text())
    path.write_text(yaml.safe_dump({**campaign, "prompts": ["one", "a broken one"]}))
    made = run(path, tmp_path / "store")
    assert [t["status"] for t in made["takes"]] == ["rejected", "ok", "error", "error"]


# -- the real cascade, killed ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gated(campaign_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts x two seeds, one prompt with a picture to begin with, and a gate behind base."""
    folder = tmp_path_factory.mktemp("gated")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "first.png")
    campaign = yaml.safe_load(campaign_file.read_text())
    campaign["prompts"][1] = {"prompt": campaign["prompts"][1], "image": "first.png"}
    campaign["steps"] = {"gate": {**GATE, "by": "std", "before": "spatial"}}
    path = folder / "gated.yaml"
    path.write_text(yaml.safe_dump(campaign))
    return path


@pytest.fixture(autouse=True)
def _toys_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes know the tests' steps too."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{SITE}")


def survive(gated: Path, folder: Path, kills: int, least: int) -> None:
    """Kill the campaign at random moments until it was killed so often; each store ends as one that was left alone."""
    finish(render(gated, folder / "undisturbed", "--executor", "local"))
    undisturbed = contents(folder / "undisturbed")
    assert Counter(stage for _, stage in undisturbed) == {
        "text": 4, "see": 2, "base": 4, "spatial": 2, "temporal": 2, "refine": 2, "decode": 2
    }  # fmt: skip
    killed = stores = 0
    while killed < least:
        store = folder / f"store{stores}"
        killed += random_kills(gated, store, kills, seed=100 + stores)
        finish(render(gated, store, *ROOM))
        assert_whole(store, undisturbed)
        stores += 1
        print(json.dumps({"figure": "gated_kills_survived", "kills": killed, "stores": stores}), flush=True)
        assert stores < 12, killed


@pytest.mark.ray
def test_killed_on_ray_and_run_again_it_ends_as_if_left_alone(toys, tmp_path):
    """Killed after its sixth commit, then run to its end with two workers where there was one; with temporary folders
    whose paths Ray cannot use for its sockets. What it is compared with was made in this process. The ledger and Ray
    are what is tried, so the steps are toys; the soak kills the real cascade."""
    store, undisturbed = tmp_path / "store", tmp_path / "undisturbed"
    long, foreign = tmp_path / ("x" * 120), tmp_path / "ein Ordner für alles"
    long.mkdir()
    foreign.mkdir()
    crash = {"RUSHES_CRASH": "after_commit:6", "TMPDIR": str(long)}
    killed = render(toys, store, *ROOM, "shard_rows=1", env=crash)
    # not communicate(): Ray's agents keep the pipe open for a minute after their driver's death
    assert killed.wait(timeout=KILL_LIMIT_S) == -signal.SIGKILL
    end_group(killed)
    workers = ("draw.resources.workers=2", "draw.resources.batch_rows=1", "shard_rows=1")
    finish(render(toys, store, *ROOM, *workers, env={"TMPDIR": str(foreign)}))
    execute(prepare(load(toys), str(undisturbed)))
    assert_whole(store, contents(undisturbed))
    assert_ran_on_workers(store)


@pytest.mark.soak
@pytest.mark.ray
def test_twenty_kills_of_a_gated_campaign(gated, tmp_path):
    survive(gated, tmp_path, 4, 20)
