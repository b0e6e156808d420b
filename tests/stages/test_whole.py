"""Pipelines of diffusers that run as one step: the same pixels as the library's own call, and what is refused."""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import diffusers
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from flows.cli.main import main
from flows.run.session import existing_catalog
from flows.views.tables import read_table
from stages.base import Base
from stages.core.conditions import Condition
from stages.core.errors import BadInput
from stages.core.latents.artifacts import put_latent
from stages.core.latents.form import BadLatent, DecodeRecipe, LatentSpec
from stages.core.latents.frames import open_clip
from stages.core.ledger.storage import Storage
from stages.core.media import read_frames
from stages.core.step import InputRow, Workspace
from stages.core.weights.checkpoint import ModelConfig
from stages.decode import Decode
from stages.families.contract import Given, Sampling, load_family, load_maker, refuse_conditions
from stages.families.whole.signature import _files, arguments_of, module_of
from stages.families.whole.tiny import make

CLASSES = {"hunyuan-video": "HunyuanVideoPipeline", "skyreels-v2": "SkyReelsV2DiffusionForcingPipeline"}
CALL = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 4.0}
KNOBS = {"hunyuan-video": {"max_sequence_length": 512}, "skyreels-v2": {"max_sequence_length": 32}}
WHOLE = load_family("whole")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("whole"), {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = make(root / name, name)
        return made[name]

    return get


def spec(seed: int = 3, frames: int = 9, fps: float = 24.0) -> LatentSpec:
    return LatentSpec(
        family="whole", vae_id="pixels", spatial_ratio=1, temporal_ratio=1, width=32, height=32, n_frames=frames,
        fps=fps, fps_conditioning=fps, seed=seed, scale=0.01,
    )  # fmt: skip


def one_call(folder: Path, name: str, prompt: str, seed: int, **more: object) -> np.ndarray:
    pipeline = getattr(diffusers, CLASSES[name]).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    call = {**CALL, **KNOBS[name], **more}
    return (pipeline(prompt=prompt, generator=generator, output_type="np", **call).frames[0] * 255).round()


@pytest.mark.parametrize("name", list(CLASSES))
def test_it_gives_the_pixels_of_the_librarys_call_and_ignores_nothing(folders, name):
    folder = folders(name)
    model = ModelConfig(family="whole", checkpoint=str(folder))
    assert WHOLE.offers(model).variant == CLASSES[name]
    pipeline, codec = WHOLE.denoiser(model), WHOLE.codec(model)

    def frames(prompt: str = "a red cube", negative: str = "", seed: int = 3, guidance: float = 4.0, **knobs: float):
        sampling = Sampling(steps=2, guidance=guidance, knobs={**KNOBS[name], **knobs})
        made = pipeline.denoise(Given(columns={"prompt": prompt, "negative_prompt": negative}), spec(seed), sampling)[
            "video"
        ]
        return codec.decode(made, DecodeRecipe()).astype(float)

    whole = frames()
    np.testing.assert_array_equal(whole, one_call(folder, name, "a red cube", 3))
    moved = [frames(prompt="snow"), frames(seed=4), frames(guidance=9.0)]
    if name == "skyreels-v2":
        moved += [frames(negative="blurry"), frames(ar_step=1)]
    assert all((other != whole).any() for other in moved)
    np.testing.assert_array_equal(codec.decode(codec.encode(whole.astype(np.uint8)), DecodeRecipe()), whole)


def test_what_it_did_not_make_as_asked_is_an_error(folders):
    """HunyuanVideo makes 4k + 1 frames, and rounds what it is asked."""
    pipeline = WHOLE.denoiser(ModelConfig(family="whole", checkpoint=str(folders("hunyuan-video"))))
    sampling = Sampling(steps=1, guidance=1.0, knobs={"max_sequence_length": 128})
    with pytest.raises(BadLatent, match="HunyuanVideoPipeline made 9 frames of 32x32, and 10 frames of 32x32 were"):
        pipeline.denoise(Given(columns={"prompt": "x", "negative_prompt": ""}), spec(frames=10), sampling)
    with pytest.raises(BadInput, match="takes no latents to begin with"):
        pipeline.denoise(
            Given(columns={"prompt": "x", "negative_prompt": ""}),
            spec(),
            sampling,
            np.zeros((3, 9, 32, 32), np.float32),
            0.5,
        )


@pytest.mark.parametrize(
    ("values", "sampling", "says"),
    [
        ({"width": 30}, {}, "HunyuanVideoPipeline|whole cannot make 30x32: .* the nearest is 32x32"),
        ({"prompt": " "}, {}, ""),
        ({}, {"knobs": {"true_cfg_scal": 2.0}}, "has no such setting; did you mean 'true_cfg_scale'"),
        ({}, {"knobs": {"max_sequence_length": 1.5}}, "must be a whole number"),
        ({}, {"shift": 3.0}, "does not use it"),
        ({}, {"scheduler": {"name": "UniPCMultistepScheduler"}}, "samples with the checkpoint's own"),
    ],
)
def test_what_the_signature_does_not_allow_is_refused_while_planning(folders, values, sampling, says):
    model = ModelConfig(family="whole", checkpoint=str(folders("hunyuan-video")))
    config = Base.Config(model=model, sampling=Sampling(**sampling))
    take = {"width": 32, "height": 32, "frames": 9, "fps": 24.0, "prompt": "x", "negative_prompt": None, **values}
    if says:
        with pytest.raises(BadInput, match=says):
            Base.check_unit(config, {**take, "conditions": None})
    else:
        Base.check_unit(config, {**take, "conditions": None})  # its prompt has a default, so the library allows none


def test_conditions_and_columns_that_a_class_lacks_are_refused_by_name(folders):
    sky = ModelConfig(family="whole", checkpoint=str(folders("skyreels-v2")))
    still = Condition(kind="still", role="first", sha256="0" * 64)
    with pytest.raises(BadInput, match=r"SkyReelsV2DiffusionForcingPipeline\) takes no `image`; these do: .*svd"):
        refuse_conditions(WHOLE, WHOLE.offers(sky), [still], 9)
    take = {"width": 32, "height": 32, "frames": 9, "fps": 24.0, "conditions": None}
    with pytest.raises(BadInput, match="needs a `prompt`"):
        Base.check_unit(Base.Config(model=sky), {**take, "prompt": "", "negative_prompt": None})
    picture = ModelConfig(family="whole", checkpoint=sky.checkpoint, pipeline="StableVideoDiffusionPipeline")
    offers = WHOLE.offers(picture)
    assert {"prompt", "negative_prompt", "guidance"} <= set(offers.lacks)
    assert offers.accepts["still"].least == 1
    with pytest.raises(BadInput, match="has no use for `prompt`"):
        Base.check_unit(Base.Config(model=picture), {**take, "conditions": [vars(still)], "prompt": "x"})


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        ("HunyuanVideoPipelin", "has no pipeline 'HunyuanVideoPipelin'; did you mean 'HunyuanVideoPipeline'"),
        ("FluxPipeline", "FluxPipeline makes no video"),
    ],
)
def test_a_class_that_cannot_run_is_named(folders, pipeline, says):
    model = ModelConfig(family="whole", checkpoint=str(folders("skyreels-v2")), pipeline=pipeline)
    with pytest.raises(BadInput, match=says):
        WHOLE.offers(model)


