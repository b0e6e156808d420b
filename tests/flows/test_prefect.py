"""Prefect around the flows: one `rushes serve` for all tests here, its database and its runs in temporary folders."""

from __future__ import annotations

import base64
import io
import json
import os
import re
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
from click.testing import CliRunner
from fsspec.registry import known_implementations
from PIL import Image

from flows.cli.main import main
from flows.prefect.deploy import read_deployments
from flows.prefect.places import check_overrides, check_place, find_file
from flows.prefect.server import unreachable
from flows.run.session import existing_catalog
from flows.views.tables import read_table
from stages.core.config_files import ROOT
from stages.core.running.runs import runs_table
from tests.data_prep.little import video
from tests.flows.curated import KEEP_ALL
from tests.flows.prefect_api import Api

RUSHES = [sys.executable, "-m", "flows.cli.main"]
VOLATILE = {"worker", "started", "ended", "core_seconds", "gpu_seconds", "peak_memory_mb", "run_id"}
BRISK = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2", "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
"""Prefect looks for what is due more often than it does by itself, which is every minute and every ten seconds."""
CASCADE = {
    "letters": {"use": "tests.flows.toys:Letters"},
    "draw": {"use": "tests.flows.toys:Hang", "after": ["letters"]},
    "finish": {"use": "tests.flows.toys:Finish", "after": ["draw"]},
}


