"""Campaigns of every family by the plain cascade, from the command line to the video; what is said before any work."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flows.cli.main import main
from flows.cli.tiny import make_tiny
from flows.render.campaign import load_campaign
from flows.run.session import existing_catalog
from flows.views.tables import read_table
from stages.core.errors import BadInput
from stages.core.latents.artifacts import get_latent, get_tracks
from stages.core.media import read_frames, write_video
from stages.core.step import Workspace
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import families, load_family


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tiny checkpoints, pictures and videos."""
    root = tmp_path_factory.mktemp("campaigns")
    make_tiny("svd", str(root / "svd"))
    make_tiny("wan", str(root / "wan"))
    make_tiny("wan", str(root / "vace"), "vace")
    make_tiny("skyreels", str(root / "sky"))
    make_tiny("animatediff", str(root / "net"), "controlnet")
    make_tiny("animatediff", str(root / "drawn"))
    make_tiny("ltx2", str(root / "ltx2"), "2.3")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (40, 64, 3), np.uint8)).save(root / f"{name}.png")
        frames = rng.integers(0, 256, (1, 32, 48, 3), np.uint8).repeat(12, 0)
        (root / f"{name}.mp4").write_bytes(write_video(frames, 8.0, crf=1))
    return root


def campaign(place: Path, model: dict, prompts: list, **more: object) -> Path:
    """A campaign file beside the checkpoints and pictures, with paths that count from there."""
    path = place / f"campaign-{len(list(place.glob('*.yaml')))}.yaml"
    steps = {"base": {"sampling": {"steps": 2}}, **more.pop("steps", {})}
    path.write_text(json.dumps({"cascade": "plain", "model": model, "prompts": prompts, "steps": steps, **more}))
    return path


