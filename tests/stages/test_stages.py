"""The stages as steps: what they write, what they load, and that the same row always gives the same bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest

from stages.core.errors import BadInput
from stages.core.identity import stage_seed
from stages.core.latents.artifacts import get_latent, put_latent
from stages.core.latents.form import BadLatent, pack_text
from stages.core.ledger.storage import Storage
from stages.core.weights.checkpoint import ModelConfig
from stages.families.ltx.models import LTXDenoiser
from tests.stages.cascade import SETTINGS, inputs, make_stages, run_take, take
from tests.stages.conftest import SHAPES, build

NAMES = list(SETTINGS)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def done(checkpoints, tmp_path_factory):
    """The stages on one store, and two takes that went through them."""
    from stages.core.step import Workspace

    workspace = Workspace(Storage(str(tmp_path_factory.mktemp("done"))))
    stages = make_stages(ModelConfig(checkpoint=str(checkpoints("16x4")), device="cpu"), workspace)
    return stages, run_take(stages, take(1)), run_take(stages, take(2)), workspace


def shas(row) -> dict[str, str]:
    return {name: row[name]["sha256"] for name in NAMES if name in row}


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_columns_that_the_stage_declares(done, name):
    stages, row, _, workspace = done
    assert sorted(row[name]) == sorted(stages[name].writes.names)
    table = pa.Table.from_pylist([row[name]], schema=stages[name].writes)
    empty = {column for column in table.column_names if table[column].null_count}
    assert empty == ({"sound_rate", "sound_db"} if name == "decode" else set()), "these clips are silent"
    assert len(workspace.read(row[name]["uri"])) == row[name]["size"]


def test_rows_do_not_depend_on_order_or_on_what_ran_before(done):
    stages, first, second, _ = done
    again = run_take(stages, take(2)), run_take(stages, take(1))
    assert shas(again[0]) == shas(second)
    assert shas(again[1]) == shas(first)


def test_the_seed_changes_every_seeded_stage_and_not_the_text(done):
    stages, first, second, _ = done
    assert first["text"]["sha256"] == second["text"]["sha256"]
    assert all(first[n]["sha256"] != second[n]["sha256"] for n in NAMES if n != "text")
    assert [n for n in NAMES if stages[n].inputs(stages[n].config).draws] == ["base", "refine"]
    assert [first[n]["stage_seed"] for n in ("base", "refine")] == [stage_seed(1, n) for n in ("base", "refine")]


def test_the_prompt_and_the_negative_prompt_change_the_take(done):
    stages, first, _, _ = done
    other = run_take(stages, take(1, "a blue square growing"), "base")
    plain = run_take(stages, {**take(1), "negative_prompt": ""}, "base")
    assert len({first["base"]["sha256"], other["base"]["sha256"], plain["base"]["sha256"]}) == 3


def test_parents_name_what_a_file_was_made_from(done):
    _, row, _, _ = done
    made_from = {"base": ["text"], "spatial": ["base"], "temporal": ["spatial"], "refine": ["temporal", "text"]}
    for name, before in {**made_from, "decode": ["refine"]}.items():
        assert row[name]["made_from"] == [row[b]["sha256"] for b in before]


SCRIPT = """
import json, sys
from stages.core.weights.checkpoint import ModelConfig
from stages.core.step import Workspace
from stages.core.ledger.storage import Storage
from tests.stages.cascade import make_stages, run_take, take
stages = make_stages(ModelConfig(checkpoint=sys.argv[1], device="cpu"), Workspace(Storage(sys.argv[2])))
row = run_take(stages, take(1))
print(json.dumps({k: v["sha256"] for k, v in row.items() if isinstance(v, dict)}))
"""


@pytest.mark.soak
def test_another_process_with_other_threads_makes_the_same_bytes(done, checkpoint, tmp_path):
    _, first, _, _ = done
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", SCRIPT, str(checkpoint), str(tmp_path / "other")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.splitlines()[-1]) == shas(first)


def test_planning_imports_no_torch(tmp_path):
    modules = ", ".join(sorted({cls.__module__ for cls, _ in SETTINGS.values()}))
    code = f"import sys, {modules}; import stages.families.ltx.adapter; heavy = "
    code += "{'torch', 'diffusers', 'transformers', 'cv2', 'av'} & set(sys.modules); print(heavy); sys.exit(len(heavy))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_runs_on_the_parts_it_declares_and_nothing_else(done, checkpoint, tmp_path, name):
    """What is hashed is what is loaded: a folder with only those parts is enough, and none of them can go."""
    _, row, _, workspace = done
    cls, given = SETTINGS[name]
    weights = cls.weights_of(cls.Config(**given))
    declared = [p for parts in weights.values() for p in parts]
    others = set(weights) - {"model.checkpoint", "lora.path"}  # an adapter is no part of a checkpoint
    declared += [key.removeprefix("model.") for key in others]
    for part in declared:
        shutil.copytree(checkpoint / part, tmp_path / "only" / part)
    model = ModelConfig(checkpoint=str(tmp_path / "only"), device="cpu")
    stage = make_stages(model, workspace, setup=False)[name]
    stage.setup()
    assert stage.process(inputs(name, row))["sha256"] == row[name]["sha256"]
    shutil.rmtree(tmp_path / "only" / declared[0])
    with pytest.raises(BadInput, match=declared[0]):
        make_stages(model, workspace, setup=False)[name].setup()


@pytest.mark.parametrize("name", ["spatial", "temporal", "refine", "decode"])
def test_latents_of_another_vae_are_refused(done, tmp_path, name):
    _, row, _, workspace = done
    other = build(tmp_path / "other", SHAPES["16x4"], seed=5)
    stage = make_stages(ModelConfig(checkpoint=str(other), device="cpu"), workspace, setup=False)[name]
    stage.setup()
    with pytest.raises(BadLatent, match="the hand-off is refused"):
        stage.process(inputs(name, row))


def test_embeddings_of_another_encoder_are_refused(done):
    stages, row, _, workspace = done
    from tests.core.test_latents import some_text

    other = {**row["text"], **workspace.put(pack_text(some_text(), "ltx"), ".safetensors")}
    with pytest.raises(BadLatent, match="3 channels, this transformer takes 32"):
        stages["base"].process(inputs("base", row, text=other))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embeds": np.ones((1, 6, 3), np.float32)}, r"embeds must be \[L, D\]"),
        ({"mask": np.zeros(6, bool)}, "with a token in it"),
        ({"mask": np.ones(5, bool)}, "with a token in it"),
        ({"mask": np.ones(6, np.int64)}, "mask bool"),
        ({"negative_embeds": np.ones((6, 4), np.float32)}, "differ in shape"),
        ({"other": np.ones(1, np.float32)}, "LTX takes the embeddings embeds, mask"),
    ],
)
def test_embeddings_of_another_form_are_refused(changes, said):
    from stages.families.ltx.models import _embeds
    from tests.core.test_latents import some_text

    with pytest.raises(BadLatent, match=said):
        _embeds({**some_text(), **changes})


def test_an_empty_prompt_is_refused_and_a_long_one_is_cut(done):
    stages, row, _, _ = done
    with pytest.raises(BadInput, match="prompt is empty"):
        stages["text"].process(inputs("text", take(prompt="  ")))
    assert (row["text"]["tokens"], row["text"]["truncated"]) == (10, False)
    long = stages["text"].process(inputs("text", take(prompt="red circle " * 30)))
    assert (long["tokens"], long["truncated"]) == (24, True)


def test_words_outside_the_world_still_tell_prompts_apart(done):
    stages, *_ = done
    prompts = ["a zebra", "a zebu", "une étoile", "une étoille", "星", "猫"]
    assert len({stages["text"].process(inputs("text", take(prompt=p)))["sha256"] for p in prompts}) == len(prompts)


def test_a_latent_of_an_earlier_stage_comes_first_in_the_clip(done):
    """The hook for image to video: full strength keeps the first frame, the rest follows it."""
    stages, row, other, workspace = done
    video, spec = get_latent(workspace, other["base"])
    first = put_latent(workspace, np.ascontiguousarray(video[:, :1]), replace(spec, n_frames=1))
    row = {**row, "conditions": [{"kind": "still", "role": "first", "sha256": first["sha256"], "frame": 0}]}
    made = stages["base"].process(inputs("base", row, condition=first))
    clip, _ = get_latent(workspace, made)
    plain, _ = get_latent(workspace, row["base"])
    np.testing.assert_allclose(clip[:, 0], video[:, 0], atol=1e-5)
    assert np.abs(clip[:, 1:] - plain[:, 1:]).mean() > 1e-3
    assert made["made_from"] == [row["text"]["sha256"], first["sha256"]]
    with pytest.raises(BadLatent, match="does not fit"):
        stages["base"].process(inputs("base", row, condition=row["spatial"]))
    with pytest.raises(BadInput, match=r"put a step with `use: stages\.see:See` before `base`"):
        stages["base"].process(inputs("base", row))


def test_a_cascade_may_leave_stages_out(done):
    stages, row, *_ = done
    temporal = stages["temporal"].process(inputs("temporal", row, latent=row["base"]))
    assert (temporal["width"], temporal["n_frames"]) == (96, 17)
    decoded = stages["decode"].process(inputs("decode", row, latent=temporal))
    assert (decoded["width"], decoded["n_frames"], decoded["fps"]) == (96, 17, 16.0)


def test_a_video_says_nothing_of_its_take(done):
    """What is kept depends on the latent alone; prompts and names are put in at export."""
    stages, row, _, workspace = done
    with av.open(str(workspace.storage.local_path(row["decode"]["uri"]))) as container:
        assert set(container.metadata) <= {"major_brand", "minor_version", "compatible_brands", "encoder"}
    assert stages["decode"].inputs(stages["decode"].config).depends == ()
    assert workspace.read(row["decode"]["poster_uri"])[:2] == b"\xff\xd8"


def test_a_wrong_scheduler_or_a_swapped_upsampler_is_said(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dynamic_shifting": True}))
    with pytest.raises(BadInput, match="shifts its timesteps"):
        LTXDenoiser(ModelConfig(checkpoint=str(copy), device="cpu"))
    swapped = ModelConfig(checkpoint=str(copy), spatial_upsampler=str(copy / "temporal_upsampler"), device="cpu")
    from stages.families.ltx.adapter import FAMILY

    with pytest.raises(BadInput, match="upsamples time: is it the other one"):
        FAMILY.spatial(swapped)
