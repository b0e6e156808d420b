"""Every kind of condition that a checkpoint accepts: compared with the library somewhere, and never without effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stages.core.conditions import Condition
from stages.core.errors import BadInput
from stages.families.contract import Given, Shot, refuse_conditions
from tests.stages.families_cases import CASES, PROMPT, Case, Stages, condition, made, video
from tests.stages.test_engine_families import MOVED, REFINED, case_of

NO_PIPELINE = {
    "svd image-to-video", "wan two-experts", "wan i2v", "wan i2v-two-experts", "wan flf2v", "wan ti2v",
    "wan ti2v-pictures", "skyreels diffusion-forcing", "animatediff sparsectrl",
}  # fmt: skip
"""Checkpoints for which the library has no video to video pipeline: tests of the engine compare the head and the tail
of a schedule with the whole of it."""
OTHERS: dict[str, dict[str, float]] = {"scale": {"scale": 0.2}, "start": {"start": 0.6}, "end": {"end": 0.4}}
"""What a condition goes by -> another value than that of the cases."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The stages of a case on its tiny checkpoint, made once."""
    root, loaded = tmp_path_factory.mktemp("cells"), {}

    def get(case: Case) -> Stages:
        if case.name not in loaded:
            loaded[case.name] = Stages(case, made(case, root))
        return loaded[case.name]

    return get


def cells(accepts: Any) -> set[tuple[str, str]]:
    """(kind, role) of all that is accepted; the signals of a control are one."""
    return {(kind, role) for kind, one in accepts.items() for role in (one.roles if kind != "control" else ()) or ("",)}


def test_every_accepted_cell_is_compared_with_the_librarys_call(tiny):
    """A role that is accepted and that no case has would be compared nowhere. A source with a level is compared with
    the library's video to video pipeline, where it has one."""
    accepted: dict[str, set[tuple[str, str]]] = {}
    compared: dict[str, set[tuple[str, str]]] = {}
    tails = {f"{case_of(name).family} {case_of(name).maker}" for name, *_ in REFINED}
    begun = set()
    for case in CASES:
        offers, who = tiny(case).offers, f"{case.family} {case.maker}"
        found = cells(offers.accepts)
        if "clip" not in offers.accepts:
            begun |= {who} if ("source", "") in found else set()
            found.discard(("source", ""))
        accepted[who] = found
        seen = {(c.kind, (c.role or "") if c.kind != "control" else "") for c, _ in case.conditions}
        compared[who] = compared.get(who, set()) | seen
    assert {who: found - compared[who] for who, found in accepted.items() if found - compared[who]} == {}
    assert begun == tails | NO_PIPELINE
    assert not tails & NO_PIPELINE


def sources() -> list[Case]:
    """A case of each checkpoint that begins from a video at a level."""
    first = {(c.family, c.maker): c for c in CASES if c.family != "ltx2" and c.maker != "vace"}
    return list(first.values())


@pytest.mark.parametrize("case", sources(), ids=lambda c: c.name)
def test_a_video_to_begin_from_and_its_level_move_the_clip(case, tiny):
    stages = tiny(case)
    assert stages.offers.accepts["source"].must == ("level",)
    kept = tuple(c for c, _ in case.conditions)

    def latent(seed: int, level: float) -> np.ndarray:
        width, height, frames = case.size
        shot = Shot(
            width=width, height=height, n_frames=frames, fps=8.0, conditions=(*kept, condition("source", level=level))
        )
        seen = stages.seer.see(shot, [*case.media(), video(*case.size, seed=seed)], {})
        given = Given(text=stages.text(PROMPT), seen=seen, conditions=shot.conditions)
        return stages.latent(given, start=seen["source"], level=level)

    base = latent(4, 0.9)
    moved = {"video": np.abs(latent(5, 0.9) - base).max(), "level": np.abs(latent(4, 0.995) - base).max()}
    assert min(moved.values()) >= MOVED * case.bound, moved


def heeding() -> list[tuple[Case, int, str]]:
    """(case, number of the condition, what it goes by) of all conditions that go by more than their medium."""
    found = []
    for case in CASES:
        for number, (one, _) in enumerate(case.conditions):
            keys = {"control": ("scale", "start", "end"), "still": ("scale",) if one.scale is not None else ()}
            found += [(case, number, key) for key in keys.get(one.kind, ())]
    return found


@pytest.mark.parametrize(("case", "number", "key"), heeding(), ids=lambda v: getattr(v, "name", str(v)))
def test_every_setting_of_a_condition_moves_the_clip_or_is_refused(case, number, key, tiny):
    stages, (one, make) = tiny(case), case.conditions[number]
    if key not in stages.offers.accepts[one.kind].heeds and one.kind == "control":
        with pytest.raises(BadInput, match=f"has no {key} for|takes no {key}|{key}"):
            refuse_conditions(stages.family, stages.offers, [replace(one, **OTHERS[key])], case.size[2])
        return
    other: Condition = replace(one, **OTHERS[key])
    conditions = tuple((other, make) if i == number else pair for i, pair in enumerate(case.conditions))
    changed = Stages(replace(case, conditions=conditions), stages.folder)
    moved = np.abs(changed.latent(changed.given()) - stages.latent(stages.given())).max()
    assert moved >= MOVED * case.bound, moved


@pytest.mark.parametrize("name", ["wan-two-experts", "wan-i2v-two-experts"])
def test_the_guidance_of_the_second_expert_moves_the_clip(name, tiny):
    stages = tiny(case_of(name))
    given = stages.given()
    moved = np.abs(stages.latent(given, knobs={"guidance_2": 1.5}) - stages.latent(given)).max()
    assert moved >= MOVED * stages.case.bound
