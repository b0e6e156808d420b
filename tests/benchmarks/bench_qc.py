"""QC of renders against defects of known strength, on clips that it was not calibrated on.

    python tests/benchmarks/bench_qc.py [--store STORE] [--clips N] [--sound N] [--part PART] [--keep F] [--read F]

Real clips are stretches of one shot of the videos under RUSHES_DATA; sound renders are the finished videos of STORE (as
`rushes render configs/campaigns/demo.yaml --store STORE` makes them) and clips of the procedural world. PART is
`calibration` or `heldout`: no scene and no seed is in both. A defect is made on a clip, encoded as `decode` does, and
measured as `measure` does. Prints a table: how often each defect is found by its own metric and by any, and of how many
sound clips each metric is a false alarm. --keep writes all that was measured as JSON lines; --read shows the table of
such a file again, for thresholds that have changed since.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from stages.core.media import read_frames, write_video  # noqa: E402
from stages.qc import Qc, unmet  # noqa: E402
from tests import defects  # noqa: E402

FRAMES, SIDE, LEAST_CHANGE, MADE = 33, 512, 4.0, 50
PARTS = ("calibration", "heldout")
Maker = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
DEFECTS: dict[str, tuple[str, Maker]] = {
    "flicker of 4 %": ("flicker", lambda f, _, r: defects.flicker(f, 0.04, r)),
    "25 % frozen": ("frozen", lambda f, _, r: defects.freeze(f, 0.25, r)),
    "every fourth frame doubled": ("stutter", lambda f, _, r: defects.double(f, 4, r)),
    "blur of sigma 2 at 512": ("blur", lambda f, _, r: defects.blur(f, 2.0, r)),
    "one inserted cut": ("cuts", lambda f, other, r: defects.cut_to(f, other, float(r.uniform(0.25, 0.75)), r)),
    "colour drift of 10 dE": ("colour_drift", lambda f, _, r: defects.drift(f, 10.0, r)),
}
"""What is made -> the metric that has to find it."""
JUDGED = ("", "one inserted cut")
"""What the judge of the embedded world has a word on, too."""


@dataclass(frozen=True)
class Clip:
    """name: of its source and place; kind: `real`, `render` or `world`; frames uint8 RGB [F, H, W, 3]."""

    name: str
    kind: str
    frames: np.ndarray
    fps: float


def real_clips(data: Path, part: str, most: int) -> Iterator[Clip]:
    """Stretches of one shot, as listed by hand, at most 512 pixels wide, in turn from all sources of a part."""
    spans = json.loads((Path(__file__).parent / "qc_spans.json").read_text())
    mine = [(source, list(starts)) for source, starts in spans[part].items()]
    turns = zip_longest(*([(source, start) for start in starts] for source, starts in mine))
    chosen = [place for turn in turns for place in turn if place and (data / place[0]).exists()][:most]
    with workers() as pool:
        read = pool.map(stretch, [data / source for source, _ in chosen], [start for _, start in chosen])
        for (source, start), (frames, fps) in zip(chosen, read, strict=True):
            yield Clip(f"{source}@{start}", "real", frames, fps)


def workers() -> ProcessPoolExecutor:
    """Spawned, as OpenCV's threads do not survive a fork."""
    return ProcessPoolExecutor(mp_context=get_context("spawn"))


def stretch(path: Path, start: int) -> tuple[np.ndarray, float]:
    """FRAMES frames from frame `start` on, at most SIDE on their longer side, and their rate."""
    import av

    kept = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 25)
        for number, frame in enumerate(container.decode(stream)):
            if number >= start:
                scale = min(1.0, SIDE / max(frame.width, frame.height))
                size = [round(v * scale / 2) * 2 for v in (frame.width, frame.height)]
                kept.append(cv2.resize(frame.to_ndarray(format="rgb24"), size, interpolation=cv2.INTER_AREA))
            if len(kept) == FRAMES:
                break
    return np.stack(kept), fps


def renders(store: str) -> Iterator[Clip]:
    """The finished videos of a store. Nothing was calibrated on them."""
    from flows.run.session import existing_catalog
    from flows.views.tables import read_table

    catalog = existing_catalog(store)
    for video in read_table(catalog, "videos").to_pylist():
        if video["status"] == "ok":
            name = f"{video['prompt']}, seed {video['seed']}"
            yield Clip(name, "render", read_frames(catalog.storage.read(video["uri"])), video["fps"])