def environment(**more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent / "site")])
    return {**plain, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def rushes(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [*RUSHES, *map(str, words)]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four prompts, one of them broken, x two seeds, in two shards."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "cascade.yaml").write_text(yaml.safe_dump({"steps": CASCADE}, sort_keys=False))
    values = {"name": "toy", "cascade": str(folder / "cascade.yaml"), "seeds": 2, "shard_rows": 4}
    keys = {"storage": {"secret": "kanari-option"}, "ray": {"env": {"SOME_KEY": "kanari-env"}}}
    values |= {"infra": {"executor": "local", **keys}, "prompts": ["one", "two two", "three", "a broken one"]}
    (folder / "toy.yaml").write_text(yaml.safe_dump(values))
    return folder / "toy.yaml"


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, rows of `draw` hang."""
    return tmp_path_factory.mktemp("hanging") / "hanging.row"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `rushes serve` is started."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def api(state: Path, hanging: Path) -> Iterator[Api]:
    """`rushes serve` on a free port. At the end an interrupt must end it and its server cleanly."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (state / "serve.log").open("w+")
    serve = subprocess.Popen(
        [*RUSHES, "serve", "--port", str(port)],
        env=environment(XDG_STATE_HOME=str(state), RUSHES_TOY_HANG=str(hanging), **BRISK),
        cwd=state,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    children: list[psutil.Process] = []
    try:
        Api.until(lambda: "Ctrl-C" in (state / "serve.log").read_text() or serve.poll() is not None)
        assert serve.poll() is None, (state / "serve.log").read_text()
        assert f"http://127.0.0.1:{port}" in (state / "serve.log").read_text().splitlines()
        yield Api(f"http://127.0.0.1:{port}/api")
        children = psutil.Process(serve.pid).children(recursive=True)
        serve.send_signal(signal.SIGINT)
        assert serve.wait(600) == 0
        assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
        assert (state / "rushes" / "prefect" / "prefect.db").is_file()
        assert (state / "rushes" / "prefect").stat().st_mode & 0o077 == 0
        kept = [path for path in state.rglob("*") if path.is_file() and b"kanari" in path.read_bytes()]
        assert not kept, "a key of a campaign came to Prefect"
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


def test_the_deployments_give_forms_and_their_schedules_are_off(api: Api, state: Path) -> None:
    served, listed = api.deployments(), {d["name"]: d for d in read_deployments()}
    assert set(served) == set(listed) >= {"curate", "render", "evaluate", "train", "publish", "report"}
    for name, deployment in served.items():
        assert deployment["entrypoint"] == listed[name]["entrypoint"]
        assert deployment["parameters"] == {"store": str(state / "store"), **listed[name]["parameters"]}
        assert [s["active"] for s in deployment["schedules"]] == [False]
        schema = deployment["parameter_openapi_schema"]
        assert all(len(f["description"]) > 20 for f in schema["properties"].values()), schema
        assert set(deployment["parameters"]) <= set(schema["properties"])
        assert "store" in schema["required"]
    form = served["render"]["parameter_openapi_schema"]
    assert form["required"] == ["store"]
    assert form["properties"]["overrides"]["items"] == {"type": "string"}
    assert form["properties"]["prompts"]["type"] == "string"


def accept(name: str, values: dict[str, Any]) -> None:
    """What a flow does with the values of its form before any work. Raises BadInput."""
    from flows.curate.curation import load_curation
    from flows.evaluate.evaluation import load_evaluation, settings_of_options
    from flows.publish.publication import load_publication
    from flows.render.campaign import load_campaign
    from flows.train.training import load_training

    words, nothing = check_overrides(values.get("overrides", [])), ("prompts", "videos", "captions", "reference")
    if name == "render":
        load_campaign([find_file("campaign", values["campaign"], "campaigns")], {}, words)
    elif name == "curate":
        load_curation(values["sources"], find_file("config", values["config"]), {}, words)
    elif name == "publish":
        load_publication(values["dataset"], find_file("config", values["config"]), {}, words)
    elif name == "evaluate":
        load_evaluation(find_file("config", values["config"]), settings_of_options(**dict.fromkeys(nothing, "")), words)
    elif name == "train":
        load_training(find_file("config", values["config"], "train"), words)


def test_what_a_served_form_shows_is_accepted(api: Api) -> None:
    """Its defaults, and every example of its texts: by the server when a run is made, and by the flow."""
    needed = {"sources": ["/footage"], "out": "/figures.json"}
    examples = 0
    for name, deployment in api.deployments().items():
        fields = deployment["parameter_openapi_schema"]["properties"]
        texts = {key: field["description"] for key, field in fields.items()}
        for key, text in texts.items():
            for scheme in re.findall(r"(\w+)://", text):
                assert scheme in known_implementations, text
                assert check_place(key, f"{scheme}://bucket/{key}") == f"{scheme}://bucket/{key}"
        shown = {key: field["default"] for key, field in fields.items() if "default" in field}
        shown |= {k: v for k, v in needed.items() if k in fields and k not in shown} | deployment["parameters"]
        words = [w.rstrip(",.") for key, text in texts.items() for w in re.findall(r"[\w.]+=\S+", text)]
        assert bool(words) == ("overrides" in fields), texts
        if words:
            shown["overrides"] = words
        later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2200-01-01T00:00:00Z"}}
        run = api.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": shown, "state": later})
        assert run["parameters"] == shown
        api.ask(f"/flow_runs/{run['id']}", method="DELETE")
        accept(name, run["parameters"])
        examples += len(words)
    assert examples >= 10


SERVED_AGAIN = """
import asyncio
from flows.prefect.serve import run_here, settled

async def again():
    for deployment in run_here(await settled(), False, print):
        print("served", deployment.name)
        await deployment.aapply()

asyncio.run(again())
"""


def as_set(deployment: dict[str, Any]) -> tuple[Any, ...]:
    """What a person may have set of a deployment."""
    schedules = {
        (s["slug"], s["active"], s["schedule"].get("cron"), str(s["parameters"])) for s in deployment["schedules"]
    }
    limit = deployment["global_concurrency_limit"]
    return schedules, deployment["parameters"], limit and limit["limit"], deployment["tags"], deployment["paused"]


def change(api: Api, deployment: dict[str, Any], **parameters: Any) -> None:
    """What a person sets on the pages of the server."""
    place = f"/deployments/{deployment['id']}"
    api.ask(place, {"concurrency_limit": 1, "parameters": deployment["parameters"] | parameters}, "PATCH")
    cron = {"cron": "30 5 * * *", "timezone": "UTC"}
    nightly = {"active": True, "schedule": cron, "parameters": {"overrides": ["limit=3"]}}
    api.ask(f"{place}/schedules/{deployment['schedules'][0]['id']}", nightly, "PATCH")
    api.ask(f"{place}/schedules", [{"active": False, "schedule": {"interval": 7200}}])


def test_what_was_set_on_the_server_stays_when_it_is_served_again(api: Api) -> None:
    before = api.deployments()["render"]
    wanted = {
        "deployments": {"id": {"any_": [before["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    try:
        change(api, before, export="/films")
        changed = as_set(api.deployments()["render"])
        assert changed != as_set(before)
        command = [sys.executable, "-c", SERVED_AGAIN]
        done = subprocess.run(command, env=environment(PREFECT_API_URL=api.url), capture_output=True, text=True)
        said = done.stdout.splitlines()
        assert [line for line in said if line.startswith("served")] == [
            f"served {d['name']}" for d in read_deployments()
        ]
        [kept] = [line for line in said if line.startswith("render: kept")]
        for words in ("parameter export", "schedule nightly (on, 30 5 * * *)", "every 2:00:00", "limit 1"):
            assert words in kept, kept
        assert "/films" not in done.stdout
        assert "curate: its schedule cannot be used yet: sources has no value" in said
        assert as_set(api.deployments()["render"]) == changed
        api.until(lambda: api.ask("/flow_runs/filter", wanted))
    finally:
        now = api.deployments()["render"]
        for schedule in now["schedules"]:
            place = f"/deployments/{now['id']}/schedules/{schedule['id']}"
            if schedule["slug"]:
                api.ask(place, {"active": False}, "PATCH")
            else:
                api.ask(place, method="DELETE")
        api.ask(f"/deployments/{now['id']}", {"concurrency_limit": None, "parameters": before["parameters"]}, "PATCH")


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """infra/prefect.yaml under other names, for a work pool, with a store."""
    whole = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())
    for entry in whole["deployments"]:
        entry["name"] += "-pool"
        entry["parameters"]["store"] = "/store"
    path = tmp_path_factory.mktemp("pooled") / "prefect.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def deploy(api: Api, path: Path, *more: str) -> list[str]:
    done = rushes("deploy", "--file", path, *more, PREFECT_API_URL=api.url)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_deploying_again_takes_back_nothing_and_reset_does(api: Api, pooled: Path) -> None:
    assert "work pool rushes made, of the type process" in deploy(api, pooled)
    first = api.deployments()["render-pool"]
    assert (first["work_pool_name"], first["parameters"]) == ("rushes", {"campaign": "demo", "store": "/store"})
    assert first["pull_steps"] == yaml.safe_load(pooled.read_text())["pull"]
    change(api, first, store="/other")
    api.ask("/work_pools/rushes", {"concurrency_limit": 1}, "PATCH")
    changed = as_set(api.deployments()["render-pool"])
    said = deploy(api, pooled)
    assert as_set(api.deployments()["render-pool"]) == changed
    assert api.ask("/work_pools/rushes", method="GET")["concurrency_limit"] == 1
    [kept] = [line for line in said if line.startswith("render-pool: kept")]
    assert "parameter store" in kept
    assert "nightly (on, 30 5" in kept
    assert "/other" not in kept
    deploy(api, pooled, "--reset")
    assert as_set(api.deployments()["render-pool"]) == as_set(first)
    api.ask("/work_pools/rushes", {"concurrency_limit": None}, "PATCH")


@pytest.mark.soak
def test_training_is_a_flow_run_with_a_task_for_each_part(api: Api, training_file: Path, tmp_path: Path) -> None:
    run_id = api.start("train", config=str(training_file), store=str(tmp_path / "store"), overrides=["promote=small"])
    assert api.wait(run_id)["state_type"] == "COMPLETED"
    named = ["encode", "evaluate", "promote", "train"]
    api.until(lambda: sorted(t["name"] for t in api.tasks(run_id)) == named)
    api.until(lambda: any("step 3/3  loss" in r["message"] for r in api.logs(run_id)))


def test_a_run_from_the_form_makes_the_same_store_as_threads(
    api: Api, campaign: Path, threads_store: Path, tmp_path: Path
) -> None:
    asked = {"campaign": str(campaign), "store": str(tmp_path / "store"), "export": str(tmp_path / "out")}
    run_id = api.start("render", "typed by a person", **asked)
    run = api.wait(run_id)
    assert (run["state_type"], run["name"]) == ("COMPLETED", "typed by a person"), run["state"]
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
    api.until(lambda: logged("letters 2/2", "4 rows in ") and logged("letters 2/2", "2 ok, 2 failed"))
    wanted = {"6 of 8 videos finished", "2 x letters: this prompt is broken"}
    said = api.until(lambda: wanted <= set(found := [r["message"] for r in api.logs(run_id)]) and found)
    assert any("to do: letters 4, draw 8, finish 8; in this process" in line for line in said), said

    artifacts = api.artifacts(run_id)
    assert artifacts["render-progress"]["data"] == 100
    table = {line["stage"]: line for line in json.loads(artifacts["render-stages"]["data"])}
    assert (table["letters"]["failed"], table["finish"]["done"]) == (1, 6)
    result, page = artifacts["render-result"]["data"].replace("\\", ""), tmp_path / "store" / "render.html"
    for words in ("6 of 8 videos finished", "| 2 | letters: this prompt is broken |", "rushes table videos", str(page)):
        assert words in result, result
    for place, name in ((tmp_path / "out", "export"), (page, "page")):
        where = artifacts[f"render-{name}"]["data"].replace("\\", "")
        assert str(place) in where
        assert "file://" not in where, "no browser opens it from a page of the server"
    assert page.read_text().count("<video") == 6
    kind, picture = artifacts["render-contact-sheet"]["data"].split(",", 1)
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size[0] > 900


def test_what_is_wrong_with_a_form_fails_the_run_with_its_sentence(api: Api, campaign: Path, tmp_path: Path) -> None:
    typo = api.start("render", campaign=str(campaign), store=str(tmp_path / "typo"), overrides=["drw.seconds=1"])
    texts = {"prompts": "one\n\n  two two  \n", "overrides": [f"cascade={campaign.parent}/cascade.yaml"]}
    text = api.start("render", campaign=str(campaign), store=str(tmp_path / "text"), **texts)
    assert "unknown key 'drw'; did you mean 'draw'?" in api.wait(typo)["state"]["message"]
    assert api.run(typo)["state_type"] == "FAILED"
    assert not [r["message"] for r in api.logs(typo) if "Traceback" in r["message"]]
    api.until(lambda: [r for r in api.logs(typo) if "unknown key 'drw'" in r["message"] and r["level"] == 40])
    assert api.wait(text)["state_type"] == "COMPLETED"
    prompts = read_table(existing_catalog(str(tmp_path / "text")), "takes")["prompt"].to_pylist()
    assert prompts == ["one", "one", "two two", "two two"]
    assert "of: prompts" in api.artifacts(text)["render-result"]["data"]


@pytest.mark.soak
def test_a_curation_is_published_and_reported_from_forms(api: Api, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for seed in (1, 2):
        video(tmp_path / "footage" / f"s{seed}.mp4", (seed,))
    (tmp_path / "footage" / "broken.mp4").write_bytes(b"no video")
    curated = api.start("curate", sources=[str(tmp_path / "footage")], store=store, overrides=KEEP_ALL)
    assert api.wait(curated)["state_type"] == "COMPLETED"
    published, reported = api.start("publish", dataset="set", store=store), api.start("report", store=store)
    assert [api.wait(r)["state_type"] for r in (published, reported)] == ["COMPLETED"] * 2
    results = {r: {k: str(a["data"]) for k, a in api.artifacts(r).items()} for r in (curated, published, reported)}
    kept = read_table(existing_catalog(store), "datasets").to_pylist()[0]["clips"]
    assert kept == 2
    assert "2 sources, 1 file not read" in results[curated]["curate-result"]
    assert "broken.mp4" in results[curated]["curate-result"]
    assert "2 clips, 2 of them kept" in results[curated]["curate-result"]
    assert "set v1: 2 clips" in results[published]["publish-result"]
    assert "set/v1" in results[published]["publish-dataset"]
    assert str(Path(store, "report.html")) in results[reported]["report-page"].replace("\\", "")
    for run, key in ((curated, "curate-contact-sheet"), (published, "publish-contact-sheet")):
        assert results[run][key].startswith("data:image/jpeg;base64,")


def test_cancel_leaves_the_row_at_work_and_a_store_to_go_on_with(
    api: Api, campaign: Path, hanging: Path, tmp_path: Path
) -> None:
    """The row would hang for ever: neither the run nor its process waits for it."""
    store = tmp_path / "store"
    hanging.touch()
    run_id = api.start("render", campaign=str(campaign), store=str(store))
    api.until(hanging.with_suffix(".begun").exists)
    api.until(lambda: {"draw 1/2", "draw 2/2"} & {t["name"] for t in api.tasks(run_id)})
    api.cancel(run_id)
    run = api.wait(run_id)
    assert run["state_type"] == "CANCELLED", run["state"]
    api.until(lambda: not engines(run_id))
    hanging.unlink()
    row = last_run(store)
    assert (row["status"], row["error"]) == ("stopped", "cancelled by SIGTERM")
    done = read_table(existing_catalog(str(store)), "artifacts").num_rows

    again = rushes("render", campaign, "--store", store)
    assert again.returncode == 0, again.stderr
    assert last_run(store)["status"] == "done"
    rows = read_table(existing_catalog(str(store)), "artifacts").to_pylist()
    assert len([r for r in rows if r["run_id"] == row["run_id"]]) == done  # nothing of the first run was done again
    assert len({r["artifact_id"] for r in rows if r["stage"] == "finish"}) == 6


@pytest.mark.soak
@pytest.mark.ray
def test_cancel_while_ray_starts_is_shown_at_once(api: Api, campaign: Path, tmp_path: Path) -> None:
    run_id = api.start("render", campaign=str(campaign), store=str(tmp_path), overrides=["infra.executor=ray"])
    api.until(lambda: any("which starts now" in r["message"] for r in api.logs(run_id)))
    api.cancel(run_id)
    run = api.wait(run_id)
    assert (run["state_type"], run["state"]["message"]) == ("CANCELLED", "cancelled by SIGTERM")
    api.until(lambda: not engines(run_id))
    said = [r["message"] for r in api.logs(run_id)]
    assert not [line for line in said if "Running()" in line or "Traceback" in line], said


def test_the_process_of_a_worker_puts_results_where_the_form_says(api: Api, campaign: Path, tmp_path: Path) -> None:
    """What a worker of the type `process` starts for a run, in a new folder. The soak has the worker itself."""
    file = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())
    entry, served = next(d for d in file["deployments"] if d["name"] == "render"), api.deployments()["render"]
    form = {k: served[k] for k in ("flow_id", "entrypoint", "parameter_openapi_schema")}
    made = api.ask(
        "/deployments/", {"name": "worker", **form, "pull_steps": file["pull"], "parameters": entry["parameters"]}
    )
    try:
        asked = {"campaign": str(campaign), "store": str(tmp_path / "store"), "overrides": ["seeds=1"]}
        body = {"parameters": asked, "state": {"type": "PENDING"}}
        run_id = api.ask(f"/deployments/{made['id']}/create_flow_run", body)["id"]
        (tmp_path / "worker").mkdir()
        here = environment(PREFECT_API_URL=api.url, PREFECT_HOME=str(tmp_path / "home"), PREFECT__FLOW_RUN_ID=run_id)
        command = [sys.executable, "-m", "prefect.engine"]
        done = subprocess.run(command, cwd=tmp_path / "worker", env=here, capture_output=True, text=True, timeout=900)
        assert api.run(run_id)["state_type"] == "COMPLETED", done.stdout + done.stderr
    finally:
        api.ask(f"/deployments/{made['id']}", method="DELETE")
    assert read_table(existing_catalog(str(tmp_path / "store")), "videos").num_rows == 3
    assert list((tmp_path / "worker").iterdir()) == []


@pytest.mark.soak
def test_a_process_worker_puts_results_where_the_form_says(
    api: Api, campaign: Path, pooled: Path, tmp_path: Path
) -> None:
    """A worker as infra/prefect.yaml describes it, in a folder of its own, with what all its runs begin with."""
    here = environment(PREFECT_API_URL=api.url, PREFECT_HOME=str(tmp_path / "home"), RUSHES_OVERRIDES="seeds=1")

    def prefect(*words: str) -> None:
        command = [sys.executable, "-m", "prefect", *words]
        done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr

    deploy(api, pooled)
    asked = {"campaign": str(campaign), "export": str(tmp_path / "out")}
    good = api.start("render-pool", store=str(tmp_path / "store"), **asked)
    bad = api.start("render-pool", store="store", **asked)
    prefect("worker", "start", "--pool", "rushes", "--run-once")
    assert api.wait(good)["state_type"] == "COMPLETED"
    assert "store: 'store' is a relative path" in api.wait(bad)["state"]["message"]
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 3  # three sound prompts, one seed each
    assert last_run(tmp_path / "store")["status"] == "done"
    assert {p.name for p in tmp_path.iterdir()} == {"home", "out", "store"}


@pytest.mark.soak
def test_a_server_that_is_killed_costs_a_run_one_line(campaign: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, here = f"http://127.0.0.1:{port}/api", environment(PREFECT_HOME=str(tmp_path / "home"))
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        command, env=here, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        Api.until(lambda: not unreachable(url, 5.0))
        words = ["render", str(campaign), "--store", str(tmp_path / "store"), "draw.seconds=3"]
        with (tmp_path / "log").open("w+") as log:
            run = subprocess.Popen([*RUSHES, *words], env={**here, "PREFECT_API_URL": url}, stdout=log, stderr=log)
            Api.until(lambda: "run page" in (tmp_path / "log").read_text())
            os.killpg(server.pid, signal.SIGKILL)
            assert run.wait(200) == 0, (tmp_path / "log").read_text()  # it took more than ten minutes once
    finally:
        server.kill()
        server.wait()
    said = (tmp_path / "log").read_text()
    assert said.count("warning:") == said.count("does not answer any more") == 1, said
    assert "Traceback" not in said
    assert last_run(tmp_path / "store")["status"] == "done"
    assert read_table(existing_catalog(str(tmp_path / "store")), "videos").num_rows == 6


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


@pytest.mark.soak
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
    done = subprocess.run(command, env=environment(**quiet), capture_output=True, text=True, timeout=900)
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
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=900)
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
    first, sentence = done.stderr.splitlines()
    assert first == "  0 s: reading the settings and the store"
    assert said in sentence


@pytest.mark.parametrize(("no_server", "said"), [("refused", "give another with --port"), ("", "process {pid}")])
def test_a_port_that_is_taken_is_one_sentence(no_server: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Prefect server of before is named with its process: a second one must not open the same database."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("flows.prefect.serve.unreachable", lambda url, wait_s: no_server)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CliRunner().invoke(main, ["serve", "--port", str(taken.getsockname()[1])])
    assert done.exit_code == 2
    assert "is taken" in done.stderr
    assert said.format(pid=os.getpid()) in done.stderr


def test_a_state_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "prefect"))
    done = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert done.exit_code == 2
    assert "set PREFECT_HOME to another folder" in done.stderr