def test_a_checkpoint_of_another_class_or_of_foreign_code_is_refused(folders, tmp_path):
    sky = folders("skyreels-v2")
    with pytest.raises(BadInput, match=r"has no .*text_encoder_2.*, which HunyuanVideoPipeline needs"):
        WHOLE.denoiser(ModelConfig(family="whole", checkpoint=str(sky), pipeline="HunyuanVideoPipeline"))
    foreign = Path(shutil.copytree(sky, tmp_path / "foreign"))
    index = json.loads((foreign / "model_index.json").read_text())
    (foreign / "model_index.json").write_text(json.dumps({**index, "vae": ["mine", "MyVae"]}))
    with pytest.raises(BadInput, match=r"mine\.MyVae, which is not one of diffusers"):
        WHOLE.denoiser(ModelConfig(family="whole", checkpoint=str(foreign)))
    missing = Path(shutil.copytree(sky, tmp_path / "missing"))
    shutil.rmtree(missing / "vae")
    with pytest.raises(BadInput, match="it has no vae/"):
        WHOLE.denoiser(ModelConfig(family="whole", checkpoint=str(missing)))


SOME = ("HunyuanVideoPipeline", "SkyReelsV2DiffusionForcingPipeline", "WanVACEPipeline", "StableVideoDiffusionPipeline")


