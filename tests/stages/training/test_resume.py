"""A run that is killed, at any moment, and gone on with is the undisturbed run, bit by bit, on a CPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages.core.errors import BadInput
from stages.training.loop import never, train
from stages.training.progress import read_losses
from stages.training.settings import TrainConfig
from stages.training.state import list_states, read_tensors, write_tensors

# Forked from a server that has loaded the libraries and does nothing else: this process has threads, and a fork of it
# has the locks that they held (one died of it).
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload([__name__])


def train_alone(config: TrainConfig, stop: Callable[[], bool] = never) -> None:
    torch.set_num_threads(1)  # as in this process: the number of threads decides the order of sums
    train(config, stop=stop)


def run_killed(config, after_s: float) -> int:
    """Run in a process that is killed after a while; its exit status."""
    process = FRESH.Process(target=train_alone, args=(config,))
    process.start()
    process.join(after_s)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


def kill_itself(config, steps: int) -> None:
    """Train in a process that is killed before a certain step."""
    asked = iter(range(steps))

    def stop() -> bool:  # asked before every step
        if next(asked, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    train_alone(config, stop)


def wait_until(seen: Callable[[], bool], process: FRESH.Process) -> None:
    """Until a process shows what it has to, however slow the machine is."""
    end = time.monotonic() + 900
    while not seen():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)


def same_state(one: Path, other: Path) -> None:
    first, second = list_states(one)[-1], list_states(other)[-1]
    for stem in ("weights", "ema", "optimizer"):
        a, b = read_tensors(first, stem), read_tensors(second, stem)
        assert a.keys() == b.keys()
        assert a
        assert all(torch.equal(a[k], b[k]) for k in a), stem


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_killed_at_random_moments_the_loss_curve_is_the_same(settings, tmp_path, kills):
    steps = 40 if kills == 2 else 120
    more = {"max_steps": steps, "save_every_steps": 3, "objective": {"max_tokens": 40, "condition": 0.5}}
    data = {"cache": 6}
    began = time.monotonic()  # the moments of kills are drawn from it; nothing else hangs on it
    train(settings("base", data=data, out=str(tmp_path / "whole"), **more))
    whole = time.monotonic() - began
    config, rng = settings("base", data=data, out=str(tmp_path / "killed"), **more), random.Random(kills)
    first = FRESH.Process(target=kill_itself, args=(config, 10))
    first.start()
    first.join()
    assert first.exitcode == -signal.SIGKILL
    for _ in range(kills):
        run_killed(config, rng.uniform(0.05, 1.2 * whole / kills))
    assert train(config).finished
    assert read_losses(tmp_path / "killed") == read_losses(tmp_path / "whole")
    same_state(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.soak
def test_slices_add_up_to_the_whole_run(settings, tmp_path):
    train(settings("vae", max_steps=8, out=str(tmp_path / "whole")))
    config = settings("vae", max_steps=8, out=str(tmp_path / "sliced"))
    asked = [0, 0, 0]

    def stop(piece: int) -> bool:  # asked before every step
        asked[piece] += 1
        return asked[piece] > 3

    outcomes = [train(config, stop=lambda piece=piece: stop(piece)) for piece in range(3)]
    assert [o.step for o in outcomes] == [3, 6, 8]
    assert [o.finished for o in outcomes] == [False, False, True]
    assert outcomes[0].model is not None
    assert read_losses(tmp_path / "sliced") == read_losses(tmp_path / "whole")
    same_state(tmp_path / "sliced", tmp_path / "whole")


def test_the_deadline_and_a_signal_save_and_leave(settings):
    outcome = train(settings("vae", max_steps=100_000, stop_after_s=1.0))
    assert not outcome.finished
    folder = Path(settings("vae").out)
    assert json.loads((list_states(folder)[-1] / "state.json").read_text())["step"] == outcome.step
    endless = settings("vae", max_steps=100_000)
    process = FRESH.Process(target=train_alone, args=(endless,), daemon=True)  # ends with the tests
    process.start()
    # a slow machine makes no step within the deadline: then there are no losses yet
    wait_until(lambda: (folder / "progress.jsonl").exists() and len(read_losses(folder)) > outcome.step, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(900)
    process.kill()  # where it did not heed
    process.join()
    assert process.exitcode == 0
    assert json.loads((list_states(folder)[-1] / "state.json").read_text())["step"] > outcome.step


def test_a_torn_checkpoint_is_passed_over_and_another_config_refused(settings):
    config = settings("vae", max_steps=4, save_every_steps=2)
    train(config)
    folder = Path(config.out)
    (folder / "state-00000099").mkdir()
    (folder / ".state-00000098-1").mkdir()
    assert train(settings("vae", max_steps=5)).finished
    with pytest.raises(BadInput, match="take another `out`"):
        train(settings("vae", model={"trainable": ["vae.decoder.*"]}))


def test_large_states_are_cut_into_files_below_16_mib(tmp_path):
    tensors = {f"t{i}": torch.full((1 << 20,), float(i)) for i in range(11)}
    write_tensors(tensors, tmp_path, "weights")
    sizes = [p.stat().st_size for p in tmp_path.iterdir()]
    assert len(sizes) == 4
    assert max(sizes) < 16 << 20
    read = read_tensors(tmp_path, "weights")
    assert all(torch.equal(read[k], tensors[k]) for k in tensors)