SMALL = {"width": 32, "height": 32, "frames": 5, "fps": 8}
LARGER = {"width": 64, "height": 64, "frames": 9}
CAMPAIGNS = {
    "svd": ({"family": "svd", "checkpoint": "svd"}, [
        {"prompt": "a", "image": "a.png"}, {"prompt": "b", "image": "b.png", "width": 48, "frames": 3},
        {"prompt": "c", "image": "a.png", "video": "b.mp4", "level": 0.9},
    ], {}),
    "wan": ({"family": "wan", "checkpoint": "wan"}, [
        "a red cube", {"prompt": "a blue ball", "frames": 9, "height": 48},
        {"prompt": "snow", "video": "a.mp4", "level": 0.95, "seed": 4},
    ], {"text": {"max_tokens": 16}}),
    "vace": ({"family": "wan", "checkpoint": "vace"}, [
        {"prompt": "a red cube", "control": "depth:a.mp4"},
        {"prompt": "a red cube", "video": "a.mp4", "mask": "b.mp4", "references": ["b.png"]},
        {"prompt": "a red cube", "image": "a.png", "last_image": "b.png"},
        {"prompt": "a red cube", "keyframes": {2: "b.png"}},
    ], {"text": {"max_tokens": 16}}),
    "skyreels": ({"family": "skyreels", "checkpoint": "sky"}, [
        {"prompt": "a red cube", "frames": 13}, {"prompt": "a red cube", "image": "a.png"},
        {"prompt": "a red cube", "video": "a.mp4", "level": 0.95},
    ], {"text": {"max_tokens": 16}, "base": {"sampling": {"steps": 2, "knobs": {"window": 9, "overlap": 5}}}}),
    "animatediff": ({"family": "animatediff", "checkpoint": "net", "parts": {"controlnet": "net/controlnet"}}, [
        {"prompt": "a red cube", "control": {"signal": "edges", "video": "a.mp4", "scale": 0.5, "end": 0.8}},
        {"prompt": "a red cube", "control": "edges:a.mp4", "video": "b.mp4", "level": 0.9},
    ], {}),
    "ltx2": ({"family": "ltx2", "checkpoint": "ltx2"}, [
        {"prompt": "a red cube", **LARGER}, {"prompt": "a red cube", **LARGER, "image": "a.png"},
        {"prompt": "a red cube", **LARGER, "frames": 17, "image": "a.png", "last_image": "b.png",
         "keyframes": {1: "b.png"}},
    ], {"text": {"max_tokens": 128}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_campaign_of_a_family_goes_from_the_command_line_to_its_videos(place, name):
    model, prompts, steps = CAMPAIGNS[name]
    path, store = campaign(place, model, prompts, steps=steps, **SMALL), str(place / f"store-{name}")
    words = ["render", str(path), "--store", store, "--executor", "local"]
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 0, ran.output
    catalog = existing_catalog(store)
    takes = read_table(catalog, "takes").to_pylist()
    assert [t["status"] for t in takes] == ["ok"] * len(prompts), takes
    shown = []
    for row in (r for r in read_table(catalog, "artifacts").to_pylist() if r["stage"] == "decode"):
        shown.append(read_frames(catalog.storage.read(row["uri"])))
        assert shown[-1].shape == (row["n_frames"], row["height"], row["width"], 3)
    assert len(shown) == len(prompts)
    made = {r["sha256"] for r in read_table(catalog, "artifacts").to_pylist() if r["stage"] == "base"}
    assert len(made) == len(prompts), "no two takes are the same"
    planned = CliRunner().invoke(main, [*words, "--dry-run"])
    assert planned.exit_code == 0
    counts = re.findall(r"^(?:text|see|base|decode) +(\d+) +(\d+)", planned.output, re.MULTILINE)
    assert len(counts) >= 3
    assert all(int(done) > 0 and int(left) == 0 for done, left in counts), planned.output


def test_a_clip_with_sound_keeps_it_from_the_latent_to_the_exported_file(place):
    """Drafted, enlarged and refined: what is heard in the file is as long as what is seen, and begins with it."""
    import av

    model, prompts, steps = CAMPAIGNS["ltx2"]
    path = campaign(place, model, prompts[:1], steps=steps, **SMALL, cascade="draft-and-finish")
    store, videos = str(place / "store-sound"), place / "videos-sound"
    words = ["render", str(path), "--store", store, "--executor", "local", "--export", str(videos)]
    ran = CliRunner().invoke(main, [*words, "refine.sampling.steps=2", "refine.strength=0.95"])
    assert ran.exit_code == 0, ran.output
    catalog = existing_catalog(store)
    rows = {r["stage"]: r for r in read_table(catalog, "artifacts").to_pylist()}
    kept = {s: get_tracks(Workspace(catalog.storage), rows[s])[0]["audio"] for s in ("base", "enlarge", "refine")}
    np.testing.assert_array_equal(kept["base"], kept["enlarge"])
    assert kept["refine"].shape == kept["base"].shape
    assert np.abs(kept["refine"] - kept["base"]).max() > 1e-2
    wanted = load_family("ltx2").sound(ModelConfig(family="ltx2", checkpoint=str(place / "ltx2"), device="cpu"))
    samples = wanted.decode(kept["refine"], 9 / 8).samples
    with av.open(str(next(videos.glob("*.mp4")))) as file:
        seen, heard = file.streams.video[0], file.streams.audio[0]
        assert (heard.codec_context.name, heard.rate, heard.channels) == ("aac", 48000, 2)
        assert float(seen.duration * seen.time_base) == float(heard.duration * heard.time_base) == 9 / 8
        assert seen.start_time == heard.start_time == 0
        found = np.concatenate([f.to_ndarray() for f in file.decode(heard)], axis=1)[:, : samples.shape[1]]
    loud, wanted = (10 * np.log10(np.mean(s.astype(float) ** 2)) for s in (found, samples))
    assert found.shape == samples.shape == (2, 54000)
    assert abs(loud - wanted) < 1, "as loud as what the vocoder made"


@pytest.mark.parametrize(("name", "after"), [("svd", True), ("wan", False)])
def test_a_refine_pass_goes_with_every_family_and_is_given_conditions_where_it_needs_them(place, name, after):
    model, prompts, steps = CAMPAIGNS[name]
    refine = {"use": "stages.refine:Refine", "model": "${model}", "before": "decode", "strength": 0.95}
    refine["sampling"] = {"steps": 4, "guidance": 2.0}
    path = campaign(place, model, prompts[:1], steps={**steps, "refine": refine}, **SMALL)
    store = str(place / f"refined-{name}")
    ran = CliRunner().invoke(main, ["render", str(path), "--store", store, "--executor", "local"])
    assert ran.exit_code == 0, ran.output
    rows = {r["stage"]: r for r in read_table(existing_catalog(store), "artifacts").to_pylist()}
    assert rows["refine"]["sha256"] != rows["base"]["sha256"]
    plan = load_campaign([path], {}, []).plan(existing_catalog(store))
    assert any(b.port == "condition" for b in plan.node("refine").ports) == after
    with pytest.raises(BadInput, match=r"strength is 1\.5; it must be above 0 and below 1"):
        load_campaign([path], {}, ["refine.strength=1.5"])


@pytest.mark.parametrize("name", ["wan", "drawn"])
def test_a_draft_is_enlarged_in_pixels_and_finished_in_the_full_size(place, name):
    """The enlarged latent is what the library's own VAE makes of the resized frames of the draft."""
    import cv2
    import torch

    model = {"family": "animatediff" if name == "drawn" else name, "checkpoint": name}
    steps = {"text": {"max_tokens": 16 if name == "wan" else 0}, "refine": {"sampling": {"steps": 8}}}
    prompts = ["a red cube", {"prompt": "a blue ball", "height": 48}]
    path = campaign(place, model, prompts, steps=steps, **SMALL, cascade="draft-and-finish")
    store = str(place / f"finished-{name}")
    words = ["render", str(path), "--store", store, "--executor", "local"]
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 0, ran.output
    workspace = Workspace(existing_catalog(store).storage)
    rows = read_table(existing_catalog(store), "artifacts").to_pylist()
    sizes = {s: sorted((r["width"], r["height"], r["n_frames"]) for r in rows if r["stage"] == s) for s in STAGES}
    small, large = [(32, 32, 5), (32, 48, 5)], [(64, 64, 5), (64, 96, 5)]
    assert sizes == {"base": small, "enlarge": large, "refine": large, "decode": large}
    assert len({r["sha256"] for r in rows if r["stage"] in STAGES}) == 8
    takes = {(r["width"], r["stage"]): r for r in rows if r["height"] in (32, 64) and r["stage"] in STAGES}
    draft, _ = get_latent(workspace, takes[32, "base"])
    made, spec = get_latent(workspace, takes[64, "enlarge"])
    codec = load_family(model["family"]).codec(ModelConfig(**{**model, "checkpoint": str(place / name)}, device="cpu"))
    frames = codec.decode(draft, spec.decode)
    big = np.stack([cv2.resize(f, (64, 64), interpolation=cv2.INTER_LANCZOS4) for f in frames])
    pixels = torch.from_numpy(big).permute(3, 0, 1, 2).float()[None] / 127.5 - 1
    with torch.no_grad():
        if name == "wan":
            wanted = codec.network.encode(pixels).latent_dist.mode()[0]
        else:
            wanted = codec.network.encode(pixels[0].transpose(0, 1)).latent_dist.mode().transpose(0, 1)
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-5)


def test_a_signal_made_of_footage_is_followed_as_one_that_is_given(place):
    """The same take with the video that was made, given as a file: what `see` makes of it is the same to the last bit,
    and so is the clip. A take without footage has no row of `signal`."""
    model = {"family": "animatediff", "checkpoint": "drawn", "parts": {"controlnet": "net/controlnet"}}
    made = {"prompt": "a", "control": {"signal": "flow", "footage": "moves.mp4", "scale": 0.5}}
    rng = np.random.default_rng(3)
    still = rng.integers(0, 256, (40, 80, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    moving = np.stack([still[10:74, 4 * k : 4 * k + 96] for k in range(8)])
    (place / "moves.mp4").write_bytes(write_video(moving, 8.0, crf=1))
    store = str(place / "followed")

    def ran(prompts: list) -> list[dict]:
        path = campaign(place, model, prompts, steps={"text": {"max_tokens": 0}}, **SMALL)
        done = CliRunner().invoke(main, ["render", str(path), "--store", store, "--executor", "local"])
        assert done.exit_code == 0, done.output
        return read_table(existing_catalog(store), "artifacts").to_pylist()

    rows = {r["stage"]: r for r in ran([made])}
    workspace = Workspace(existing_catalog(store).storage)
    shown = read_frames(workspace.read(rows["signal"]["uri"]))
    assert shown.shape == (5, 32, 32, 3)
    assert shown.std() > 20
    (place / "flow.mkv").write_bytes(workspace.read(rows["signal"]["uri"]))
    given = {"prompt": "a", "control": {"signal": "flow", "video": "flow.mkv", "scale": 0.5}}
    both = ran([made, given])
    assert sorted(r["stage"] for r in both).count("signal") == 1
    for stage in ("see", "base", "decode"):
        assert len({r["sha256"] for r in both if r["stage"] == stage}) == 1, stage
        assert sum(r["stage"] == stage for r in both) == 2, stage
    path = campaign(place, model, [made], **SMALL)
    with pytest.raises(BadInput, match=r"follow edges or motion of footage .*; configs/cascades/plain\.yaml has one"):
        load_campaign([path], {}, ["signal.enabled=false"])


def test_a_video_is_refined_without_a_base_take(place):
    """The more strength, the further from the video; a take without a video is refused before any work."""
    model, steps = {"family": "wan", "checkpoint": "wan"}, {"text": {"max_tokens": 16}}
    prompts = [{"prompt": "a", "video": "a.mp4"}, {"prompt": "b", "video": "a.mp4"}]
    steps["refine"] = {"sampling": {"steps": 8}}
    path = place / "refined.yaml"
    path.write_text(
        json.dumps({"cascade": "refine-video", "model": model, "prompts": prompts, "steps": steps, **SMALL})
    )
    store = str(place / "polished")
    ran = CliRunner().invoke(main, ["render", str(path), "--store", store, "--executor", "local"])
    assert ran.exit_code == 0, ran.output
    rows = read_table(existing_catalog(store), "artifacts").to_pylist()
    assert {s: len({r["sha256"] for r in rows if r["stage"] == s}) for s in ("encode", "refine", "decode")} == {
        "encode": 1, "refine": 2, "decode": 2
    }  # fmt: skip
    for prompt, said in (
        ("c", "give `video`"),
        ({"prompt": "c", "video": "a.mp4", "level": 0.5}, "set `refine.strength`"),
    ):
        path.write_text(json.dumps({"cascade": "refine-video", "model": model, "prompts": [prompt], **SMALL}))
        with pytest.raises(BadInput, match=said):
            load_campaign([path], {}, [])


STAGES = ("base", "enlarge", "refine", "decode")


@pytest.mark.parametrize(
    ("model", "prompt", "words", "said"),
    [
        (
            "wan",
            "a",
            ["enlarge.scale=1.25"],
            r"enlarge\.scale 1\.25: wan cannot make 40x40",
        ),
        ("wan", "a", ["enlarge.scale=1"], r"scale is 1\.0; it must be above 1"),
        ("wan", "a", ["enlarge.scale=1.001"], r"enlarge\.scale 1\.001: 32x32 stays as it is: raise it"),
        ("wan", "a", ["enlarge.scale=.inf"], "it must be above 1, at most 8"),
        ("svd", {"prompt": "a", "image": "a.png"}, [], "enlarge: svd refines a clip after its pictures"),
        ("wan", "a", ["enlarge.chunk=2"], r"enlarge\.chunk: the VAE of wan has none"),
    ],
)
def test_what_cannot_be_enlarged_is_said_before_any_work(place, model, prompt, words, said):
    path = campaign(place, {"family": model, "checkpoint": model}, [prompt], **SMALL, cascade="draft-and-finish")
    with pytest.raises(BadInput, match=said):
        load_campaign([path], {}, words)


REFUSED = [
    ("svd", {"prompt": "a"}, r"svd needs a picture: give `image`"),
    ("svd", {"prompt": "a", "image": "a.png", "last_image": "b.png"}, r"svd takes `image`, not `last_image`"),
    ("svd", {"prompt": "a", "image": "a.png", "control": "edges:a.mp4"},
     r"svd takes no `control`; these do: animatediff \(ControlNet\), wan \(VACE\)"),
    ("svd", {"prompt": "a", "image": "a.png", "width": 40}, r"svd cannot make 40x32: .*; the nearest is (32|48)x32"),
    ("wan", {"prompt": "a", "image": "a.png"},
     r"wan \(T2V\) takes no `image`; these do: .*ltx, ltx2, skyreels, svd, wan \(I2V, FLF2V"),
    ("wan", {"prompt": "a", "frames": 10}, r"make 10 frames: they must be k \* 4 \+ 1, at most 125; the nearest is 9"),
    ("wan", {"prompt": "a", "height": 528}, r"wan cannot make 32x528: .* at most 512; the nearest is 32x512"),
    ("wan", {"prompt": "a", "frames": 129}, r"wan cannot make 129 frames: .*; the nearest is 125"),
    ("wan", {"prompt": "a", "video": "a.mp4"}, r"wan \(T2V\) needs a level for `video`: give `level`"),
    ("wan", {"prompt": "a", "video": "a.mp4", "level": 1.5}, r"level must be above 0 and below 1"),
    ("wan", {"prompt": "a", "level": 0.5}, r"level is the noise level of a `video`, and there is none"),
    ("wan", {"prompt": "a", "video": "a.mp4", "level": 0.5, "frames": 21},
     r"video .*a\.mp4: lasts 1\.50 s; the last of 21 frames at 8 fps is shown at 2\.50 s"),
    ("wan", {"prompt": "a", "video": "a.png", "level": 0.5}, r"video .*a\.png"),
    ("wan", {"prompt": "a", "video": "nowhere.mp4", "level": 0.5}, r"video .*nowhere\.mp4: No such file"),
    ("vace", {"prompt": "a"},
     r"wan \(VACE\) needs one of `image`, `last_image`, `keyframes`, `control`, `video`, `references`"),
    ("vace", {"prompt": "a", "mask": "a.mp4", "image": "a.png"}, r"takes `mask` only together with `video`"),
    ("vace", {"prompt": "a", "control": "edges:a.mp4", "image": "a.png"}, r"takes `image` or `control`, not both"),
    ("vace", {"prompt": "a", "control": "a.mp4"}, r"must begin with its signal, one of depth, pose, edges, flow"),
    ("animatediff", {"prompt": "a", "control": {"signal": "pose", "footage": "a.mp4"}},
     "pose is not made from footage, only edges and flow are"),
    ("animatediff", {"prompt": "a", "control": {"signal": "edges", "footage": "a.mp4", "video": "a.mp4"}},
     "names a `video` of the signal and `footage` to make it from"),
    ("animatediff", {"prompt": "a", "control": {"signal": "edges", "footage": "nowhere.mp4"}},
     r"control .*nowhere\.mp4: No such file"),
    ("animatediff", {"prompt": "a", "control": {"signal": "edges", "video": "a.mp4", "start": 0.9, "end": 0.1}},
     "start below end"),
    ("animatediff", {"prompt": "a", "control": "edges:a.mp4", "frames": 40, "fps": 60},
     r"40 frames: they must be at most 32"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "prompt", "said"), REFUSED)
def test_what_a_family_cannot_do_is_one_sentence_before_any_work(place, name, prompt, said):
    model, _, steps = CAMPAIGNS[name]
    path = campaign(place, model, [prompt], steps=steps, **SMALL)
    with pytest.raises(BadInput, match=said) as caught:
        load_campaign([path], {}, [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"family": "svd", "checkpoint": "wan"}, "is a checkpoint of WanPipeline, which svd does not run"),
        ({"family": "wan", "checkpoint": "nowhere"}, "model.checkpoint: there is no checkpoint at nowhere"),
        ({"family": "wan", "checkpoint": "owner/name"}, "owner/name is not in the local hub cache"),
        (
            {"family": "animatediff", "checkpoint": "net", "parts": {"controlnet": "wan/vae"}},
            "is of the class AutoencoderKLWan",
        ),
        ({"family": "svd"}, "is a checkpoint of LTXConditionPipeline, which svd does not run"),
    ],
)
def test_a_model_that_is_none_of_the_family_is_refused(place, model, said):
    path = campaign(place, {"checkpoint": "x", **model}, ["a"], **SMALL)
    if "checkpoint" not in model:
        path.write_text(json.dumps({"cascade": "plain", "model": model, "prompts": ["a"], **SMALL}))
    with pytest.raises(BadInput, match=said):
        load_campaign([path], {}, [])


def test_a_part_that_is_missing_or_broken_is_refused_while_planning(place, tmp_path):
    folder = shutil.copytree(place / "wan", tmp_path / "wan")
    weights = next((folder / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    model = {"family": "wan", "checkpoint": str(folder)}
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"cascade": "plain", "model": model, "prompts": ["a"], **SMALL}))
    words = ["render", str(path), "--store", str(tmp_path / "store"), "--executor", "local"]
    ran = CliRunner().invoke(main, words)
    assert (ran.exit_code, "is broken or was cut off" in ran.output) == (2, True), ran.output
    shutil.rmtree(folder / "text_encoder")
    ran = CliRunner().invoke(main, words)
    assert (ran.exit_code, "it has no text_encoder/" in ran.output) == (2, True), ran.output


def test_a_checkpoint_says_what_takes_are_where_nothing_else_does(place):
    """The defaults of a family fill in what campaign and cascade leave out."""
    path = campaign(place, {"family": "svd", "checkpoint": "svd"}, [{"prompt": "a", "image": "a.png"}])
    (take,) = load_campaign([path], {}, []).takes
    assert (take["width"], take["height"], take["frames"], take["fps"], take["guidance"]) == (1024, 576, 4, 7.0, 3.0)


def test_the_makers_command_says_how_a_campaign_names_what_it_made(tmp_path):
    """And in which size: the one that the published weights were made for takes minutes, or cannot be made at all."""
    for family, variant in (("wan", "two-experts"), ("whole", "skyreels-v2"), ("animatediff", "controlnet")):
        made = CliRunner().invoke(main, ["tiny", family, str(tmp_path / family), "--variant", variant])
        assert made.exit_code == 0, made.output
        said = made.output.partition("for a campaign:\n")[2]
        assert f"model: {{family: {family}, checkpoint: {tmp_path / family}" in said
        Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
        (tmp_path / "a.mp4").write_bytes(write_video(np.zeros((40, 32, 32, 3), np.uint8), 8.0))
        prompt = {"prompt": "a fox", **({"control": "edges:a.mp4"} if family == "animatediff" else {})}
        (tmp_path / "a.yaml").write_text(said + json.dumps({"prompts": [prompt]})[1:-1])
        (take,) = load_campaign([tmp_path / "a.yaml"], {}, []).takes
        assert (take["width"], take["height"], take["frames"]) == (64, 64, 9)
        assert take["fps"], "a campaign of what was printed needs nothing more"
    sized = ["width=960", "height=544", "frames=9"]
    (tmp_path / "a.yaml").write_text(
        json.dumps({"cascade": "plain", "model": {"family": "whole", "checkpoint": "whole"}, "prompts": ["a"]})
    )
    with pytest.raises(BadInput, match=r"whole cannot make 960x544: .* at most 512; the nearest is 512x512"):
        load_campaign([tmp_path / "a.yaml"], {}, sized)
    for words, said in (
        (
            ["tiny", "wan", str(tmp_path / "y"), "--variant", "flf"],
            "no checkpoint of the kind 'flf'; did you mean 'flf2v'",
        ),
        (["tiny", "wan", str(tmp_path)], "is there and holds no checkpoint"),
        (
            ["tiny", "ltx", str(tmp_path / "y")],
            "of the family ltx; there is one of animatediff, ltx2, skyreels, svd, wan, whole",
        ),
    ):
        refused = CliRunner().invoke(main, words)
        assert (refused.exit_code, said in refused.output) == (2, True), refused.output
    listed = CliRunner().invoke(main, ["tiny", "--help"]).output
    for name in families():
        row = re.search(rf"^  {name} +(.+)$", listed, re.MULTILINE)
        assert tuple(row[1].split(", ") if row else ()) == load_family(name).makers, "the help lists what there is"
