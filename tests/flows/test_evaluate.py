"""Evaluation as its users meet it: prompts rendered and judged, videos judged, figures written, bad input refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from data_prep.world import render, scene_from_prompt
from flows.cli.main import main
from flows.evaluate.evaluation import load_evaluation
from flows.run.session import existing_catalog
from flows.views.tables import read_table
from stages.core.media import write_video
from stages.core.running.runs import runs_table

ATTRIBUTES = {"colour", "shape", "motion", "background"}


def rushes(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


@pytest.fixture(scope="module")
def config_file(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two held-out prompts x two seeds of 64x64x9 through the tiny cascade, untrained."""
    config = {
        "name": "small", "heldout": 2, "seeds": 2, "model": {"checkpoint": str(small_checkpoint)},
        "width": 64,
        "height": 64,
        "frames": 9,
        "base": {"sampling": {"steps": 1}},
        "refine": {"sampling": {"steps": 4}},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("evaluate") / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "store"


@pytest.fixture(scope="module")
def figures(config_file, store, tmp_path_factory) -> bytes:
    out = tmp_path_factory.mktemp("figures") / "figures.json"
    result = rushes("evaluate", config_file, "--store", store, "--out", out, "--executor", "local")
    assert result.exit_code == 0, result.output
    return out.read_bytes()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """True clips of the world, one of them under another's caption, and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for i, prompt in enumerate(["a red circle moving left on a white background", "a blue square growing"] * 2):
        frames = render(scene_from_prompt(prompt, i), 128, 128, 17, 8)
        (folder / f"{i}.mp4").write_bytes(write_video(frames, 8))
        rows.append((f"{i}.mp4", prompt))
    rows[3] = ("3.mp4", "a green square growing")
    (folder / "4.mp4").write_bytes(b"no video")
    captions = folder / "captions.csv"
    with captions.open("w", newline="") as file:
        csv.writer(file).writerows([("caption", "file"), *((c, f) for f, c in [*rows, ("4.mp4", "a red star")])])
    return folder, captions


def test_every_take_is_judged(figures, store, tmp_path):
    found = json.loads(figures)
    assert found["n"] == 4
    assert set(found["accuracy"]) == ATTRIBUTES | {"all"}
    assert all(0 <= share <= 1 for share in found["accuracy"].values())
    assert {sum(sum(row.values()) for row in found["confusions"][a].values()) for a in ATTRIBUTES} == {4}
    out = tmp_path / "rows.jsonl"
    assert rushes("table", "judgements", "--store", store, "--out", out).exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [len(r["quarters"]) for r in rows] == [4] * 4
    assert all(set(r["named"]) == ATTRIBUTES for r in rows)
    (run,) = runs_table(existing_catalog(str(store))).to_pylist()
    videos = read_table(existing_catalog(str(store)), "videos", run_id=run["run_id"]).to_pylist()
    assert [(v["prompt"], v["seed"]) for v in videos] == [(r["prompt"], r["seed"]) for r in rows]
    assert all((store / v["uri"]).is_file() for v in videos)


def test_an_unchanged_evaluation_does_nothing_and_says_the_same(figures, config_file, store, tmp_path):
    out = tmp_path / "again.json"
    result = rushes("evaluate", config_file, "--store", store, "--out", out, "--executor", "ray")
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.output
    assert out.read_bytes() == figures


def test_videos_are_judged_by_their_captions(videos, tmp_path):
    folder, captions = videos
    out = tmp_path / "figures.json"
    words = ["evaluate", "--store", tmp_path / "store", "--out", out, "--executor", "local"]
    result = rushes(*words, "--videos", folder, "--captions", captions)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert (found["n"], found["clips"], found["failed"]) == (4, 5, 1)
    assert found["accuracy"] == {"colour": 0.75, "shape": 1, "motion": 1, "background": 1, "all": 0.75}
    assert found["confusions"]["colour"]["green"] == {"blue": 1}
    assert found["quarters"]["same_object"] == 1
    assert found["sharpness"] > 0
    assert found["edges"] > 0


def test_given_prompts_keep_the_configs_seeds_and_cascade(config_file, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle moving left\n\na green star\n")
    values = {"prompts_file": str(prompts), "prompts": [], "heldout": 0}
    evaluation = load_evaluation(config_file, values, [])
    assert [(c["prompt"], c["seed"]) for c in evaluation.clips] == [
        ("a red circle moving left", 0), ("a red circle moving left", 1), ("a green star", 0), ("a green star", 1),
    ]  # fmt: skip
    assert {c["width"] for c in evaluation.clips} == {64}


def test_the_config_that_comes_along_is_the_whole_world_held_out():
    evaluation = load_evaluation("evaluate", {}, [])
    assert len(evaluation.clips) == 400
    assert len({c["prompt"] for c in evaluation.clips}) == 200


def test_a_part_of_the_held_out_prompts_has_every_colour():
    evaluation = load_evaluation("evaluate", {}, ["heldout=50", "seeds=1"])
    assert len({c["prompt"] for c in evaluation.clips}) == 50
    assert len({c["prompt"].split()[1] for c in evaluation.clips}) == 8


def test_first_and_last_frames_are_given_and_measured(config_file, tmp_path):
    from stages.core.ledger.storage import Storage
    from stages.core.measures.world.figures import report
    from stages.core.step import InputRow, Workspace
    from stages.judge import Judge

    words = ["seeds=1", "frames=17", "fps=8"]
    clips = load_evaluation(config_file, {"first_frames": True, "last_frames": True}, words).clips
    assert [[c["role"] for c in clip["conditions"]] for clip in clips] == [["first", "last"]] * 2
    assert all(Path(m["uri"]).read_bytes()[1:4] == b"PNG" for c in clips for m in c["media"])
    storage = Storage(str(tmp_path / "store"))
    judge = Judge(Judge.Config(), Workspace(storage))
    judge.setup()
    rows = []
    for i, clip in enumerate(clips):  # the clips that the first frames are from
        video = storage.put_media(write_video(render(scene_from_prompt(clip["prompt"], i), 256, 256, 17, 8), 8), ".mp4")
        kept = {m["sha256"]: storage.put_media(Path(m["uri"]).read_bytes(), ".png")["uri"] for m in clip["media"]}
        media = [{"sha256": sha256, "uri": uri} for sha256, uri in kept.items()]
        asked = {
            "prompt": clip["prompt"],
            "conditions": clip["conditions"],
            "fit": clip["fit"],
            "sha256": None,
            "path": None,
        }
        rows.append(judge.process(InputRow({**asked, "media": media, "video": video})))
    found = report(rows)
    assert found["first_frame"]["n"] == found["last_frame"]["n"] == 2
    assert min(found[name]["least"] for name in ("first_frame", "last_frame")) > 30
    assert found["accuracy"]["all"] == 1


@pytest.mark.soak
def test_soft_videos_are_told_from_sharp_ones():
    from stages.judge import median_edges, median_sharpness

    frames = render(scene_from_prompt("a red star moving left", 0), 256, 256, 9, 8)
    soft = np.stack([cv2.GaussianBlur(f, (0, 0), 2) for f in frames])
    assert 3 * median_sharpness(soft) < median_sharpness(frames)
    assert 1.5 * median_edges(soft) < median_edges(frames)
    assert median_sharpness(np.full_like(frames, 90)) == median_edges(np.full_like(frames, 90)) == 0


@pytest.mark.soak
def test_two_sets_are_compared(videos, tmp_path):
    folder = Path(shutil.copytree(videos[0], tmp_path / "videos", ignore=shutil.ignore_patterns("4.mp4")))
    captions = folder / "captions.csv"
    captions.write_text("file,caption\n" + "".join(f"{i}.mp4,a red circle\n" for i in range(4)))
    words = [
        "evaluate",
        "--store",
        tmp_path / "store",
        "--executor",
        "local",
        "--videos",
        folder,
        "--captions",
        captions,
    ]
    small = ["compare.least_videos=4", "compare.least_frames=8", "pictures.frames=2"]
    result = rushes(*words, "--out", tmp_path / "found.json", "--reference", folder, *small)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fvd"] == pytest.approx(0, abs=1e-3)
    assert found["fid"] == pytest.approx(0, abs=1e-3)
    assert found["distances"]["fid"]["judged"] == 8
    assert "arXiv" in found["distances"]["fvd"]["source"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["heldout=201"], "fewer than 201"),
        (["heldot=2"], "heldout"),
        (["--captions", "{captions}"], "give both"),
        (["--videos", "{folder}"], "--captions FILE.csv"),
        (["--videos", "{folder}", "--captions", "{missing}"], "there is no video 'nowhere.mp4'"),
        (["--prompts", "{two}"], "name one object"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["world=nowhere.yaml"], "nowhere.yaml"),
        (["--reference", "nowhere"], "there is no folder nowhere"),
        (["--reference", "{folder}"], "fewer than 256 videos in each set; there are 4 to judge and 5 in"),
        (["--reference", "{folder}", "compare.enabled=false"], "no step makes distances"),
    ],
)
def test_bad_input_is_one_sentence(config_file, videos, tmp_path, words, said):
    (tmp_path / "two.txt").write_text("a red circle moving left and a blue square\n")
    (tmp_path / "missing.csv").write_text("file,caption\nnowhere.mp4,a red star\n")
    places = {
        "folder": videos[0],
        "captions": videos[1],
        "two": tmp_path / "two.txt",
        "missing": tmp_path / "missing.csv",
    }
    given = [w.format(**places) for w in words]
    result = rushes("evaluate", config_file, "--store", tmp_path / "store", "--out", tmp_path / "x.json", *given)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "x.json").exists()
