"""Prompts made of others: columns, wildcards and a matrix. What is literal stays so; what is wrong is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from flows.cli.main import main
from flows.render.campaign import load_campaign
from flows.render.templates import Templates
from stages.core.errors import BadInput


def takes(folder: Path, **settings) -> list[dict]:
    """The takes of a campaign file with these settings."""
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(settings))
    return list(load_campaign([path], {}, []).takes)


def refused(folder: Path, **settings) -> str:
    with pytest.raises(BadInput) as caught:
        takes(folder, **settings)
    return str(caught.value)


def of_csv(folder: Path, text: str, **settings) -> list[dict]:
    (folder / "p.csv").write_text(text)
    return takes(folder, prompts_file="p.csv", **settings)


# -- columns -----------------------------------------------------------------------------------------------------------


def test_a_column_is_put_in_literally(tmp_path):
    (tmp_path / "x.txt").write_text("never")
    text = (
        "prompt,Shot Type,animal,negative_prompt\n"
        'a {{Shot Type}} of a {{ animal }},close-up,"{{seed}} {a|b} __x__",no {{animal}}\n'
        "just {words} in braces {{,,,\n"
    )
    for wildcards in (False, True):
        first, second = of_csv(tmp_path, text, wildcards=wildcards)
        assert first["prompt"] == "a close-up of a {{seed}} {a|b} __x__"
        assert first["negative_prompt"] == "no {{seed}} {a|b} __x__"
        assert second["prompt"] == "just {words} in braces {{"


def test_columns_of_a_mapping_of_jsonl_and_of_the_campaigns_negative_prompt(tmp_path):
    (one,) = takes(tmp_path, prompts=[{"prompt": "a {{animal}}, {{guidance}}", "animal": "cat", "guidance": 3}])
    assert (one["prompt"], one["guidance"]) == ("a cat, 3", 3)
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "x", "bad": "fog"}\n{"prompt": "a {{animal}}", "animal": 7.0, "bad": 1}'
    )
    two = takes(tmp_path, prompts_file="p.jsonl", negative_prompt="no {{bad}}")
    assert [(t["prompt"], t["negative_prompt"]) for t in two] == [("x", "no fog"), ("a 7", "no 1")]


def test_where_no_row_has_the_column_braces_are_literal(tmp_path):
    (one,) = takes(tmp_path, prompts=["a {{ball}}"])
    assert one["prompt"] == "a {{ball}}"


def test_a_column_that_no_prompt_names_is_refused_as_before(tmp_path):
    with pytest.raises(BadInput, match=r"unknown column 'shot'; known: .*a prompt may name it as {{shot}}, and"):
        of_csv(tmp_path, "prompt,animal,shot\na {{animal}},cat,3\n")
    assert "unknown key 'animal'" in refused(tmp_path, prompts=[{"prompt": "x", "animal": "cat"}])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (
            "a {{anmal}}",
            "{{anmal}} names a column that this prompt does not have, or that is empty here; its columns are",
        ),
        ("a {{animal.__class__}}", "{{animal.__class__}} names a column that this prompt does not have"),
        ("a {{animal + 1}}", "{{animal + 1}} names a column that this prompt does not have"),
        ("a {{prompt}}", "{{prompt}} names a prompt, and a prompt holds no other one"),
        ("a {{tags}}", "{{tags}} names a column that holds no text"),
    ],
)
def test_what_is_no_column_of_the_row_is_refused_with_its_place(prompt, said, tmp_path):
    rows = [
        {"prompt": "fine"},
        {"prompt": prompt, "animal": "cat", "tags": ["a"]},
        {"prompt": "{{animal}}", "animal": "x"},
    ]
    found = refused(tmp_path, prompts=rows)
    assert f"prompt 2: {said}" in found
    assert "prompt 1" not in found


# -- wildcards ---------------------------------------------------------------------------------------------------------


def test_the_seed_chooses_and_nothing_else(tmp_path):
    (tmp_path / "moods").mkdir()
    (tmp_path / "moods" / "light.txt").write_text("dawn\n\ndusk {not|a choice}\r\nnoon\n")
    text = "a {red|green|blue|} ball, {big|{very|rather} small}, __moods/light__, {red|green|blue|white}"
    many = takes(tmp_path, prompts=[text], seeds=60, wildcards=True)
    prompts = {t["seed"]: t["prompt"] for t in many}
    assert len(set(prompts.values())) > 25
    assert {p.split(", ")[2] for p in prompts.values()} == {"dawn", "dusk {not|a choice}", "noon"}
    assert {p.split(", ")[1] for p in prompts.values()} == {"big", "very small", "rather small"}
    assert any(p.startswith("a red") and p.endswith("green") for p in prompts.values()), "each choice is its own"
    alone = takes(tmp_path, prompts=["another", {"prompt": text, "seed": 41}], wildcards=True)
    assert alone[1]["prompt"] == prompts[41]
    assert alone[1]["id"] == next(t["id"] for t in many if t["seed"] == 41)


def test_a_choice_among_columns_and_in_the_negative_prompt(tmp_path):
    text = "prompt,a,b,negative_prompt\n{{{a}}|{{b}}},cat,dog,{fog|rain}\n"
    found = of_csv(tmp_path, text, seeds=30, wildcards=True)
    assert {t["prompt"] for t in found} == {"cat", "dog"}
    assert {t["negative_prompt"] for t in found} == {"fog", "rain"}
    assert len({(t["prompt"], t["negative_prompt"]) for t in found}) == 4


def test_without_wildcards_all_of_it_is_literal(tmp_path):
    (one,) = takes(tmp_path, prompts=["a {red|blue} __ball__"])
    assert one["prompt"] == "a {red|blue} __ball__"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("__none__", "__none__: .*none.txt cannot be read: No such file"),
        ("__../secret__", "__../secret__ lies outside the campaign's folder"),
        ("__/etc/hostname__", "__/etc/hostname__ lies outside the campaign's folder"),
        ("__link__", "__link__ lies outside the campaign's folder"),
        ("__empty__", "__empty__: .*empty.txt is empty"),
    ],
)
def test_a_file_outside_the_folder_or_without_lines_is_refused(prompt, said, tmp_path):
    folder = tmp_path / "campaign"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("canary")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(BadInput, match=f"prompt 1(, seed 0)?: {said}") as caught:
        takes(folder, prompts=[prompt], wildcards=True)
    assert "canary" not in str(caught.value)


def test_a_prompt_that_comes_out_empty_or_holds_marks_of_its_own(tmp_path):
    assert "seed 0: there is no prompt" in refused(tmp_path, prompts=["{|}"], wildcards=True)
    assert (
        Templates(named=frozenset("a")).filled("{{a}} \ue0100\ue011", {"a": "\ue0100\ue011"})
        == "\ue0100\ue011 \ue0100\ue011"
    )


# -- the matrix --------------------------------------------------------------------------------------------------------


def test_a_matrix_spans_keys_and_columns_and_leaves_what_a_prompt_sets(tmp_path):
    prompts = ["a {{animal}}", {"prompt": "a tree", "guidance": 5}]
    matrix = {"guidance": [1, 3], "width": [128, 160], "animal": ["cat", "dog"]}
    found = takes(tmp_path, prompts=prompts, matrix=matrix, guidance=9, seeds=2)
    first = [t for t in found if t["prompt"] != "a tree"]
    assert {(t["prompt"], t["guidance"], t["width"], t["seed"]) for t in first} == {
        (f"a {a}", g, w, s) for a in ("cat", "dog") for g in (1, 3) for w in (128, 160) for s in (0, 1)
    }
    assert len(first) == 16
    assert {(t["guidance"], t["width"]) for t in found if t["prompt"] == "a tree"} == {(5, 128), (5, 160)}


def test_equal_takes_of_a_matrix_are_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"prompts": ["x"], "matrix": {"guidance": [1, 1.0]}}))
    campaign = load_campaign([path], {}, [])
    assert len(campaign.takes) == 1
    assert campaign.remarks == (
        f"{path}: prompt 1, seed 0: the matrix gives the same take twice; there is one video for it",
    )


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ({"cascade": ["tiny", "plain"]}, r"matrix.cascade: a run has one plan.*\(cascade=tiny and cascade=plain\)"),
        ({"model": ["tiny"]}, "matrix.model: a run has one plan, so it has one model"),
        ({"guidence": [1]}, "matrix has the unknown key 'guidence'; did you mean 'guidance'?"),
        ({"animal": ["cat"]}, "matrix has the unknown key 'animal'"),
        ({"guidance": 3}, "matrix.guidance must be a list of values, not 3"),
        ({"guidance": []}, "matrix.guidance must be a list of values"),
        ({"guidance": ["high"]}, "matrix.guidance must be a number, not 'high'"),
        ({"guidance": [None]}, "matrix.guidance has an empty value"),
        (["guidance"], "matrix must be keys with lists"),
        ({"width": [128, 131]}, "131"),
    ],
)
def test_a_matrix_that_cannot_be_spanned_is_refused_before_work(matrix, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        takes(tmp_path, prompts=["x"], matrix=matrix)


def test_on_the_command_line(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,animal\na {{animal}},cat\n")
    words = ["render", str(tmp_path / "p.csv"), "--store", str(tmp_path / "s"), "--dry-run", "matrix.guidance=[1,3]"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "s").exists()
