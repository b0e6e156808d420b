"""What forms may say, checked in this process: places, examples, and a server that is gone."""

from __future__ import annotations

import asyncio
import inspect
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows.prefect.deploy import FILE, Settled, read_deployments
from flows.prefect.serve import run_here
from flows.run.session import prepare
from stages.core.config import load_class
from stages.core.errors import BadInput

NOWHERE = "http://127.0.0.1:9/api"
NEEDED = {"sources": ["/footage"], "store": "/store", "out": "/figures.json", "dataset": "clips", "config": "vae"}
"""What a person must fill in, where the file gives no value."""


@pytest.fixture(scope="module", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prefect reads no profile of the user, and no server is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PREFECT_API_URL", NOWHERE)
        yield


def flow_of(name: str) -> Any:
    from flows.prefect import deployments

    return getattr(deployments, name)


def test_the_defaults_of_the_file_fit_the_forms() -> None:
    for entry in read_deployments():
        form = flow_of(entry["name"])
        names = inspect.signature(form.fn).parameters
        needed = {k: v for k, v in NEEDED.items() if k in names and names[k].default is inspect.Parameter.empty}
        assert entry["entrypoint"] == f"flows.prefect.deployments.{entry['name']}"
        form.validate_parameters({**needed, **entry["parameters"]})  # raises for a name or a value that does not fit


def loaders() -> dict[str, Callable[[list[str]], Any]]:
    from flows.curate.curation import load_curation
    from flows.evaluate.evaluation import load_evaluation
    from flows.publish.publication import load_publication
    from flows.render.campaign import load_campaign
    from flows.train.training import load_training

    defaults = {entry["name"]: entry["parameters"] for entry in read_deployments()}
    return {
        "render": lambda words: load_campaign([defaults["render"]["campaign"]], {}, words),
        "curate": lambda words: load_curation(["/footage"], "curate", {}, words),
        "publish": lambda words: load_publication(defaults["publish"]["dataset"], "publish", {}, words),
        "evaluate": lambda words: load_evaluation("evaluate", {}, words),
        "train": lambda words: load_training(defaults["train"]["config"], words),
    }


@pytest.mark.parametrize("name", ["render", "curate", "publish", "evaluate", "train"])
def test_every_example_of_a_form_is_a_setting_that_exists(name: str) -> None:
    from prefect.utilities.callables import parameter_schema

    text = parameter_schema(flow_of(name)).properties["overrides"]["description"]
    examples = [word.rstrip(",.") for word in re.findall(r"[\w.]+=\S+", text)]
    assert len(examples) > 1, text
    load = loaders()[name]
    for example in examples:
        load([example])
    with pytest.raises(BadInput, match="unknown key"):
        load(["nothing.of.this=1"])


OVERRIDES = {
    "prompts_file=prompts.csv": True,
    "image=pictures/cat.png": True,
    "model.checkpoint=../weights": True,
    "model.checkpoint=promoted:best@store": True,
    "cascade=mine.yaml": True,
    "sources=[/a,b]": True,
    "publish.head=x": True,
    "prompts_file=s3://bucket/prompts.csv": False,
    "prompts=[a/b.mp4]": False,
    "negative_prompt=w/o people": False,
    "model.checkpoint=org/name": False,
    "model.checkpoint=promoted:best@/store": False,
    "cascade=ltx-video": False,
    "base.use=stages.base:Base": False,
    "promote=v1.2": False,
    "seeds=[1,2]": False,
}


def test_an_override_with_a_relative_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.prefect.places import check_overrides

    for word, refused in OVERRIDES.items():
        if refused:
            with pytest.raises(BadInput, match=f"^{re.escape(word.split('=')[0])}: .* is a relative path"):
                check_overrides([word])
        else:
            assert check_overrides([word]) == [word]
    monkeypatch.setenv("RUSHES_OVERRIDES", "infra.ray.address=auto infra.executor=ray")
    assert check_overrides(["seeds=2"]) == ["infra.ray.address=auto", "infra.executor=ray", "seeds=2"]


PLACES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "render": ({"campaign": "demo"}, ("store", "export")),
    "curate": ({"sources": ["/footage"]}, ("store", "sources")),
    "publish": ({"dataset": "clips"}, ("store",)),
    "report": ({}, ("store", "out")),
    "evaluate": ({"out": "/f.json"}, ("store", "out", "prompts", "videos", "captions", "reference")),
    "train": ({"config": "vae"}, ("store",)),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_form_refuses_relative_places_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good, places = PLACES[name]
    assert set(PLACES) == {entry["name"] for entry in read_deployments()}
    for place in places:
        asked = {"store": f"{tmp_path}/store", **good, place: ["here"] if place == "sources" else "here"}
        state = flow_of(name).fn(**asked)
        assert state.is_failed()
        assert f"{place}: 'here' is a relative path" in state.message
    for key in {"campaign", "config"} & set(inspect.signature(flow_of(name).fn).parameters):
        (tmp_path / "mine.yaml").write_text("{}")
        state = flow_of(name).fn(**{"store": f"{tmp_path}/store", **good, key: "mine.yaml"})
        assert f"{key}: 'mine.yaml' is neither an absolute path nor a name below configs" in state.message
        (tmp_path / "mine.yaml").unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_stays_in_its_folder_and_imports_the_flows_that_the_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Prefect reads the file, and takes its steps where a worker of the type `process` has put a run."""
    from prefect.cli.deploy._config import _load_deploy_configs_and_actions
    from prefect.deployments.steps.core import run_steps
    from prefect.flows import load_flow_from_entrypoint
    from rich.console import Console

    said = io.StringIO()
    deployments, actions = _load_deploy_configs_and_actions(FILE, console=Console(file=said))
    assert (said.getvalue(), len(deployments)) == ("", len(PLACES))
    assert actions["pull"], "without one Prefect adds a step into the folder of whoever deployed"
    monkeypatch.chdir(tmp_path)
    monkeypatch.chdir(asyncio.run(run_steps(actions["pull"])).get("directory", "."))
    assert Path.cwd() == tmp_path
    for deployment in deployments:
        assert not {"build", "push", "pull"} & set(deployment)
        assert deployment["work_pool"] == {"name": "rushes"}, "no working directory"
        flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
        good, _ = PLACES[deployment["name"]]
        state = flow.fn(**{**good, "store": "results"})
        assert state.is_failed()
        assert "store: 'results' is a relative path" in state.message
    assert list(tmp_path.iterdir()) == []


def test_paths_inside_a_campaign_file_count_from_it(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.render.campaign import load_campaign

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / "film"
    folder.mkdir()
    (folder / "prompts.txt").write_text("a red circle moving left\n")
    (folder / "weights").symlink_to(small_checkpoint)
    steps = yaml.safe_load((Path(__file__).parents[2] / "configs" / "cascades" / "tiny.yaml").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump(steps, sort_keys=False))
    campaign = {"prompts_file": "prompts.txt", "cascade": "mine.yaml", "model": {"checkpoint": "weights"}}
    (folder / "film.yaml").write_text(yaml.safe_dump(campaign))
    loaded = load_campaign([folder / "film.yaml"], {}, ["frames=9", "width=64", "height=64"])
    assert [t["prompt"] for t in loaded.takes] == ["a red circle moving left"]
    assert loaded.config.cascade == str(folder / "mine.yaml")
    assert loaded.config.model["checkpoint"] == str(folder / "weights")


# -- a server that is gone ---------------------------------------------------------------------------------------------


def test_a_server_that_is_gone_is_told_once_and_not_asked_again() -> None:
    from prefect.exceptions import PrefectException

    from flows.prefect.reporting import Contact, contact, reporting

    said: list[str] = []
    calls: list[int] = []

    def call() -> int:
        calls.append(1)
        raise PrefectException("All connection attempts failed")

    with reporting(said.append, NOWHERE):
        assert isinstance(contact, Contact)
        assert [contact.send(call) for _ in range(5)] == [None] * 5
        assert contact.lost
        contact.regain()
    assert len(calls) == 1
    assert len(said) == 1
    assert f"the Prefect server {NOWHERE} does not answer any more (All connection attempts failed)" in said[0]


def test_a_server_that_refuses_something_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.prefect import reporting

    def call() -> int:
        raise ValueError("too large")

    monkeypatch.setattr(reporting, "unreachable", lambda url, wait_s: "")
    found = reporting.Contact()
    assert found.send(call) is None
    assert not found.lost
    assert found.send(lambda: 3) == 3


def test_a_run_without_its_server_is_done_all_the_same(tmp_path: Path) -> None:
    from flows.prefect.flow_run import execute_as_flow
    from flows.render.campaign import load_campaign

    (tmp_path / "cascade.yaml").write_text(yaml.safe_dump({"steps": {"letters": {"use": "tests.flows.toys:Letters"}}}))
    assert load_class("tests.flows.toys:Letters")
    values = {"prompts": ["one", "two"], "cascade": str(tmp_path / "cascade.yaml"), "infra": {"executor": "local"}}
    said: list[str] = []
    outcome = execute_as_flow(
        NOWHERE, prepare(load_campaign([], values, []), str(tmp_path / "store")), warn=said.append
    )
    assert (outcome.status, outcome.counts["letters"].done, outcome.exit_status) == ("done", 2, 0)
    assert len(said) == 1
    assert "does not answer any more" in said[0]


def test_text_that_came_with_data_is_no_markup() -> None:
    from flows.prefect.artifacts import bullets

    said = bullets(["a_b <b>[x](http://y)</b>\n# | & !"])
    assert said == r"- a\_b \<b\>\[x\]\(http://y\)\</b\> \# \| \& \!"


def test_serve_leaves_the_deployments_of_a_work_pool_to_its_workers() -> None:
    """Else the runs of one deployment would be taken by both."""
    found = [
        Settled(SimpleNamespace(name="render"), pool="rushes", is_new=False),
        Settled(SimpleNamespace(name="train"), lines=["train: kept as set on the server: limit 1"], is_new=False),
    ]
    said: list[str] = []
    assert [d.name for d in run_here(found, False, said.append)] == ["train"]
    assert "prefect worker start --pool rushes" in " ".join(said)
    assert "limit 1" in " ".join(said)
    assert [d.name for d in run_here(found, True, said.append)] == ["render", "train"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deployments: [{name: a, entrypoint: b, work_pool: {name: p}, triggers: []}]", "unknown key 'triggers'"),
        ("deployments: [{name: a, entrypoint: b, parameters: {store: '{{ x }}'}}]", "write the value"),
        ("push: [{x: {}}]\ndeployments: [{name: a, entrypoint: b}]", "unknown key 'push'"),
        ("deployments: []", "lists no deployments"),
    ],
)
def test_a_file_that_only_prefects_own_deploy_understands_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(BadInput, match=re.escape(said)):
        read_deployments(tmp_path / "prefect.yaml")
