"""Footage of the procedural world: scenes joined by hard cuts into ordinary mp4 files, for `curate` to take apart."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.world.captions import caption
from data_prep.world.rendering import render
from data_prep.world.scene import Scene, World, default_world, sample_scene
from stages.core.errors import BadInput
from stages.core.media import write_video

LICENCE = "CC0-1.0"
_TRIES = 50


@dataclass(frozen=True)
class Shot:
    """One scene of a video: frames [start_frame, end_frame) of it, seconds likewise, what it shows, and its caption."""

    uri: str
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    caption: str
    colour: str
    shape: str
    motion: str
    background: str
    objects: int


def write_footage(
    folder: Path | str,
    n_videos: int,
    scenes_per_video: int,
    seed: int,
    *,
    world: World | None = None,
    split: str = "train",
    size: tuple[int, int] = (256, 256),
    fps: int = 16,
    seconds: tuple[float, float] = (2.25, 3.5),
    crf: int = 12,
) -> list[Shot]:
    """Write n_videos H.264 mp4 files of scenes with hard cuts between, and say what is where.

    Beside them: `manifest.csv` (uri, caption, licence, captions: JSON list of start_s, end_s, text; one row a video)
    and `scenes.csv` (the columns of Shot; one row a scene). size: width, height. Motions fill their whole scene.
    Neighbours differ in background and in colour, so that a cut is one. Equal arguments give equal bytes with the same
    ffmpeg. Raises BadInput for an odd size, no scenes or an empty range.
    """
    if size[0] % 2 or size[1] % 2 or fps < 1 or scenes_per_video < 1 or not 0 < seconds[0] <= seconds[1]:
        raise BadInput(
            f"footage needs even sizes, at least one frame a second, one scene a video and a range of seconds, "
            f"not {size}, {fps}, {scenes_per_video}, {seconds}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    world = world or default_world()
    shots: list[list[Shot]] = []
    for index in range(n_videos):
        rng = np.random.default_rng([seed, index, 0xF007])
        scenes = _scenes(rng, world, split, scenes_per_video, size[0] / size[1], seconds)
        name = f"world_{seed}_{index:04d}.mp4"
        frames = np.concatenate([render(s, *size, round(s.duration_s * fps), fps) for s in scenes])
        (folder / name).write_bytes(write_video(frames, fps, crf=crf, preset="veryfast"))
        shots.append(_shots(name, scenes, rng, world, fps))
    _write_tables(folder, shots)
    return [shot for video in shots for shot in video]


def _scenes(
    rng: np.random.Generator, world: World, split: str, count: int, aspect: float, seconds: tuple[float, float]
) -> list[Scene]:
    scenes: list[Scene] = []
    for _ in range(count):
        length = float(rng.uniform(*seconds))
        for _ in range(_TRIES):
            scene = sample_scene(int(rng.integers(2**62)), world, split=split, aspect=aspect, duration_s=length)
            if not scenes or _differ(scenes[-1], scene):
                break
        scenes.append(scene)
    return scenes


def _differ(one: Scene, other: Scene) -> bool:
    return one.background != other.background and one.attributes.colour != other.attributes.colour


def _shots(uri: str, scenes: list[Scene], rng: np.random.Generator, world: World, fps: int) -> list[Shot]:
    shots, first = [], 0
    for scene in scenes:
        last = first + round(scene.duration_s * fps)
        what: dict[str, Any] = asdict(scene.attributes)
        text = caption(scene, rng, world)
        shots.append(Shot(uri, first, last, first / fps, last / fps, text, objects=len(scene.things), **what))
        first = last
    return shots


def _write_tables(folder: Path, shots: list[list[Shot]]) -> None:
    rows = [
        {
            "uri": video[0].uri,
            "caption": "; then ".join(s.caption for s in video),
            "licence": LICENCE,
            "captions": json.dumps([{"start_s": s.start_s, "end_s": s.end_s, "text": s.caption} for s in video]),
        }
        for video in shots
        if video
    ]
    _write_csv(folder / "manifest.csv", rows)
    _write_csv(folder / "scenes.csv", [asdict(s) for video in shots for s in video])


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["uri"])
        writer.writeheader()
        writer.writerows(rows)
