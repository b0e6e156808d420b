"""The cascades `replace`, `gen-3` and `kling` from the command line to the videos, on tiny checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flows.cli.main import main
from flows.cli.tiny import make_tiny
from flows.render.campaign import load_campaign
from flows.run.session import existing_catalog
from flows.views.tables import read_table
from stages.core.condition_video import read_clip
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.media import read_frames, write_video
from stages.core.pasting import blend, pasted
from stages.decode import Decode

SMALL = {"width": 32, "height": 32, "frames": 5, "fps": 8}
SHORT = {"text": {"max_tokens": 16}, "base": {"sampling": {"steps": 2}}}
WIDE = 256
"""Positions along an axis of the tiny checkpoint that makes 1080p; published ones have 1024."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny checkpoints, pictures and videos; the mask is white in the middle."""
    root = tmp_path_factory.mktemp("cascades")
    make_tiny("wan", str(root / "wan"))
    make_tiny("wan", str(root / "vace"), "vace")
    config = root / "wan" / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rope_max_seq_len": WIDE}))
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (40, 64, 3), np.uint8)).save(root / f"{name}.png")
        coarse = rng.integers(0, 256, (12, 9, 12, 3), np.uint8)
        (root / f"{name}.mp4").write_bytes(write_video(coarse.repeat(8, 1).repeat(8, 2), 8.0, crf=0))
    mask = np.zeros((12, 72, 96, 3), np.uint8)
    mask[:, 18:54, 30:66] = 255
    (root / "mask.mp4").write_bytes(write_video(mask, 8.0, crf=0))
    return root


def rendered(
    place: Path, name: str, cascade: str, model: Mapping[str, Any], prompts: list[Any], **more: Any
) -> Catalog:
    """The store of a campaign that was run from the command line; all of its takes are there."""
    path = place / f"{name}.yaml"
    path.write_text(json.dumps({"cascade": cascade, "model": model, "prompts": prompts, **more}))
    store = str(place / f"store-{name}")
    ran = CliRunner().invoke(main, ["render", str(path), "--store", store, "--executor", "local"])
    assert ran.exit_code == 0, ran.output
    catalog = existing_catalog(store)
    takes = read_table(catalog, "takes").to_pylist()
    assert [t["status"] for t in takes] == ["ok"] * len(prompts), takes
    return catalog


def shown(catalog: Catalog, stage: str = "decode") -> dict[str, np.ndarray]:
    """Prompt -> the frames of its video."""
    takes = {t["take_id"]: t["prompt"] for t in read_table(catalog, "takes").to_pylist()}
    rows = (r for r in read_table(catalog, "artifacts").to_pylist() if r["stage"] == stage)
    return {takes[r["take_id"]]: read_frames(catalog.storage.read(r["uri"])) for r in rows}


def test_outside_of_the_mask_the_video_stays_as_it_was(place: Path) -> None:
    """As if it had been encoded by itself; without pasting, all of it is another. Inside, prompts make the clip."""
    model = {"family": "wan", "checkpoint": "vace"}
    source = {"video": "a.mp4", "mask": "mask.mp4"}
    prompts = [{"prompt": "a", **source, "references": ["b.png"]}, {"prompt": "b", **source, "seed": 1},
               {"prompt": "c", "image": "a.png"}]  # fmt: skip
    size = {**SMALL, "width": 96, "height": 64}
    settings = {**SHORT, "decode": {"crf": 0, "feather": 3}}
    catalog = rendered(place, "replace", "replace", model, prompts, steps=settings, **size)
    bare = {**SHORT, "decode": {"crf": 0, "paste": False, "feather": 0}}
    left = rendered(place, "left", "replace", model, prompts[:2], steps=bare, **size)
    own, where = (read_clip((place / n).read_bytes(), 96, 64, "crop", 5, 8.0)[0] for n in ("a.mp4", "mask.mp4"))
    outside = where.max(axis=3) <= 127
    kernel = np.ones((17, 17), np.uint8)  # colours are halved in H.264, and spread a few pixels
    far = np.stack([cv2.dilate(m.max(axis=2), kernel) for m in where]) <= 127
    assert far.mean() > 0.3
    made, bare = shown(catalog), shown(left)
    alone = read_frames(write_video(own, 8.0, crf=0))
    own = own.astype(int)
    for name in ("a", "b"):
        np.testing.assert_array_equal(made[name][far], alone[far])
        assert np.abs(made[name].astype(int) - own)[outside].mean() < 1.1 * np.abs(alone - own)[outside].mean()
    assert np.abs(bare["a"].astype(int) - own)[outside].mean() > 10
    assert np.abs(made["a"].astype(int) - own)[~outside].mean() > 10
    assert np.abs(made["a"].astype(int) - made["b"])[~outside].mean() > 0.1


def test_pasted_pixels_are_the_videos_own_to_the_last_bit(place: Path) -> None:
    """Whatever is made and however it comes; the fade lies inside the mask and is monotonic."""
    video, mask = ((place / n).read_bytes() for n in ("a.mp4", "mask.mp4"))
    own, where = (read_clip(data, 96, 72, "crop", 5, 8.0)[0] for data in (video, mask))
    made = np.random.default_rng(1).integers(0, 256, own.shape, np.uint8)
    whole = np.concatenate(list(pasted(iter([made[:1], made[1:]]), video, mask, "crop", 5, 8.0, 4)))
    outside, deep = where.max(axis=3) <= 127, np.zeros(where.shape[:3], bool)
    deep[:, 18 + 5 : 54 - 5, 30 + 5 : 66 - 5] = True
    np.testing.assert_array_equal(whole[outside], own[outside])
    np.testing.assert_array_equal(whole[deep], made[deep])
    assert (whole != made)[~outside & ~deep].any()
    flat = [np.full((9, 40, 3), v, np.uint8) for v in (200, 0)]
    half = np.zeros((9, 40, 3), np.uint8)
    half[:, 20:] = 255
    row = blend(flat[0], flat[1], half, 4)[4, :, 0]
    assert list(row[:20]) == [0] * 20
    assert list(row[20:26]) == [40, 80, 120, 160, 200, 200]
    np.testing.assert_array_equal(blend(flat[0], flat[1], half, 0)[:, 20:], flat[0][:, 20:])
    with pytest.raises(ValueError, match="argument"):
        list(pasted(iter([made[:4]]), video, mask, "crop", 5, 8.0, 4))


