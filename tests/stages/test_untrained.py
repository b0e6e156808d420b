"""The seeded untrained checkpoint: deterministic, whole or not at all, small, and a diffusers folder like any other."""

from __future__ import annotations

import hashlib
import itertools

import pytest
import torch
import yaml
from diffusers import LTXConditionPipeline
from transformers import AutoTokenizer

from stages.core.config_files import CONFIGS
from stages.core.weights.checkpoint import check_parts
from stages.families import untrained
from stages.families.ltx.shape import Shape, make_parts, make_tokenizer
from stages.families.untrained import PARTS, build_untrained, save_parts, world_words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_untrained(tmp_path_factory.mktemp("untrained") / "checkpoint", seed=0)


def contents(root) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_it_is_small_enough_to_travel(folder):
    sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    assert sum(sizes) <= 24e6
    assert max(sizes) < 16 * 2**20
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_equal_seeds_give_equal_bytes_and_others_do_not(folder, tmp_path):
    state = torch.get_rng_state()
    again = build_untrained(tmp_path / "again", seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    other = build_untrained(tmp_path / "other", seed=1)
    assert contents(again) == contents(folder)
    differing = {k.split("/")[0] for k, v in contents(other).items() if v != contents(folder)[k]}
    assert differing == set(PARTS) - {"tokenizer", "scheduler"}


def test_a_complete_folder_is_left_alone(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    build_untrained(folder, seed=5)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(untrained, "check_parts", lambda *_: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception):
        build_untrained(tmp_path / "checkpoint", shape=Shape(layers=1))
    assert list(tmp_path.iterdir()) == []


def test_a_broken_folder_is_replaced_whole(tmp_path):
    (tmp_path / "checkpoint" / "vae").mkdir(parents=True)
    made = build_untrained(tmp_path / "checkpoint", shape=Shape(layers=1))
    check_parts(made, PARTS)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_saving_leaves_the_models_as_they_are(tmp_path):
    parts = make_parts(Shape(layers=1), ["red"], 0)
    save_parts(parts, tmp_path / "checkpoint")
    assert {p.dtype for n in ("transformer", "vae", "text_encoder") for p in parts[n].parameters()} == {torch.float32}


def test_any_diffusers_user_can_open_it(folder):
    pipeline = LTXConditionPipeline.from_pretrained(folder)
    assert pipeline.vae_spatial_compression_ratio == 16
    assert pipeline.vae_temporal_compression_ratio == 4
    assert pipeline.vae.latents_mean.dtype == torch.float32
    assert float(pipeline.vae.latents_std.min()) > 0


def world_prompts():
    world = yaml.safe_load((CONFIGS / "world.yaml").read_text())
    keys = ("colours", "shapes", "motions", "backgrounds")
    for colour, shape, motion, background in itertools.product(*(world[k] for k in keys)):
        yield f"a {colour} {shape} {motion} on a {background} background"


def test_every_prompt_of_the_world_is_whole_words_and_fits(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer.model_max_length == Shape().max_tokens
    prompts = list(world_prompts())
    for prompt, ids in zip(prompts, tokenizer(prompts)["input_ids"], strict=True):
        assert len(ids) == len(prompt.split()) + 1, tokenizer.convert_ids_to_tokens(ids)
    assert len({tuple(ids) for ids in tokenizer(prompts)["input_ids"]}) == len(prompts)


@pytest.mark.parametrize("text", ["A Red CIRCLE,", "naïve 猫 — 5 + 3 = 8!", "  ", "anticircle reds", "\n\ttab"])
def test_the_saved_tokenizer_is_the_one_that_was_made(folder, text):
    loaded = AutoTokenizer.from_pretrained(folder / "tokenizer")
    made = make_tokenizer(world_words(), Shape().max_tokens)
    assert loaded(text)["input_ids"] == made(text)["input_ids"]
    assert loaded.unk_token_id not in loaded(text)["input_ids"]


def test_case_and_commas_do_not_hide_a_word(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer.tokenize("A Red circle, GROWING.")[:3] == ["\u2581a", "\u2581red", "\u2581circle"]
    assert "\u2581growing" in tokenizer.tokenize("A Red circle, GROWING.")
