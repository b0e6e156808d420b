"""Two workers over gloo: each draws its own clips, both keep the same weights, one writes; and the command line."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from stages.core.errors import BadInput
from stages.training.__main__ import AGAIN, main
from stages.training.loop import Trainer
from stages.training.parallel import whole
from stages.training.progress import read_losses
from stages.training.settings import TrainConfig
from stages.training.state import list_states, read_tensors

from .conftest import SMALL_AND_FINAL

UPSAMPLERS_TOO = {
    "model": {"trainable": ["vae.decoder.*", "*_upsampler.*"]},
    "reconstruction": {"upsampled": 0.5},
}
# Workers are forked from a clean server: a fork of this process has torch's locks but not the threads that hold them.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload([__name__])


def work(config: TrainConfig, rank: int, meeting: Path, leave, queue) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    trainer = Trainer(config)
    outcome = trainer.run()
    total = float(sum(whole(p.detach()).double().abs().sum() for p in trainer.params.values()))
    queue.put((rank, total, outcome.model is not None, outcome.finished))
    leave.wait()  # gloo gives the other's last operation up when this one closes its connections
    dist.destroy_process_group()


def run_two(config: TrainConfig, meeting: Path) -> list:
    """What two workers say of a run: rank, sum of weights, whether they wrote a model, whether they finished."""
    queue, leave = FRESH.Queue(), FRESH.Barrier(2)
    workers = [FRESH.Process(target=work, args=(config, r, meeting, leave, queue)) for r in range(2)]
    for worker in workers:
        worker.start()
    answers = sorted(queue.get(timeout=900) for _ in workers)
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0]
    return answers


def test_two_workers_train_one_model(settings, tmp_path):
    config = settings("vae", max_steps=3)
    answers = run_two(config, tmp_path / "meeting")
    assert answers[0][1] == answers[1][1]
    assert [a[2] for a in answers] == [True, False]
    assert all(a[3] for a in answers)
    assert len(read_losses(Path(config.out))) == 3


def test_two_workers_whose_batches_use_different_parts(settings, tmp_path):
    """One may draw latents that come through an upsampler where the other does not."""
    config = settings("vae", SMALL_AND_FINAL, max_steps=3, **UPSAMPLERS_TOO)
    answers = run_two(config, tmp_path / "meeting")
    assert answers[0][1] == answers[1][1]
    assert all(a[3] for a in answers)


def test_two_workers_take_the_mean_of_their_gradients(settings, tmp_path):
    """One step of plain descent by two workers is the mean of the steps that each would take alone."""
    plain = {"name": "adamw", "clip": 0.0, "ema": 0.0, "warmup": 0, "lr": 1e-3, "betas": [0.0, 0.0]}
    alone = Trainer(settings("vae", max_steps=1, optim=plain))
    gradients = []
    for rank in range(2):
        from stages.training.loop import step_seed

        alone.task.zero_grad()
        alone.task(alone.task.batches(rank, 2)[0], step_seed(0, 0, rank, 0))[0].backward()
        gradients.append({n: p.grad.clone() for n, p in alone.params.items()})
    optim = {**plain, "betas": [0.0, 0.5]}
    run_two(settings("vae", max_steps=1, optim=optim, out=str(tmp_path / "two")), tmp_path / "meeting")
    moments = read_tensors(list_states(tmp_path / "two")[-1], "optimizer")
    for name in alone.params:
        mean = (gradients[0][name] + gradients[1][name]) / 2
        assert torch.allclose(moments[f"0/{name}/exp_avg_sq"], mean.square() / 2, rtol=1e-3, atol=1e-10), name


STAGES = {
    "vae": {},
    "base": {"sample_every": 2, "model": {"trainable": ["transformer.*"]}, "objective": {"condition": 0.5}},
    "lora": {"stage": "base", "model": {"lora": {"rank": 2}}},
}


@pytest.mark.soak
@pytest.mark.parametrize("kind", STAGES)
def test_a_model_in_parts_learns_what_a_whole_one_does(settings, tmp_path, kind):
    """And goes on from the other's checkpoint, with gradients accumulated, averages, moments and all."""
    optim = {"name": "adamw", "accumulate": 2, "lr": 1e-3}
    more = {"stage": kind, **STAGES[kind], "optim": optim}
    for step, way in [(2, "ddp"), (4, "fsdp")]:
        config = settings(**more, max_steps=step, parallel=way, out=str(tmp_path / "both"))
        both = run_two(config, tmp_path / f"meeting-{step}")
    config = settings(**more, max_steps=4, out=str(tmp_path / "ddp"))
    assert run_two(config, tmp_path / "meeting")[0][1] == pytest.approx(both[0][1], rel=1e-5)
    assert [a[2] for a in both] == [True, False]
    for stem in ("weights", "ema", "optimizer"):
        found, wanted = (read_tensors(list_states(tmp_path / run)[-1], stem) for run in ("both", "ddp"))
        assert set(found) == set(wanted) != set()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=2e-2, atol=2e-4, msg=f"{stem} {name}")
    models = [{p.name: p.stat().st_size for p in (tmp_path / run / "model").rglob("*.safetensors")} for run in
              ("both", "ddp")]  # fmt: skip
    assert models[0] == models[1] != {}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, r"optim\.name=adamw"),
        ({"optim": {"name": "adamw"}, **UPSAMPLERS_TOO}, "not every batch uses the upsamplers"),
    ],
    ids=["whole kernels", "parts that some batches skip"],
)
def test_what_cannot_be_in_parts_is_refused(settings, tmp_path, more, said):
    config, meeting = settings("vae", SMALL_AND_FINAL, parallel="fsdp", **more), tmp_path / "meeting"
    workers = [FRESH.Process(target=expect_refusal, args=(config, r, meeting, said)) for r in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(900)
    assert [w.exitcode for w in workers] == [0, 0]


def expect_refusal(config: TrainConfig, rank: int, meeting: Path, said: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    with pytest.raises(BadInput, match=said):
        Trainer(config)
    dist.destroy_process_group()


@pytest.fixture
def config_file(start, tmp_path):
    path = tmp_path / "small.yaml"
    buckets = [{"width": 32, "height": 32, "frames": 5, "batch": 1}]
    values = {"stage": "vae", "max_steps": 2, "model": {"checkpoint": str(start)}, "out": str(tmp_path / "run"),
              "data": {"curriculum": [{"buckets": buckets}]}}  # fmt: skip
    path.write_text(json.dumps(values))
    return path


def test_the_command_line_trains_and_says_whether_to_go_on(config_file, capsys):
    assert main([str(config_file), "stop_after_s=0.001"]) == AGAIN
    assert main([str(config_file)]) == 0
    assert "finished at step 2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.lrr=1"], "did you mean 'optim.lr'"),
        (["stage=vaee"], "did you mean 'vae'"),
        (["optim.name=sgd"], "known: adamw, muon"),
        (["model.checkpoint=nowhere"], "has no vae/"),
        (["data.use=os:system"], "data.use"),
    ],
)
def test_a_wrong_config_is_one_sentence(config_file, capsys, words, said):
    assert main([str(config_file), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
