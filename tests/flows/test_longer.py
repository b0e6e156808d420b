"""Image to video and clips longer than one window: what a campaign says, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flows.cli.main import main
from flows.render.campaign import load_campaign
from flows.run.session import prepare
from stages.core.errors import BadInput
from stages.core.media import BadMedia, read_picture
from stages.core.planning.survey import Count


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)).save(path)
    return path


def load(campaign_file: Path, *overrides: str, **values):
    return load_campaign([campaign_file], values, overrides)


def test_steps_apply_only_to_takes_that_ask_for_them(campaign_file, picture, tmp_path):
    """Takes with and without a picture, longer and not, in one campaign; ids of the plain ones are as without."""
    plain = prepare(load(campaign_file), str(tmp_path / "plain"))
    assert (plain.survey.count("see"), plain.survey.count("extend")) == (Count(0, 0, 0, 0), Count(0, 0, 0, 0))
    prompt = load(campaign_file).takes[0]["prompt"]
    prompts = [prompt, {"prompt": prompt, "image": str(picture)}, {"prompt": prompt, "longer": 3}]
    mixed = prepare(load(campaign_file, "seeds=1", prompts=prompts), str(tmp_path / "mixed"))
    counts = mixed.survey.counts()
    assert (counts["text"].todo, counts["see"].todo) == (1, 1), "three takes share one prompt"
    assert (counts["base"].waiting, counts["extend"].waiting, counts["decode"].waiting) == (2, 1, 3)
    assert mixed.plan.node("base").fingerprint == plain.plan.node("base").fingerprint
    without = load(campaign_file, "see.enabled=false", "extend.enabled=false")
    assert list(without.steps) == ["text", "base", "spatial", "temporal", "refine", "decode", "measure", "qc"]
    marks = {n.name: n.fingerprint for n in prepare(without, str(tmp_path / "without")).plan.nodes}
    assert marks == {n.name: n.fingerprint for n in plain.plan.nodes if n.name in marks}


def test_windows_take_the_settings_of_base_and_their_own(campaign_file):
    steps = load(campaign_file).steps
    assert steps["extend"].config.sampling == steps["base"].config.sampling
    assert load(campaign_file, "extend.overlap=3").steps["extend"].config.overlap == 3
    assert steps["extend"].config.motion == "spread", "as the cascade says"
    assert steps["extend"].config.overlap == 1, "as the cascade says"
    with pytest.raises(BadInput, match="overlap"):
        load(campaign_file, "extend.overlp=3")
    with pytest.raises(BadInput, match="'faster'; it must be one of continue, spread"):
        load(campaign_file, "extend.motion=faster")
    with pytest.raises(BadInput, match=r"extend\.guidance is -1\.0; it must be 0 or more"):
        load(campaign_file, "extend.guidance=-1")


@pytest.mark.soak
def test_windows_have_guidance_of_their_own_and_their_ends_are_encoded_as_asked(campaign_file, tmp_path):
    """No guidance of their own is base's, which is 2: the same latents. Another, or other rounds than the cascade's
    three, draw other windows, from the same base."""
    store, off = tmp_path / "store", [f"{name}.enabled=false" for name in ("spatial", "temporal", "refine")]
    off.append("extend.motion=continue")
    words = ["render", campaign_file, "--store", store, "--executor", "local", "seeds=1", "limit=1", "longer=2", *off]
    latents = []
    for setting in ("guidance=0", "guidance=2", "guidance=4", "back_projections=1"):
        run = CliRunner().invoke(main, [str(w) for w in [*words, "extend.guidance=0", f"extend.{setting}"]])
        assert run.exit_code == 0, run.output
        latents.append(_latents(store, "extend")[-1])
    np.testing.assert_array_equal(latents[0], latents[1])
    (base,) = _latents(store, "base")
    for other in latents[2:]:
        np.testing.assert_array_equal(other[:, : base.shape[1]], base)
        assert np.abs(other - latents[0])[:, base.shape[1] :].max() > 1e-3


def _latents(store: Path, stage: str) -> list[np.ndarray]:
    """A stage's latents, in the order that they were made."""
    from stages.core.latents.form import unpack

    out = store.parent / "artifacts.jsonl"
    CliRunner().invoke(main, ["table", "artifacts", "--store", str(store), "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    made = sorted((r for r in rows if r["stage"] == stage), key=lambda r: r["started"])
    return [unpack((store / r["uri"]).read_bytes())[0] for r in made]


def test_an_image_belongs_to_a_takes_identity_and_its_absence_changes_nothing(campaign_file, picture):
    before = load(campaign_file).takes
    mixed = load(campaign_file, prompts=[before[0]["prompt"], {"prompt": before[0]["prompt"], "image": str(picture)}])
    assert mixed.takes[0]["id"] == before[0]["id"]
    assert len({t["id"] for t in mixed.takes}) == 4
    assert [t["conditions"] is None for t in mixed.takes] == [True, True, False, False]


def test_pictures_are_fitted_as_prompts_and_campaigns_say(campaign_file, picture, tmp_path):
    """`fit` is part of the identity of takes with a picture and of no others; a row of its own for each way."""
    (tmp_path / "a.png").write_bytes(picture.read_bytes())
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,image,Fit\na circle,a.png,\na circle,a.png, PAD\na circle,,stretch\n")
    cut, padded, plain = load(campaign_file, "seeds=1", "prompts=[]", prompts_file=str(table)).takes
    assert [t["fit"] for t in (cut, padded, plain)] == ["crop", "pad", None]
    assert len({cut["id"], padded["id"], plain["id"]}) == 3
    prepared = prepare(load(campaign_file, "seeds=1", "prompts=[]", prompts_file=str(table)), str(tmp_path / "store"))
    assert (prepared.survey.count("see").todo, prepared.survey.count("text").todo) == (2, 1)
    of_all = load(campaign_file, "seeds=1", "prompts=[]", "fit=stretch", prompts_file=str(table)).takes
    assert [t["fit"] for t in of_all] == ["stretch", "pad", None]
    assert of_all[2]["id"] == plain["id"]
    with pytest.raises(BadInput, match=r"fit must be one of crop, pad, stretch, not 'croop'"):
        load(campaign_file, prompts=[{"prompt": "a circle", "fit": "croop"}])


@pytest.mark.parametrize("motion", ["continue", pytest.param("spread", marks=pytest.mark.soak)])
def test_clips_begin_with_their_picture_and_go_on(campaign_file, picture, tmp_path, motion):
    prompts = [{"prompt": "a red circle", "image": str(picture)}, "a blue square"]
    path = tmp_path / "longer.yaml"
    path.write_text(campaign_file.read_text() + f"\nlonger: 3\nextend.motion: {motion}\n")
    words = ["render", path, "--store", tmp_path / "store", "--executor", "local", "seeds=1", f"prompts={prompts}"]
    if motion == "spread":
        words += ["--until", "extend"]
    run = CliRunner().invoke(main, [str(w) for w in words])
    assert run.exit_code == 0, run.output
    out = tmp_path / "artifacts.jsonl"
    CliRunner().invoke(main, ["table", "artifacts", "--store", str(tmp_path / "store"), "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {r["status"] for r in rows} == {"ok"}
    assert [r["note"] for r in rows if r["note"]] == ["50 % of its width was cut off"]
    assert '  first.png: 50 % of its width was cut off ("a red circle", seed 0)' in run.output.splitlines()
    frames = {s: [r["n_frames"] for r in rows if r["stage"] == s] for s in ("see", "base", "extend", "decode")}
    decoded = [49, 49] if motion == "continue" else []
    assert frames == {"see": [9], "base": [9, 9], "extend": [25, 25], "decode": decoded}
    _begins_with_its_condition(tmp_path / "store", rows, motion)
    assert "nothing to do" in CliRunner().invoke(main, [str(w) for w in words]).output


def _begins_with_its_condition(store: Path, rows: list[dict], motion: str) -> None:
    from stages.core.latents.form import unpack, unpack_seen

    files = {r["stage"]: (store / r["uri"]).read_bytes() for r in rows[:4]}
    latents = {stage: unpack(files[stage])[0] for stage in ("base", "extend") if stage in files}
    latents["see"] = unpack_seen(files["see"])[0]["video"]
    np.testing.assert_allclose(latents["base"][:, :1], latents["see"], atol=1e-4)
    if motion == "continue":
        np.testing.assert_array_equal(latents["extend"][:, : latents["base"].shape[1]], latents["base"])
    assert latents["extend"].shape[1] == 3 * (latents["base"].shape[1] - 1) + 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("image=nowhere.png", "nowhere.png"),
        ("image=README.md", "not a readable picture"),
        ("longer=0", "a whole number from 1"),
        ("longer=2 extend.enabled=false until=base", "asks to be longer (`longer`), and the cascade has no step for"),
        ("image={picture} see.enabled=false", "asks to be made after pictures or videos, and the cascade has no step"),
    ],
)
def test_bad_input_is_one_sentence(campaign_file, picture, tmp_path, override, said):
    overrides = override.format(picture=picture).split()
    words = ["render", str(campaign_file), *overrides, "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_pictures_are_cut_from_their_middle(picture):
    found = read_picture(picture.read_bytes(), 48, 48)
    np.testing.assert_array_equal(found, np.asarray(Image.open(picture))[:, 24:72])
    assert read_picture(picture.read_bytes(), 32, 64).shape == (64, 32, 3)
    with pytest.raises(BadMedia):
        read_picture(b"no picture", 8, 8)
