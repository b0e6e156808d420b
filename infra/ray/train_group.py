"""A group of workers that train one model together: Ray Train places them and makes their torch.distributed group.

A group that loses a worker is started again and goes on from the training's own last checkpoint. Workers and driver
share a folder: lines of progress and the result come through it, and so does the request to stop.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from infra.ray.actor import Surroundings
from infra.ray.capacity import Need, Node
from stages.core.errors import BadInput
from stages.core.running.launch import load_function
from stages.core.step import Row

STOP_FILE, PROGRESS_FILE, RESULT_FILE = "stop", "progress.txt", "result.json"
MAX_FAILURES, POLL_S = 2, 0.3


def check_capacity(group: Mapping[str, Any], nodes: Sequence[Node]) -> None:
    """Raise BadInput where the cluster cannot hold all workers of a group at once: Ray would wait for ever."""
    need, placed = Need(float(group["cpus"]), float(group["gpus"])), 0
    for node in nodes:
        rest: Node | None = node
        while placed < group["workers"] and (rest := rest.without(need)) is not None:  # type: ignore[union-attr]
            placed += 1
    if placed < group["workers"]:
        available = ", ".join(str(node) for node in nodes) or "nothing"
        raise BadInput(
            f"workers: {group['workers']} of {need} each are asked for, and Ray has room for {placed} (it has "
            f"{available}); ask for fewer or less (workers, cpus, gpus), or see infra.ray"
        )


def launch(
    entry: str,
    settings: Row,
    group: Mapping[str, Any],
    stop: Callable[[], bool],
    say: Callable[[str], None],
    env: Mapping[str, str] | None = None,
) -> Row:
    """Run `module:function` of our packages on every worker and return the first one's result. Ray must be up.

    group: `workers`, `cpus` and `gpus` of each, and `folder`, which all of them see. env: more environment variables of
    theirs. Raises BadInput that a worker raised, RuntimeError where the group failed more than MAX_FAILURES times.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    folder = Path(group["folder"]) / "group"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scaling = ScalingConfig(
        num_workers=int(group["workers"]), use_gpu=group["gpus"] > 0, resources_per_worker=_worker_resources(group)
    )
    run = RunConfig(
        name="ray", storage_path=str(folder.resolve()), failure_config=FailureConfig(max_failures=MAX_FAILURES)
    )
    worker_config = {
        "entry": entry,
        "settings": settings,
        "folder": str(folder.resolve()),
        "surroundings": ray.put(Surroundings.here(env or {})),  # a reference: Ray Train writes its config down
        "working_directory": str(Path.cwd()),
    }
    with _relay(folder, stop, say):
        try:
            TorchTrainer(_run_worker, train_loop_config=worker_config, scaling_config=scaling, run_config=run).fit()
        except Exception as error:
            raise RuntimeError(f"the workers failed {MAX_FAILURES + 1} times: {_last_line(error)}") from None
    result: Row = json.loads((folder / RESULT_FILE).read_text())
    if message := result.pop("bad_input", ""):
        raise BadInput(message)
    return result


def _worker_resources(group: Mapping[str, Any]) -> dict[str, float]:
    resources = {"CPU": float(group["cpus"]), "GPU": float(group["gpus"])}
    return {name: amount for name, amount in resources.items() if amount}


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def _relay(folder: Path, stop: Callable[[], bool], say: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, pass a request to stop on to the workers, and their lines of progress on to `say`."""
    ended = threading.Event()

    def poll(read: int) -> int:
        """Pass on what is new behind the first `read` characters; returns how many have been read now."""
        if stop():
            (folder / STOP_FILE).touch()
        text = (folder / PROGRESS_FILE).read_text() if (folder / PROGRESS_FILE).exists() else ""
        complete = text[: text.rfind("\n") + 1]  # a worker may be in the middle of a line
        for line in complete[read:].splitlines():
            say(line)
        return max(read, len(complete))

    def watch() -> None:
        read = 0
        while not ended.wait(POLL_S):
            read = poll(read)
        poll(read)

    thread = threading.Thread(target=watch, name="group-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _run_worker(worker_config: dict[str, Any]) -> None:
    """One worker. Bad input is returned as a result: all workers meet it alike, and another try would not help."""
    import ray.train

    ray.get(worker_config["surroundings"]).take_over()
    if Path(worker_config["working_directory"]).is_dir():
        os.chdir(worker_config["working_directory"])  # so that relative paths in settings mean the same as there
    folder, is_first = Path(worker_config["folder"]), ray.train.get_context().get_world_rank() == 0
    say = _progress_writer(folder / PROGRESS_FILE) if is_first else _say_nothing
    try:
        function = load_function(worker_config["entry"])
        result = function(worker_config["settings"], (folder / STOP_FILE).exists, say)
    except BadInput as error:
        result = {"bad_input": str(error)}
    if is_first:
        (folder / RESULT_FILE).write_text(json.dumps(result))


def _progress_writer(path: Path) -> Callable[[str], None]:
    def say(text: str) -> None:
        with path.open("a") as file:
            file.write(f"{text}\n")

    return say


def _say_nothing(text: str) -> None:
    """Progress of all but the first worker: it would say the same."""
