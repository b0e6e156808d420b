"""The render flow as its users meet it: the command line, the tables, the export, and what bad input is told."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.numpy import load_file

from flows.cli.main import main
from flows.render.campaign import load_campaign
from flows.render.provenance import Identity, identify
from flows.run.session import existing_catalog
from stages.core.errors import BadInput
from stages.core.media import read_frames, read_tags
from stages.core.running.executor import LocalExecutor
from stages.core.running.runs import runs_table

STAGES = ["text", "base", "spatial", "temporal", "refine", "decode"]


def rushes(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


def table(store: Path, name: str, out: Path, *more: str) -> list[dict]:
    path = out / f"{name}.parquet"
    result = rushes("table", name, "--store", store, "--out", path, *more)
    assert result.exit_code == 0, result.output
    return pq.read_table(path).to_pylist()


@pytest.fixture(scope="module")
def rendered(campaign_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store with the small campaign in it, and where it was exported."""
    folder = tmp_path_factory.mktemp("rendered")
    result = rushes(
        "render", campaign_file, "--store", folder / "store", "--executor", "local", "--export", folder / "out"
    )
    assert result.exit_code == 0, result.output
    return folder / "store", folder / "out"


def test_every_take_passes_every_stage(rendered, tmp_path):
    store, _ = rendered
    artifacts = table(store, "artifacts", tmp_path)
    assert [a["stage"] for a in artifacts] == STAGES * 4
    assert {a["status"] for a in artifacts} == {"ok"}
    assert len({a["artifact_id"] for a in artifacts}) == 4 * 5 + 2  # a prompt's text is encoded once for both seeds
    assert all(a["setups"] == 1 for a in artifacts)
    sizes = [(a["width"], a["height"], a["n_frames"], a["fps"]) for a in artifacts[:6]]
    assert sizes == [
        (0, 0, 0, 0),
        (64, 64, 9, 8),
        (128, 128, 9, 8),
        (128, 128, 17, 16),
        (128, 128, 17, 16),
        (128, 128, 17, 16),
    ]
    assert {t["status"] for t in table(store, "takes", tmp_path)} == {"ok"}


def test_videos_hold_what_their_rows_say(rendered, tmp_path):
    store, _ = rendered
    videos = table(store, "videos", tmp_path)
    assert len({v["sha256"] for v in videos}) == 4
    for video in videos:
        frames = read_frames(store / video["uri"])
        assert frames.shape == (video["n_frames"], video["height"], video["width"], 3)
        assert frames.std() > 1


def test_a_second_run_does_nothing_and_exports_the_same(rendered, campaign_file, tmp_path):
    store, out = rendered
    before = {p.relative_to(store) for p in store.rglob("*") if "runs" not in p.parts}
    result = rushes("render", campaign_file, "--store", store, "--export", tmp_path / "again", "--executor", "ray")
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.output
    assert {p.relative_to(store) for p in store.rglob("*") if "runs" not in p.parts} == before
    first = {p.name: p.read_bytes() for p in out.glob("*.mp4")}
    assert len(first) == 4
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").glob("*.mp4")} == first


def test_an_exported_video_says_its_colours_in_full(rendered):
    """Browsers decode as BT.601 where primaries and transfer are unknown."""
    for path in rendered[1].glob("*.mp4"):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
        place = (data := path.read_bytes()).find(b"colrnclx")  # matrix, primaries, transfer: ISO/IEC 14496-12
        assert data[place + 8 : place + 14] == b"\0\1\0\1\0\1"


