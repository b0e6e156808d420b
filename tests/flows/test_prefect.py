"""Prefect around the flows: one `rushes serve` for all tests here, its database and its runs in temporary folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.prefect.serve import read_deployments
from flows.run.session import existing_catalog
from flows.views.tables import read_table
from stages.core.config import ROOT
from stages.core.running.runs import runs_table
from tests.flows.prefect_api import Api

RUSHES = [sys.executable, "-m", "flows.cli.main"]
VOLATILE = {"worker", "started", "ended", "core_seconds", "gpu_seconds", "peak_memory_mb", "run_id"}
CASCADE = {
    "letters": {"use": "tests.flows.toys:Letters"},
    "draw": {"use": "tests.flows.toys:Draw", "after": ["letters"]},
    "finish": {"use": "tests.flows.toys:Finish", "after": ["draw"]},
}


def environment(**more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent / "site")])
    return {**plain, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def rushes(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [*RUSHES, *map(str, words)]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four prompts, one of them broken, x two seeds, in two shards."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "cascade.yaml").write_text(yaml.safe_dump({"steps": CASCADE}, sort_keys=False))
    values = {"name": "toy", "cascade": str(folder / "cascade.yaml"), "seeds": 2, "shard_rows": 4}
    values |= {"infra": {"executor": "local"}, "prompts": ["one", "two two", "three", "a broken one"]}
    (folder / "toy.yaml").write_text(yaml.safe_dump(values))
    return folder / "toy.yaml"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """`rushes serve` on a free port. At the end an interrupt must end it and its server cleanly."""
    state = tmp_path_factory.mktemp("state")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (state / "serve.log").open("w+")
    serve = subprocess.Popen(
        [*RUSHES, "serve", "--port", str(port)],
        env=environment(XDG_STATE_HOME=str(state)),
        cwd=state,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    children: list[psutil.Process] = []
    try:
        Api.until(lambda: "Ctrl-C" in (state / "serve.log").read_text() or serve.poll() is not None, 150)
        assert serve.poll() is None, (state / "serve.log").read_text()
        assert f"http://127.0.0.1:{port}" in (state / "serve.log").read_text().splitlines()
        yield Api(f"http://127.0.0.1:{port}/api")
        children = psutil.Process(serve.pid).children(recursive=True)
        serve.send_signal(signal.SIGINT)
        assert serve.wait(40) == 0
        assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
        assert (state / "rushes" / "prefect" / "prefect.db").is_file()
    finally:
        for process in (*children, serve):
            if process.poll() is None if isinstance(process, subprocess.Popen) else process.is_running():
                process.kill()


@pytest.fixture(scope="module")
def threads_store(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The campaign run without Prefect."""
    store = tmp_path_factory.mktemp("threads")
    done = rushes("render", campaign, "--store", store)
    assert done.returncode == 0, done.stderr
    return store


def content(store: Path) -> tuple[list[dict[str, Any]], set[str]]:
    """What a store holds, without what may differ between two runs."""
    rows = read_table(existing_catalog(str(store)), "artifacts").to_pylist()
    kept = [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]
    return kept, {str(p.relative_to(store)) for p in (store / "media").rglob("*") if p.is_file()}


def last_run(store: Path) -> dict[str, Any]:
    return dict(runs_table(existing_catalog(str(store))).to_pylist()[-1])


def test_the_deployments_give_forms_and_their_schedules_are_off(api: Api) -> None:
    served, listed = api.deployments(), {d["name"]: d for d in read_deployments()}
    assert set(served) == set(listed) >= {"curate", "render", "evaluate", "train"}
    for name, deployment in served.items():
        assert deployment["entrypoint"] == listed[name]["entrypoint"]
        assert deployment["parameters"] == listed[name]["parameters"]
        assert [s["active"] for s in deployment["schedules"]] == [False]
        fields = deployment["parameter_openapi_schema"]["properties"]
        assert all(len(f["description"]) > 20 for f in fields.values()), fields
    form = served["render"]["parameter_openapi_schema"]
    assert form["required"] == ["campaign", "store"]
    assert form["properties"]["overrides"]["items"] == {"type": "string"}
    assert set(served["curate"]["parameter_openapi_schema"]["properties"]) == {
        "sources",
        "store",
        "config",
        "overrides",
    }