def test_a_feather_without_pasting_is_refused_and_both_leave_ids_of_others_as_they_were(place: Path) -> None:
    with pytest.raises(BadInput, match="set `paste: true` too"):
        Decode.Config(feather=3)
    asked = {
        "prompts": ["a"],
        "cascade": "plain",
        **SMALL,
        "model": {"family": "wan", "checkpoint": str(place / "wan")},
    }
    first, other = (load_campaign([], asked, words).steps["decode"] for words in ([], ["decode.paste=false"]))
    assert first.config == other.config
    assert Decode.inputs(first.config).depends == ()


MIXED = [
    {"prompt": "first and last", "image": "a.png", "last_image": "b.png"},
    {"prompt": "keyframe", "keyframes": {2: "b.png"}, "width": 48},
    {"prompt": "control", "control": "depth:a.mp4", "height": 48, "frames": 9},
    {"prompt": "footage", "control": {"signal": "edges", "footage": "b.mp4", "scale": 0.7}, "fps": 10},
    {"prompt": "masked", "video": "a.mp4", "mask": "mask.mp4", "references": ["b.png"], "width": 64, "height": 48},
]
"""Takes of Wan VACE in sizes, lengths and rates of their own."""


def test_takes_of_one_campaign_go_each_by_what_they_name(place: Path, small_checkpoint: Path) -> None:
    """Text, pictures, a video at a level (ltx); pictures, control, a masked video (Wan VACE); each in its own size."""
    model = {"family": "wan", "checkpoint": "vace"}
    made = shown(rendered(place, "mixed", "gen-3", model, MIXED, steps=SHORT, **SMALL))
    sizes = {name: frames.shape[:3] for name, frames in made.items()}
    assert sizes == {
        "first and last": (5, 32, 32), "keyframe": (5, 32, 48), "control": (9, 48, 32), "footage": (5, 32, 32),
        "masked": (5, 48, 64),
    }  # fmt: skip
    prompts = [
        "text", {"prompt": "tall", "width": 64, "height": 128, "frames": 5},
        {"prompt": "first", "image": "a.png"}, {"prompt": "first and last", "image": "a.png", "last_image": "b.png"},
        {"prompt": "video", "video": "a.mp4", "level": 0.5, "frames": 5, "fps": 4},
    ]  # fmt: skip
    steps = {**SHORT, "base": {"sampling": {"steps": 4}}}
    asked = {"width": 64, "height": 64, "frames": 9, "fps": 8, "guidance": 2, "steps": steps}
    made = shown(rendered(place, "mixed-ltx", "gen-3", {"checkpoint": str(small_checkpoint)}, prompts, **asked))
    assert {name: frames.shape[:3] for name, frames in made.items()} == {
        "text": (9, 64, 64), "tall": (5, 128, 64), "first": (9, 64, 64), "first and last": (9, 64, 64),
        "video": (5, 64, 64),
    }  # fmt: skip
    assert len({f.tobytes() for f in made.values()}) == len(made)


@pytest.mark.parametrize(
    ("draft", "frames"),
    [
        ((32, 48), 9),
        pytest.param((960, 544), 9, marks=pytest.mark.soak),
        pytest.param((544, 960), 9, marks=pytest.mark.soak),
    ],
    ids=["small", "16x9", "9x16"],
)
def test_a_draft_becomes_1080p_in_windows(place: Path, draft: tuple[int, int], frames: int) -> None:
    """In a process of its own, so that the most memory that it took is that of the stages."""
    width, height = draft
    path, store = place / f"kling-{width}.yaml", place / f"store-kling-{width}"
    steps = {**SHORT, "refine": {"window": 5, "overlap": 1, "strength": 0.9, "sampling": {"steps": 4}}}
    asked = {"frames": frames, "fps": 8, "width": width, "height": height, "steps": steps}
    model = {"family": "wan", "checkpoint": "wan"}
    path.write_text(json.dumps({"cascade": "kling", "model": model, "prompts": ["a red cube"], **asked}))
    words = ["-m", "flows.cli.main", "render", str(path), "--store", str(store), "--executor", "local"]
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = {r["stage"]: r for r in read_table(existing_catalog(str(store)), "artifacts").to_pylist()}
    assert {s: (r["width"], r["height"], r["n_frames"]) for s, r in rows.items() if r["width"]} == {
        "base": (width, height, frames),
        **{s: (2 * width, 2 * height, frames) for s in ("enlarge", "refine", "decode")},
    }
    if width * height > SMALL["width"] * SMALL["height"] * 2:
        print(json.dumps({"figure": "kling_1080p", "seconds": {s: round(r["core_seconds"], 1) for s, r in rows.items()},
                          "peak_mb": {s: r["peak_memory_mb"] for s, r in rows.items()}}))  # fmt: skip
    video = read_frames(existing_catalog(str(store)).storage.read(rows["decode"]["uri"]))
    assert video.shape == (frames, 2 * height, 2 * width, 3)
    assert video.std() > 1