def test_a_picture_of_any_depth_is_seen_alike(campaign_file, tmp_path):
    """16 bits of grey and floating point from 0 to 1 are the picture that their twin of 8 bits is."""
    grey = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) * 2
    Image.fromarray(grey).save(tmp_path / "bits8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "bits16.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "floats.tiff")
    prompts = [
        {"prompt": f"a {name}", "image": str(tmp_path / name)} for name in ("bits8.png", "bits16.png", "floats.tiff")
    ]
    campaign = {**yaml.safe_load(campaign_file.read_text()), "prompts": prompts, "seeds": 1}
    (tmp_path / "depths.yaml").write_text(yaml.safe_dump(campaign))
    store = tmp_path / "store"
    done = rushes("render", tmp_path / "depths.yaml", "--store", store, "--executor", "local", "--until", "see")
    assert done.exit_code == 0, done.output
    seen = [load_file(store / row["uri"]) for row in table(store, "artifacts", tmp_path) if row["stage"] == "see"]
    assert len(seen) == 3
    for other in seen[1:]:
        assert {k: v.tolist() for k, v in other.items()} == {k: v.tolist() for k, v in seen[0].items()}


def test_a_run_that_ends_before_the_videos_shows_none(rendered, campaign_file, tmp_path):
    """A latent is no video: not in the ending, the table, the export or the page."""
    store = tmp_path / "store"
    shutil.copytree(rendered[0], store)
    words = ("render", campaign_file, "--store", store, "--until", "base", "--executor", "local")
    result = rushes(*words, "--export", tmp_path / "out")
    assert "4 of 4 takes finished base" in result.output
    assert f"no video exported to {tmp_path / 'out'}" in result.output
    assert table(store, "videos", tmp_path) == []
    assert rushes("page", "--store", store).exit_code == 0
    page = (store / "page.html").read_text()
    assert "0 of 4 takes have a video" in page
    assert "<video" not in page


def test_a_changed_stage_redoes_it_and_what_follows(rendered, campaign_file, tmp_path):
    store, _ = rendered
    changed = rushes("render", campaign_file, "--store", store, "--dry-run", "refine.strength=0.5")
    assert changed.exit_code == 0, changed.output
    rows = {
        line.split()[0]: line.split()[1:]
        for line in changed.output.partition("\nestimate")[0].splitlines()
        if line.split()[:1] and line.split()[0] in STAGES
    }
    assert rows["temporal"] == ["4", "0", "0", "0"]
    assert rows["refine"] == ["0", "4", "0", "0"]
    assert rows["decode"] == ["0", "0", "4", "0"]


def test_lineage_leads_back_to_the_prompt(rendered, tmp_path):
    store, _ = rendered
    video = table(store, "videos", tmp_path)[3]
    result = rushes("status", video["video_id"], "--store", store)
    assert result.exit_code == 0, result.output
    assert video["prompt"] in result.output
    assert all(stage in result.output for stage in STAGES)


def test_csv_keeps_nested_columns_as_json(rendered, tmp_path):
    store, _ = rendered
    path = tmp_path / "takes.csv"
    assert rushes("table", "takes", "--store", store, "--out", path).exit_code == 0
    rows = pyarrow.csv.read_csv(path).to_pylist()
    assert [json.loads(r["reasons"]) for r in rows] == [[]] * 4