SERVED_AGAIN = """
import asyncio
from flows.prefect.serve import make_deployments, read_deployments, schedules_on_server
for deployment in make_deployments(read_deployments(), asyncio.run(schedules_on_server())):
    print(deployment.name, [s.active for s in deployment.schedules], deployment.work_pool_name)
"""


def test_a_schedule_that_is_switched_on_makes_runs_and_stays_on(api: Api) -> None:
    render = api.deployments()["render"]
    place = f"/deployments/{render['id']}/schedules/{render['schedules'][0]['id']}"
    wanted = {
        "deployments": {"id": {"any_": [render["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    try:
        api.ask(place, {"active": True}, "PATCH")
        command = [sys.executable, "-c", SERVED_AGAIN]
        done = subprocess.run(command, env=environment(PREFECT_API_URL=api.url), capture_output=True, text=True)
        switched = [f"{d['name']} [{d['name'] == 'render'}] None" for d in read_deployments()]
        assert done.stdout.splitlines() == switched, done.stderr
        api.until(lambda: api.ask("/flow_runs/filter", wanted), 60)
    finally:
        api.ask(place, {"active": False}, "PATCH")


def test_training_is_a_flow_run_with_a_task_for_each_part(api: Api, training_file: Path, tmp_path: Path) -> None:
    run_id = api.start("train", config=str(training_file), store=str(tmp_path / "store"), overrides=["promote=small"])
    assert api.wait(run_id, 120)["state_type"] == "COMPLETED"
    assert sorted(t["name"] for t in api.tasks(run_id)) == ["encode", "evaluate", "promote", "train"]
    said = [r["message"] for r in api.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}})]
    assert any("step 3/3  loss" in line for line in said), said


def test_a_run_from_the_form_makes_the_same_store_as_threads(
    api: Api, campaign: Path, threads_store: Path, tmp_path: Path
) -> None:
    run_id = api.start("render", campaign=str(campaign), store=str(tmp_path / "store"), export=str(tmp_path / "out"))
    run = api.wait(run_id)
    assert run["state_type"] == "COMPLETED", run["state"]
    assert last_run(tmp_path / "store")["run_id"] in run["state"]["message"]
    assert content(tmp_path / "store") == content(threads_store)
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 6

    stages = {f"{stage} {i}/2" for stage in CASCADE for i in (1, 2)}
    tasks = api.until(lambda: len(found := api.tasks(run_id)) == len(stages) and found)
    assert {t["name"] for t in tasks} == stages
    assert all(t["state_type"] == "COMPLETED" for t in tasks)

    task_of = {t["id"]: t["name"] for t in tasks}

    def logged(task: str, words: str) -> bool:
        return any(task_of.get(r["task_run_id"]) == task and words in r["message"] for r in api.logs(run_id))

    api.until(lambda: logged("letters 1/2", "letters of two two"))  # what a step logs stands with its task run
    api.until(lambda: logged("letters 2/2", "this prompt is broken"))

    artifacts = api.artifacts(run_id)
    assert artifacts["render-progress"]["data"] == 100
    table = {line["stage"]: line for line in json.loads(artifacts["render-stages"]["data"])}
    assert (table["letters"]["failed"], table["finish"]["done"]) == (1, 6)
    assert "rushes table videos" in artifacts["render-result"]["data"]
    assert (tmp_path / "out").as_uri() in artifacts["render-export"]["data"]


def test_bad_input_fails_the_run_with_its_sentence(api: Api, campaign: Path, tmp_path: Path) -> None:
    run = api.wait(api.start("render", campaign=str(campaign), store=str(tmp_path), overrides=["drw.seconds=1"]))
    assert run["state_type"] == "FAILED"
    assert "unknown key 'drw'; did you mean 'draw'?" in run["state"]["message"]


def test_cancel_stops_within_seconds_and_leaves_a_store_to_go_on_with(api: Api, campaign: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_id = api.start("render", campaign=str(campaign), store=str(store), overrides=["draw.seconds=1"])
    tasks = {"draw 1/2", "draw 2/2"}
    api.until(lambda: tasks & {t["name"] for t in api.tasks(run_id) if t["state_type"] == "RUNNING"}, 60)
    api.cancel(run_id)
    run = api.wait(run_id, 15)
    assert run["state_type"] == "CANCELLED", run["state"]
    api.until(lambda: not engines(run_id), 10)
    row = last_run(store)
    assert (row["status"], row["error"]) == ("stopped", "cancelled by SIGTERM")
    done = read_table(existing_catalog(str(store)), "artifacts").num_rows

    again = rushes("render", campaign, "--store", store, "draw.seconds=1")
    assert again.returncode == 0, again.stderr
    assert last_run(store)["status"] == "done"
    rows = read_table(existing_catalog(str(store)), "artifacts").to_pylist()
    assert len([r for r in rows if r["run_id"] == row["run_id"]]) == done  # nothing of the first run was done again
    assert len({r["artifact_id"] for r in rows if r["stage"] == "finish"}) == 6


def engines(run_id: str) -> list[int]:
    """The processes that run a flow run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run_id:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_the_command_line_reports_to_a_named_server(
    api: Api, campaign: Path, threads_store: Path, tmp_path: Path
) -> None:
    done = rushes("render", campaign, "--store", tmp_path, PREFECT_API_URL=api.url)
    assert done.returncode == 0, done.stderr
    [link] = [line.split()[-1] for line in (done.stdout + done.stderr).splitlines() if line.startswith("run page:")]
    run = api.wait(link.rsplit("/", 1)[-1])
    assert link.startswith(api.url.removesuffix("/api"))
    assert (run["name"], run["state_type"]) == ("toy", "COMPLETED")
    assert content(tmp_path) == content(threads_store)


RETRY = """
import sys
from prefect import flow
from flows.prefect import submit as prefect_graph
from stages.core.errors import BadInput

prefect_graph.stage = prefect_graph.stage.with_options(retry_delay_seconds=0)
calls = []

def shaky(first):
    calls.append(first)
    if len(calls) == 1:
        raise ConnectionError("the store did not answer")
    return first + 1

def wrong(value):
    calls.append("wrong")
    raise BadInput("no")

@flow
def tries():
    submit = prefect_graph.PrefectSubmit()
    one = submit("one 1/1", lambda: 1)
    two = submit("two 1/1", shaky, one)
    assert two.result() == 2
    bad = submit("bad 1/1", wrong, two)
    after = submit("after 1/1", shaky, bad)
    for piece in (bad, after):
        try:
            piece.result()
        except BadInput as error:
            print("raised", error)

tries()
print(calls)
"""


def test_a_task_is_tried_again_where_that_may_help(api: Api) -> None:
    command = [sys.executable, "-c", RETRY]
    quiet = {"PREFECT_API_URL": api.url, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    done = subprocess.run(command, env=environment(**quiet), capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["raised no", "raised no", "[1, 1, 'wrong']"], done.stdout + done.stderr


IMPORTED = """
import sys
from flows.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("imported:", sorted({"prefect", "ray", "torch"} & set(sys.modules)))
"""


def test_where_nothing_is_to_do_prefect_is_not_imported(campaign: Path, threads_store: Path) -> None:
    command = [sys.executable, "-c", IMPORTED, "render", str(campaign), "--store", str(threads_store)]
    nowhere = environment(PREFECT_API_URL="http://127.0.0.1:9/api")
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout + done.stderr
    assert "imported: []" in done.stdout


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (
            {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
            "PREFECT_API_URL names the Prefect server http://127.0.0.1:9/api",
        ),
        ({"PREFECT_API_URL": "localhost:4200"}, "PREFECT_API_URL: 'localhost:4200' is not an address"),
    ],
)
def test_a_server_that_does_not_answer_is_one_sentence(
    named: dict[str, str], said: str, campaign: Path, tmp_path: Path
) -> None:
    done = rushes("render", campaign, "--store", tmp_path, **named)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = rushes("serve", "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "is taken" in done.stderr
    assert "--port" in done.stderr