@pytest.mark.parametrize("names", [SOME, pytest.param((), marks=pytest.mark.soak)], ids=["some", "all"])
def test_signatures_are_those_of_the_library(names):
    """Read from the source, compared with what Python says of the loaded class."""
    read = 0
    for name in names or sorted(n for n in _files() if n.endswith("Pipeline")):
        try:
            found = arguments_of(name)
        except BadInput:
            continue
        cls = getattr(importlib.import_module(module_of(name)), name)
        wanted = {k: p for k, p in inspect.signature(cls.__call__).parameters.items() if k != "self"}
        plain = {k: p for k, p in wanted.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        assert list(found) == list(plain), name
        assert {k for k, a in found.items() if a.required} == {k for k, p in plain.items() if p.default is p.empty}
        read += 1
    assert read == len(names) or read > 40


def test_a_campaign_runs_it_by_name(folders, tmp_path):
    campaign = {
        "name": "sky", "prompts": ["a red cube"], "cascade": "plain", "width": 32, "height": 32, "frames": 9, "fps": 8,
        "model": {"family": "whole", "checkpoint": str(folders("skyreels-v2"))}, "guidance": 4.0,
        "base": {"sampling": {"steps": 2, "knobs": KNOBS["skyreels-v2"]}},
    }  # fmt: skip
    (tmp_path / "sky.yaml").write_text(yaml.safe_dump(campaign))
    words = ["render", tmp_path / "sky.yaml", "--store", tmp_path / "store", "--executor", "local"]
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == 0, done.output
    (row,) = read_table(existing_catalog(str(tmp_path / "store")), "videos").to_pylist()
    assert (row["status"], row["width"], row["height"], row["n_frames"], row["fps"]) == ("ok", 32, 32, 9, 8.0)


def test_frames_are_handed_on_lossless_with_the_sound_that_the_pipeline_made(tmp_path):
    """The video is that of the pipeline's own floats, and plays what it plays: LTX-2 by the name of its class."""
    folder = load_maker("ltx2")(tmp_path / "ltx2", "2.0", 0)
    model = ModelConfig(family="whole", checkpoint=str(folder))
    store, sampling = Workspace(Storage(str(tmp_path / "store"))), Sampling(steps=2, knobs={"max_sequence_length": 128})
    base = Base(Base.Config(model=model, sampling=sampling), store, "base")
    base.setup()
    columns = {k: None for k in ("text", "condition", "conditions", "negative_prompt")}
    take = {"seed": 3, "width": 64, "height": 64, "frames": 9, "fps": 8.0, "guidance": 1.0, "prompt": "a red cube"}
    row = base.process(InputRow({**columns, **take}))
    assert row["uri"].endswith(".mkv")
    held = spec(base.seed_for(InputRow(take)), fps=8.0)
    own = base.denoiser.denoise(
        Given(columns={"prompt": "a red cube", "negative_prompt": ""}),
        replace(held, width=64, height=64),
        replace(sampling, guidance=1.0),
    )
    with open_clip(store, row) as clip:
        frames, heard = np.concatenate(list(clip.frames)), clip.sound
    np.testing.assert_array_equal(frames, WHOLE.codec(model).decode(own["video"], DecodeRecipe()))
    assert heard is not None
    assert heard.seconds == pytest.approx(9 / 8, abs=1 / heard.rate)
    count = min(heard.samples.shape[1], own["sound"].shape[1])
    np.testing.assert_array_equal(heard.samples[:, :count], own["sound"][:, :count])
    decode = Decode(Decode.Config(model=model, crf=0, preset="ultrafast"), store)
    decode.setup()
    made = decode.process(InputRow(latent=row))
    assert (made["n_frames"], made["sound_rate"], made["seconds"]) == (9, heard.rate, 9 / 8)
    floats = put_latent(store, np.ascontiguousarray(own["video"]), replace(held, width=64, height=64))
    assert floats["uri"].endswith(".safetensors"), "as stores of before hold them"
    silent = decode.process(InputRow(latent=floats))
    np.testing.assert_array_equal(*(read_frames(store.read(video["uri"])) for video in (made, silent)))
    with av.open(str(store.storage.local_path(made["uri"]))) as container:
        (audio,) = container.streams.audio
        assert float(audio.duration * audio.time_base) == pytest.approx(9 / 8, abs=2048 / heard.rate)
        assert (audio.start_time or 0) * audio.time_base < 2048 / heard.rate


def test_planning_loads_no_torch(folders):
    code = f"""
import sys
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family
load_family("whole").offers(ModelConfig(family="whole", checkpoint={str(folders("skyreels-v2"))!r}))
sys.exit(bool({{"torch", "diffusers", "transformers"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