def test_verify_finds_a_damaged_file(campaign_file, tmp_path):
    store = tmp_path / "store"
    assert rushes("render", campaign_file, "--store", store, "--executor", "local", "--limit", "1").exit_code == 0
    assert rushes("catalog", "verify", "--store", store).exit_code == 0
    damaged = next(store.rglob("*.mp4"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    result = rushes("catalog", "verify", "--store", store)
    assert result.exit_code == 1
    assert damaged.name in result.output


def test_one_bad_row_stops_nothing(rendered, campaign_file, tmp_path):
    """A latent that vanished is an error row of one take; the others finish."""
    store = tmp_path / "store"
    assert rushes("render", campaign_file, "--store", store, "--executor", "local", "--limit", "2").exit_code == 0
    base = next(a for a in table(store, "artifacts", tmp_path) if a["stage"] == "base")
    (store / base["uri"]).unlink()
    result = rushes("render", campaign_file, "--store", store, "--executor", "local", "spatial.adain=0.5")
    assert result.exit_code == 0, result.output
    assert "1 row of spatial failed" in result.output
    takes = table(store, "takes", tmp_path)
    assert sorted(t["status"] for t in takes) == ["error", "ok", "ok", "ok"]
    assert "spatial" in next(t["error"] for t in takes if t["status"] == "error")


BAD = {
    "unknown key": ({"promts": ["x"]}, "did you mean 'prompts'"),
    "wrong type": ({"shard_rows": "many"}, "shard_rows"),
    "empty prompt": ({"prompts": ["ok", "  "]}, "prompt 2: there is no prompt"),
    "text with a colon": (
        {"prompts": [{"a red circle": "growing"}]},
        "prompt 1: put quotes around a prompt that holds",
    ),
    "no prompts": ({"prompts": []}, "no prompts"),
    "bad seeds": ({"seeds": -1}, "seeds"),
    "unknown setting": ({"base": {"samplin": {}}}, "did you mean 'sampling'"),
    "wrong setting": ({"width": "wide"}, "width"),
    "a setting that is not there": ({"name": "x${HOME}"}, "there is no setting 'HOME'; ${...} stands for the value of"),
    "guidance of a stage": ({"base": {"sampling": {"guidance": 3}}}, "set `guidance`"),
    "impossible size": ({"width": 100}, "bad.yaml: ltx cannot make 100x64"),
    "impossible size of one prompt": (
        {"prompts": ["a", {"prompt": "b", "width": 100}]},
        "bad.yaml: prompt 2: ltx cannot make 100x64",
    ),
    "impossible frames": ({"frames": 10}, "nearest is 9"),
    "no frames": ({"frames": 0}, "frames must be"),
    "half a frame": ({"prompts": [{"prompt": "b", "frames": 9.5}]}, "must be a whole number"),
    "unknown cascade": ({"cascade": "tyni"}, "did you mean 'tiny'"),
    "no checkpoint": ({"model": {"checkpoint": "/nowhere/at/all"}}, "/nowhere/at/all"),
    "foreign code": ({"steps": {"base": {"use": "os:system"}}}, "inside"),
    "no number of frames a second": ({"fps": math.nan}, "fps must be a number, not nan"),
    "endless frames a second": ({"fps": math.inf}, "fps must be a number, not inf"),
    "too many frames a second": ({"fps": 1e9}, "fps must be over 0 and at most 1000"),
    "no guidance": ({"guidance": math.nan}, "guidance must be a number, not nan"),
    "endless guidance of one prompt": (
        {"prompts": [{"prompt": "b", "guidance": math.inf}]},
        "guidance must be a number",
    ),
    "unknown preset": ({"decode": {"preset": "fsat"}}, "decode.preset is 'fsat'; give one of"),
    "negative seed": ({"prompts": [{"prompt": "b", "seed": -5}]}, "seed must be a whole number from 0 to 2**63 - 1"),
    "seed beyond 63 bits": ({"seeds": [2**63]}, "seeds must be a whole number from 0 to 2**63 - 1"),
    "a zero byte": ({"prompts": ["a\0b"]}, "control character U+0000"),
    "a prompt beyond all measure": ({"prompts": ["x" * (2**17 + 1)]}, "131073 bytes"),
    "tags that are a number": ({"prompts": [{"prompt": "b", "tags": 5}]}, "tags must be a text or a list of texts"),
    "unknown prompt key": ({"prompts": [{"promt": "x"}]}, "did you mean 'prompt'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_campaigns_are_refused_in_one_sentence(case, campaign_file, tmp_path):
    change, says = BAD[case]
    campaign = yaml.safe_load(campaign_file.read_text())
    for key, value in change.items():
        campaign[key] = {**campaign[key], **value} if isinstance(value, dict) and key in campaign else value
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(campaign))
    result = rushes("render", path, "--store", tmp_path / "store", "--executor", "local")
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.mp4"))


def test_every_bad_prompt_is_named_whatever_is_wrong_with_it(campaign_file, tmp_path):
    """A wrong number, a picture that is not there and a size that cannot be made, in one go and in their order."""
    prompts = [{"prompt": "b", "width": 100}, "fine", {"prompt": "c", "image": "none.png"}, {"prompt": "d", "seed": -1}]
    prompts += [{"prompt": f"e {i}", "height": 100, "frames": 9, "seeds": 3} for i in range(20)]
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(campaign_file.read_text()), "prompts": prompts}))
    with pytest.raises(BadInput) as caught:
        load_campaign([path], {}, [])
    lines = str(caught.value).splitlines()
    assert lines[0] == "23 of 24 prompts cannot be used:"
    assert [line.split(": ")[1] for line in lines[1:21]] == [f"prompt {n}" for n in (1, *range(3, 22))]
    assert "100x64" in lines[1]
    assert "none.png" in lines[2]
    assert "seed must be" in lines[3]
    assert lines[21] == "and 3 more"


