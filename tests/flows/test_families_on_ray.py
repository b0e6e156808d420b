"""Families on Ray give the bytes that they give in-process; a campaign of many conditions and sizes outlives kills."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.tiny import make_tiny
from stages.core.media import write_video
from tests.flows.test_cascades import MIXED, SHORT
from tests.flows.test_families import CAMPAIGNS, SMALL
from tests.flows.test_faults import (
    KILL_LIMIT_S,
    POINTS,
    ROOM,
    Contents,
    assert_ran_on_workers,
    assert_whole,
    contents,
    finish,
    random_kills,
    render,
)

MADE = {"svd": ("svd", ""), "wan": ("wan", ""), "vace": ("wan", "vace"), "sky": ("skyreels", ""),
        "net": ("animatediff", "controlnet"), "ltx2": ("ltx2", "2.3"), "whole": ("whole", "")}  # fmt: skip
"""Folder -> the family and the kind of its tiny checkpoint."""
WHOLE = ({"family": "whole", "checkpoint": "whole"}, ["a red cube", {"prompt": "snow", "seed": 3, "frames": 9}], {})
FAMILIES = {name: one for name, one in {**CAMPAIGNS, "whole": WHOLE}.items() if name != "vace"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and videos."""
    root = tmp_path_factory.mktemp("on-ray")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (40, 64, 3), np.uint8)).save(root / f"{name}.png")
        frames = rng.integers(0, 256, (12, 32, 48, 3), np.uint8)
        (root / f"{name}.mp4").write_bytes(write_video(frames, 8.0, crf=1))
    mask = np.zeros((12, 32, 48, 3), np.uint8)
    mask[:, 8:24, 12:36] = 255
    (root / "mask.mp4").write_bytes(write_video(mask, 8.0, crf=1))
    return root


def campaign(place: Path, name: str, cascade: str, model: dict, prompts: list, steps: dict, **more: object) -> Path:
    """A campaign file, with the tiny checkpoint beside it."""
    folder = model["checkpoint"]
    if not (place / folder).exists():
        family, kind = MADE[folder]
        make_tiny(family, str(place / folder), *([kind] if kind else []))
    steps = {"base": {"sampling": {"steps": 2}}, **steps}
    path = place / f"{name}.yaml"
    path.write_text(
        json.dumps({"cascade": cascade, "model": model, "prompts": prompts, "steps": steps, **SMALL, **more})
    )
    return path


@pytest.mark.ray
@pytest.mark.parametrize("name", [n if n == "wan" else pytest.param(n, marks=pytest.mark.soak) for n in FAMILIES])
def test_ray_gives_the_bytes_of_one_process(place: Path, name: str) -> None:
    model, prompts, steps = FAMILIES[name]
    path = campaign(place, name, "plain", model, prompts, steps)
    here, there = place / f"{name}-here", place / f"{name}-there"
    finish(render(path, here, "--executor", "local"))
    finish(render(path, there, *ROOM, "shard_rows=1"))
    assert len({sha256 for (_, stage), (_, sha256) in contents(here).items() if stage == "base"}) == len(prompts)
    assert_whole(there, contents(here))
    assert_ran_on_workers(there)


@pytest.fixture(scope="module")
def mixed(place: Path) -> tuple[Path, Contents]:
    """A campaign whose takes have each another kind of condition, in sizes, lengths and rates of their own; and what it
    gives in-process, never interrupted."""
    model = {"family": "wan", "checkpoint": "vace"}
    path = campaign(place, "mixed", "gen-3", model, MIXED, SHORT, seeds=2)
    finish(render(path, place / "undisturbed", "--executor", "local"))
    return path, contents(place / "undisturbed")


@pytest.mark.soak
def test_conditions_and_sizes_outlive_kills_before_and_after_each_move_and_commit(mixed, tmp_path: Path) -> None:
    path, wanted = mixed
    assert len({take for take, _ in wanted}) == 2 * len(MIXED)
    for number, point in enumerate(POINTS):
        killed = render(
            path, tmp_path / "store", "--executor", "local", env={"RUSHES_CRASH": f"{point}:{2 + number % 3}"}
        )
        output, _ = killed.communicate(timeout=KILL_LIMIT_S)
        assert killed.returncode == -signal.SIGKILL, output
    finish(render(path, tmp_path / "store", "--executor", "local"))
    assert_whole(tmp_path / "store", wanted)


@pytest.mark.soak
@pytest.mark.ray
def test_conditions_and_sizes_outlive_kills_on_ray(mixed, tmp_path: Path) -> None:
    """Of workers and of the driver, in turn."""
    path, wanted = mixed
    killed = random_kills(path, tmp_path / "store", 6, seed=1)
    finish(render(path, tmp_path / "store", *ROOM))
    assert_whole(tmp_path / "store", wanted)
    print(json.dumps({"figure": "mixed_kills_survived", "kills": killed}), flush=True)
    assert killed >= 2
