"""A group of workers that train one model together: Ray Train places them and makes their torch.distributed group.

A group that loses a worker is started again and goes on from the training's own last checkpoint. Workers and driver
share a folder: progress and the answer come through it, and so does the wish to stop.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.ray.capacity import Need, Node
from stages.core import config
from stages.core.errors import BadInput
from stages.core.step import Row

STOP, SAID, ANSWER = "stop", "said.txt", "answer.json"
FAILURES, LOOK_S = 2, 0.3


def check_room(group: Mapping[str, Any], nodes: Sequence[Node]) -> None:
    """Raise BadInput where the cluster cannot hold all workers of a group at once: Ray would wait for ever."""
    need, count = Need(float(group["cpus"]), float(group["gpus"])), 0
    for node in nodes:
        left: Node | None = node
        while count < group["workers"] and (left := left.without(need)) is not None:  # type: ignore[union-attr]
            count += 1
    if count < group["workers"]:
        there = ", ".join(str(node) for node in nodes) or "nothing"
        raise BadInput(
            f"workers: {group['workers']} of {need} each are asked for, and Ray has room for {count} (it has {there}); "
            "ask for fewer or less (workers, cpus, gpus), or see infra.ray"
        )


def launch(
    entry: str, settings: Row, group: Mapping[str, Any], stop: Callable[[], bool], say: Callable[[str], None]
) -> Row:
    """Run `module:function` of our packages on every worker; the first one's answer. Ray must be up.

    group: workers, cpus and gpus of each, and `folder`, which all of them see. Raises BadInput that a worker raised,
    RuntimeError where the group failed more than FAILURES times.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    folder = Path(group["folder"]) / "group"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scaling = ScalingConfig(
        num_workers=int(group["workers"]), use_gpu=group["gpus"] > 0, resources_per_worker=_asked(group)
    )
    running = RunConfig(
        name="ray", storage_path=str(folder.resolve()), failure_config=FailureConfig(max_failures=FAILURES)
    )
    told = {"entry": entry, "settings": settings, "folder": str(folder.resolve()), "packages": list(config.PACKAGES),
            "here": str(Path.cwd())}  # fmt: skip
    with _watched(folder, stop, say):
        try:
            TorchTrainer(_work, train_loop_config=told, scaling_config=scaling, run_config=running).fit()
        except Exception as error:
            raise RuntimeError(f"the workers failed {FAILURES + 1} times: {_last_line(error)}") from None
    answer: Row = json.loads((folder / ANSWER).read_text())
    if bad := answer.pop("bad_input", ""):
        raise BadInput(bad)
    return answer


def _asked(group: Mapping[str, Any]) -> dict[str, float]:
    asked = {"CPU": float(group["cpus"]), "GPU": float(group["gpus"])}
    return {name: value for name, value in asked.items() if value}


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def _watched(folder: Path, stop: Callable[[], bool], say: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, hand the wish to stop to the workers, and what they say to `say`."""
    ended = threading.Event()

    def look(seen: int) -> int:
        if stop():
            (folder / STOP).touch()
        text = (folder / SAID).read_text() if (folder / SAID).exists() else ""
        whole = text[: text.rfind("\n") + 1]
        for line in whole[seen:].splitlines():
            say(line)
        return max(seen, len(whole))

    def watch() -> None:
        seen = 0
        while not ended.wait(LOOK_S):
            seen = look(seen)
        look(seen)

    thread = threading.Thread(target=watch, name="group-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _work(told: dict[str, Any]) -> None:
    """One worker. Bad input is told as an answer: all workers find it alike, and trying again would not help."""
    import ray.train

    config.PACKAGES = tuple(told["packages"])
    if Path(told["here"]).is_dir():
        os.chdir(told["here"])  # relative paths in settings mean what they mean to who wrote them
    folder, first = Path(told["folder"]), ray.train.get_context().get_world_rank() == 0
    module, _, name = told["entry"].partition(":")
    if not module.startswith(config.PACKAGES):
        raise BadInput(f"{told['entry']!r} is not of our packages")
    function = getattr(importlib.import_module(module), name)
    try:
        answer = function(told["settings"], (folder / STOP).exists, _teller(folder / SAID, first))
    except BadInput as error:
        answer = {"bad_input": str(error)}
    if first:
        (folder / ANSWER).write_text(json.dumps(answer))


def _teller(path: Path, speaks: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if speaks:
            with path.open("a") as file:
                file.write(f"{text}\n")

    return say