def test_takes_that_are_there_twice_are_told(campaign_file, tmp_path):
    path, listed = tmp_path / "twice.yaml", tmp_path / "more.csv"
    listed.write_text("prompt,seed,tags\na,4,\nb,5,\nb,5,hero\n")
    campaign = {**yaml.safe_load(campaign_file.read_text()), "prompts": ["a", "x"], "seeds": [4, 4]}
    path.write_text(yaml.safe_dump({**campaign, "prompts_file": "more.csv"}))
    loaded = load_campaign([path], {}, [])
    assert [(t["prompt"], t["seed"]) for t in loaded.takes] == [("a", 4), ("x", 4), ("b", 5)]
    assert loaded.remarks == (
        f"{path}: prompt 1: seed 4 is given twice; there is one video for it",
        f"{path}: prompt 2: seed 4 is given twice; there is one video for it",
        f"{listed}, line 2, seed 4: the same take as {path}: prompt 1; there is one video for both",
        f"{listed}, line 4, seed 5: the same take as {listed}, line 3; there is one video for both; the tags of the "
        "first count",
    )
    shown = rushes("render", path, "--store", tmp_path / "store", "--dry-run").output
    assert all(line in shown for line in loaded.remarks)
    path.write_text(yaml.safe_dump({**campaign, "prompts": ["a"] * 8, "seeds": 1}))
    assert load_campaign([path], {}, []).remarks[-1] == "and 2 more takes that are there already"