def world_clips(part: str, count: int) -> Iterator[Clip]:
    """Clips of the procedural world, as large as renders of the cascade `tiny`."""
    from data_prep.world import plain_caption, render, sample_scene

    first = 1_000_000 * PARTS.index(part)
    for seed in range(first, first + count):
        scene = sample_scene(seed)
        yield Clip(f"{plain_caption(scene)}, seed {seed}", "world", render(scene, 256, 256, FRAMES, 16), 16.0)


def measured(frames: np.ndarray, fps: float) -> dict[str, Any]:
    """What `measure` says of frames that were encoded as `decode` encodes them."""
    from stages.core.measures.take import TakeMeter
    from stages.core.video_facts import read_facts

    meter = TakeMeter(len(frames), fps)
    read_facts(write_video(frames, fps, crf=18, preset="veryfast"), meter.add)
    return meter.result()


def moves(frames: np.ndarray) -> bool:
    """Whether something moves that can be seen from frame to frame: of half of the pairs, the fiftieth of the pixels
    that change most does so by 4 grey levels and more, on pictures of 128."""
    from stages.core.measures.held import change
    from stages.core.measures.sharpness import size_at

    size = size_at(frames.shape[2], frames.shape[1], 128)
    small = [cv2.cvtColor(cv2.resize(f, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for f in frames]
    lumas = [f.astype(np.float32) for f in small]
    return bool(np.median([change(a, b) for a, b in pairwise(lumas)]) >= LEAST_CHANGE)


def judged(clip: Clip, frames: np.ndarray) -> bool | None:
    """Whether the judge of the embedded world finds one object of one colour and shape throughout; None for footage."""
    from stages.core.measures.world.judge import judge
    from stages.core.measures.world.vocabulary import WORLD, load_vocabulary

    return None if clip.kind == "real" else judge(frames, clip.fps, None, load_vocabulary(WORLD)).same_object


def measure_all(clips: Sequence[Clip], keep: Path | None) -> list[dict[str, Any]]:
    """A row for each clip as it is, and of the first MADE real ones and the first MADE others with each defect."""
    seen, work = Counter[bool](), list[tuple[int, Clip, np.ndarray | None]]()
    for i, clip in enumerate(clips):
        real = clip.kind == "real"
        seen[real] += 1
        work.append((i, clip, clips[(i + len(clips) // 2) % len(clips)].frames if seen[real] <= MADE else None))
    rows = []
    with keep.open("w") if keep else open(os.devnull, "w") as out, workers() as pool:
        for made in pool.map(measure_one, *zip(*work, strict=True)):
            rows += made
            print(*map(json.dumps, made), sep="\n", file=out, flush=True)
    return rows


def measure_one(number: int, clip: Clip, other: np.ndarray | None) -> list[dict[str, Any]]:
    """The rows of one clip; other: another one, to cut to, None where no defect is made."""
    cv2.setNumThreads(1)
    rows = []
    for name in ("", *DEFECTS) if other is not None else ("",):
        rng = np.random.default_rng([number, 0xDEF])
        frames = DEFECTS[name][1](clip.frames, other, rng) if name and other is not None else clip.frames
        row = {"clip": clip.name, "kind": clip.kind, "defect": name, **measured(frames, clip.fps)}
        row |= {"same_object": judged(clip, frames)} if name in JUDGED else {}
        rows.append(row | ({} if name else {"moves": moves(frames)}))
    return rows


def failed(row: dict[str, Any], configs: Mapping[str, Qc.Config]) -> set[str]:
    """The metrics that do not pass. Renders are held to the thresholds of the cascade that makes them."""
    return {reason["metric"] for reason in unmet(row, configs[row["kind"]])}


def thresholds() -> dict[str, Qc.Config]:
    """Kind of a clip -> its thresholds: the defaults, or those of the cascade `tiny`."""
    from flows.render.campaign import load_campaign

    tiny = load_campaign([], {"prompts": ["a red circle"]}, []).steps["qc"].config
    return {"real": Qc.Config(), "world": Qc.Config(), "render": tiny}


def figures(rows: Sequence[dict[str, Any]], config: Mapping[str, Qc.Config]) -> dict[str, Any]:
    """How often each defect is found by its own metric and by any; which metric is a false alarm how often.

    A clip in which nothing `moves` has no frozen and no doubled frames to find, and does not count for these.
    """
    sound = [r for r in rows if not r["defect"]]
    still = {r["clip"] for r in sound if not r["moves"]}
    alarms = Counter(metric for r in sound for metric in failed(r, config))
    found = {}
    for name, (metric, _) in DEFECTS.items():
        mine = [r for r in rows if r["defect"] == name]
        mine = [r for r in mine if metric not in ("frozen", "stutter") or r["clip"] not in still]
        own, some = (sum(w(failed(r, config)) for r in mine) for w in (lambda f, m=metric: m in f, bool))
        found[name] = {"clips": len(mine), "own": own, "any": some, "alarms": alarms[metric]}
    wrong = {kind: [r for r in sound if r["kind"] == kind] for kind in dict.fromkeys(r["kind"] for r in sound)}
    return {
        "defects": found,
        "sound": {k: (len(v), sum(bool(failed(r, config)) for r in v)) for k, v in wrong.items()},
        "alarms": [(r["clip"], sorted(failed(r, config))) for r in sound if failed(r, config)],
        "judge": _agreement(rows, config),
    }


def _agreement(rows: Sequence[dict[str, Any]], config: Mapping[str, Qc.Config]) -> tuple[int, int]:
    """Of how many clips of the world QC and the judge agree on whether a cut was inserted, and how many there are.

    Clips count whose object the judge follows while they are sound: where it finds none, it can lose none.
    """
    known = {r["clip"] for r in rows if not r["defect"] and r.get("same_object")}
    mine = [r for r in rows if r["clip"] in known and r["defect"] in JUDGED]
    return sum(("cuts" in failed(r, config)) != r["same_object"] for r in mine), len(mine)


def show(found: dict[str, Any]) -> None:
    """The figures as a table."""
    total = sum(n for n, _ in found["sound"].values())
    print(f"{'defect':28} {'clips':>5} {'found':>7} {'by any':>7} {'false alarms':>13}")
    for name, f in found["defects"].items():
        shares = [f"{f[k] / max(1, f['clips']):.0%}" for k in ("own", "any")]
        print(f"{name:28} {f['clips']:5} {shares[0]:>7} {shares[1]:>7} {f['alarms']:>6} of {total}")
    for kind, (count, wrong) in found["sound"].items():
        print(f"{kind}: {wrong} of {count} sound clips fail some metric")
    print(
        f"QC and the judge agree on {found['judge'][0]} of {found['judge'][1]} clips of the world, with and without cut"
    )
    for clip, metrics in found["alarms"]:
        print(f"  {clip}: {', '.join(metrics)}")


def gather(data: Path, store: str, part: str, real: int, sound: int) -> list[Clip]:
    """The clips of a part, of every kind in turn, so that what was kept of a run that ends early is of all kinds."""
    made = list(renders(store)) if store else []
    drawn = [*made[:sound], *world_clips(part, max(0, sound - len(made)))]
    turns = zip_longest(real_clips(data, part, real), *(drawn[i::2] for i in range(2)))
    return [clip for turn in turns for clip in turn if clip]


def main(words: Sequence[str] | None = None) -> None:
    """See the module."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--store", default="")
    asked.add_argument("--clips", type=int, default=50)
    asked.add_argument("--sound", type=int, default=100)
    asked.add_argument("--part", choices=PARTS, default="heldout")
    asked.add_argument("--keep", type=Path)
    asked.add_argument("--read", type=Path)
    given = asked.parse_args(words)
    data = Path(os.environ.get("RUSHES_DATA") or ROOT.parent / "shared" / "data")
    if given.read:
        rows = [json.loads(line) for line in given.read.read_text().splitlines()]
    else:
        rows = measure_all(gather(data, given.store, given.part, given.clips, given.sound), given.keep)
    show(figures(rows, thresholds()))


if __name__ == "__main__":
    main()