@pytest.mark.parametrize(
    ("text", "says"),
    [("name: x\nseeds: a: b\n", "line 2"), ("- a\n- b\n", "keys and values"), ("\xff".encode("latin-1"), "UTF-8")],
)
def test_unreadable_campaigns(text, says, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = rushes("render", path, "--store", tmp_path / "store")
    assert result.exit_code == 2
    assert says in result.output


def test_a_broken_line_of_a_prompt_file_is_named(campaign_file, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "fine"}\n\n{"prompt": \n')
    result = rushes("render", campaign_file, "--store", tmp_path / "s", f"prompts_file={prompts}")
    assert result.exit_code == 2
    assert "line 3" in result.output


def test_a_missing_campaign_and_an_incomplete_or_pickled_checkpoint(campaign_file, small_checkpoint, tmp_path):
    assert rushes("render", tmp_path / "none.yaml", "--store", tmp_path / "s").exit_code == 2
    broken = tmp_path / "broken"
    shutil.copytree(small_checkpoint, broken)
    weights = next((broken / "transformer").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    result = rushes(
        "render", campaign_file, "--store", tmp_path / "s", f"model.checkpoint={broken}", "--executor", "local"
    )
    assert result.exit_code == 2, result.output
    assert "pickled" in result.output
    shutil.rmtree(broken / "transformer")
    result = rushes(
        "render", campaign_file, "--store", tmp_path / "s", f"model.checkpoint={broken}", "--executor", "local"
    )
    assert result.exit_code == 2, result.output
    assert "incomplete" in result.output


def test_a_file_of_somebody_else_under_a_takes_name_is_refused_before_work(rendered, campaign_file, tmp_path):
    _, out = rendered
    name = next(out.glob("*.mp4")).name
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"x")
    result = rushes("render", campaign_file, "--store", tmp_path / "s", "--export", tmp_path / "out")
    assert result.exit_code == 2
    assert name in result.output
    assert (tmp_path / "out" / name).read_bytes() == b"x"
    assert not list((tmp_path / "s").rglob("*.mp4"))


def test_exports_of_two_campaigns_and_of_a_stopped_run_stand_side_by_side(rendered, campaign_file, tmp_path):
    store, out = shutil.copytree(rendered[0], tmp_path / "store"), tmp_path / "out"
    out.mkdir()
    (out / "holiday.mp4").write_bytes(b"x")
    words = ["render", campaign_file, "--store", store, "--executor", "local", "--export", out]
    assert rushes(*words).exit_code == 0
    everything = {p.name for p in out.iterdir()}
    assert len(everything) == 4 + 1 + 3 + 1  # videos, the index, the manifests, the holiday
    said = "1 video exported to {}; {} other videos of earlier exports stay there"
    for more, left in ((["--limit", "1"], 3), (["--limit", "1", "name=another"], 4)):
        result = rushes(*words, *more)
        assert result.exit_code == 0
        assert said.format(out, left) in result.output
        assert everything <= {p.name for p in out.iterdir()}
    shown = rushes("table", "videos", "--store", store).output
    runs = sum(r["flow"] == "render" for r in runs_table(existing_catalog(str(store))).to_pylist())
    assert f"rows of the latest of {runs} render runs; --all shows the rows of every run" in shown
    assert "--all" not in rushes("table", "videos", "--store", store, "--all").output
    assert len(list(out.glob("*.mp4"))) == 4 + 1 + 1


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/out"])
def test_a_place_that_takes_no_export_is_refused_before_work(place, campaign_file, tmp_path):
    (tmp_path / "file").write_text("x")
    result = rushes("render", campaign_file, "--store", tmp_path / "s", "--export", tmp_path / place)
    assert result.exit_code == 2, result.output
    assert "--export" in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not list((tmp_path / "s").rglob("*.mp4"))


def test_a_delivered_video_says_what_it_shows(rendered, small_checkpoint, tmp_path):
    store, out = rendered
    video = table(store, "videos", tmp_path)[0]
    path = next(p for p in out.glob("*.mp4") if video["take_id"].startswith(p.stem[-8:]))
    assert identify(path) == Identity(video["take_id"], video["video_id"], video["sha256"], "metadata")
    said = json.loads(read_tags(path)["comment"])
    assert (said["prompt"], said["seed"]) == (video["prompt"], video["seed"])
    assert said["settings"]["base"]["sampling"]["steps"] == 2
    assert said["settings"]["text"]["max_tokens"] == 64
    assert set(said["models"]) == {*STAGES, "see", "extend"}
    assert len(said["models"]["base"]["model.checkpoint"]) == 32
    for place in (store, out, small_checkpoint):
        assert str(place).encode() not in path.read_bytes()
    assert (read_frames(path) == read_frames(store / video["uri"])).all()


@pytest.mark.parametrize("kind", ["delivered", "artifact", "text"])
def test_status_of_the_hash_of_a_file_says_what_status_of_the_file_says(kind, rendered, tmp_path):
    """Of the delivered file and of what the store keeps, whole or shortened; `text` is a file that is no video."""
    store, out = rendered
    video = table(store, "videos", tmp_path)[1]
    file = next(p for p in out.glob("*.mp4") if video["take_id"].startswith(p.stem[-8:]))
    if kind != "delivered":
        shutil.copy(store / video["uri"], file := tmp_path / "copy.mp4")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if kind == "text":
        rows = [r for r in table(store, "artifacts", tmp_path) if r["stage"] == "text"]
        said = rushes("status", rows[0]["sha256"][:12], "--store", store)
        assert said.exit_code == 0, said.output
        assert any(f"text {r['artifact_id']}" in said.output for r in rows)
        return
    right = rushes("status", file, "--store", store)
    for given in (digest, digest[:12]):
        said = rushes("status", given, "--store", store)
        assert (said.exit_code, said.output) == (0, right.output)
    assert rushes("status", "f" * 64, "--store", store).exit_code == 2


@pytest.mark.parametrize("kind", ["delivered", "artifact", "encoded again", "gone", "stranger"])
def test_status_of_a_file_leads_back_to_the_prompt(kind, rendered, tmp_path):
    store, out = rendered
    video = table(store, "videos", tmp_path)[1]
    delivered = next(p for p in out.glob("*.mp4") if video["take_id"].startswith(p.stem[-8:]))
    copy = tmp_path / (f"{delivered.stem} copy.webm" if kind == "encoded again" else "holiday.mp4")
    if kind in ("delivered", "artifact"):
        shutil.copy(delivered if kind == "delivered" else store / video["uri"], copy)
    elif kind != "gone":
        copy.write_bytes(b"whatever")
    result = rushes("status", copy, "--store", store)
    if kind in ("gone", "stranger"):
        assert result.exit_code == 2
        assert len(result.output.strip().splitlines()) == 1
        assert copy.name in result.output
    else:
        assert result.exit_code == 0, result.output
        assert video["prompt"] in result.output
        assert video["take_id"] in result.output
        assert all(stage in result.output for stage in STAGES)


def test_a_budget_stops_the_run_and_the_next_run_goes_on(campaign_file, tmp_path, monkeypatch):
    """That it was stopped is written down before the executor ends: what ends Ray may abort the whole process."""
    store, found = tmp_path / "store", []
    end = LocalExecutor.close

    def close(self: LocalExecutor) -> None:
        found.append(runs_table(existing_catalog(str(store)))["status"][-1].as_py())
        end(self)

    monkeypatch.setattr(LocalExecutor, "close", close)
    stopped = rushes("render", campaign_file, "--store", store, "--executor", "local", "budget.wall_seconds=0.001")
    assert stopped.exit_code == 3, stopped.output
    assert "budget" in stopped.output
    assert found == ["stopped"]
    went_on = rushes("render", campaign_file, "--store", store, "--executor", "local")
    assert went_on.exit_code == 0, went_on.output
    assert {t["status"] for t in table(store, "takes", tmp_path)} == {"ok"}


@pytest.mark.parametrize(
    "words", [("--help",), ("table", "videos", "--store"), ("status", "--store"), ("render", "CAMPAIGN", "--store")]
)
def test_reading_and_finding_all_done_import_nothing_heavy(words, rendered, campaign_file):
    store, _ = rendered
    words = [str(campaign_file) if w == "CAMPAIGN" else w for w in words]
    arguments = [*words, str(store)] if words[-1] == "--store" else words
    code = (
        "import sys\nfrom flows.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "heavy = sorted({'torch', 'ray', 'prefect', 'diffusers', 'transformers'} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


TEXTS = [
    "a ${oc.env:HOME} star", "???", "${model.dtype}", "${nope}", "unclosed ${ brace", "\\${escaped} \\\\${twice}",
    "$5?", "\ue0001 \ue000",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_a_prompt_is_what_was_written(text, tmp_path):
    path = tmp_path / "campaign.yaml"
    values = {"name": "c", "prompts": [text, {"prompt": f"{text} two", "tags": [text]}], "negative_prompt": text}
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    first, second = load_campaign([path], {}, []).takes
    assert (first["prompt"], first["negative_prompt"]) == (text, text)
    assert (second["prompt"], second["tags"]) == (f"{text} two", [text])
    (take,) = load_campaign([], {"prompts": [text]}, []).takes
    assert take["prompt"] == text
    (take,) = load_campaign([], {"prompts": ["x"]}, [f"negative_prompt={json.dumps(text, ensure_ascii=False)}"]).takes
    assert take["negative_prompt"] == text


def test_files_that_a_campaign_names_lie_beside_it(campaign_file, tmp_path):
    campaign = yaml.safe_load(campaign_file.read_text())
    (tmp_path / "more.csv").write_text("prompt,seed,frames\na red star,7,9\n")
    path = tmp_path / "campaign.yaml"
    path.write_text(yaml.safe_dump({**campaign, "prompts": [], "prompts_file": "more.csv"}))
    (take,) = load_campaign([path], {}, []).takes
    assert (take["prompt"], take["seed"], take["frames"], take["width"]) == ("a red star", 7, 9, 64)
