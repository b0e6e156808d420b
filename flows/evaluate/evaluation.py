"""Prompts to figures: render them (or take videos that are there), judge every clip, and say how often it is right."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.evaluate.clip_list import clip_row, read_captions
from flows.render.campaign import RenderConfig, anchored, fill_defaults, on_top, resolve, trust_named
from flows.render.delivery import DeliverConfig
from flows.render.takes import TAKES, check_takes, expand, with_media
from flows.run.settings import ResolvedConfig
from stages.core.config import load_class
from stages.core.config_files import find_config, read_yaml
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.measures.world.vocabulary import WORLD, load_vocabulary
from stages.core.measures.world.words import ATTRIBUTES, parse_prompt
from stages.core.planning.binding import make_plan, until
from stages.core.planning.plan import Plan
from stages.core.step import Row, StepRef
from stages.core.weights.digests import cache_folder

FLOW, DEFAULT = "evaluate", "evaluate"
CLIPS = pa.schema([*TAKES, ("path", pa.string()), ("sha256", pa.string()), ("part", pa.string())])
JUDGED, REFERENCE = "judged", "reference"
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ogv")
TRUE_FRAME_SIDE, TRUE_FRAMES = 256, "true-frames"


@dataclass
class EvaluateConfig(RenderConfig):
    """An evaluation: a campaign whose videos are judged.

    heldout       number of combinations held out from training that become prompts, evenly spaced in the world's list
                  of them
    first_frames  start each video of a `heldout` prompt from the first frame of a procedurally generated clip of that
                  prompt
    last_frames   end each video of a `heldout` prompt with the last frame of a procedurally generated clip of that
                  prompt
    world         the file that defines what the words of prompts mean and look like
    videos        a folder of videos to judge instead of rendering any
    captions      CSV file that lists what each file in `videos` shows
    reference     a folder of videos to compare the judged ones with, as two sets: FVD and FID
    """

    heldout: int = 0
    first_frames: bool = False
    last_frames: bool = False
    world: str = WORLD
    videos: str = ""
    captions: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Evaluation(ResolvedConfig):
    """A checked evaluation: its settings, the steps that make, judge and measure a clip, and one row per clip."""

    config: EvaluateConfig
    steps: dict[str, StepRef]
    clips: tuple[Row, ...]

    def plan(self, catalog: Catalog) -> Plan:
        """The plan; keeps the clips as the roots of the store's next run."""
        plan = make_plan(FLOW, "", self.steps, CLIPS.names)
        clips = with_media(catalog, [c for part in (JUDGED, REFERENCE) for c in self._part(part)])
        placed = [{**c, "position": i} for i, c in enumerate(clips)]
        mark = digest("clips", [[c["id"], c.get("path"), c.get("media")] for c in placed])
        return dataclasses.replace(plan, roots=catalog.put_roots(placed, CLIPS, mark, plan.phases[0].depends))

    def _part(self, part: str) -> list[Row]:
        found = [c for c in self.clips if c["part"] == part]
        return found[: self.config.limit] if self.config.limit else found


def settings_of_options(prompts: str, videos: str, captions: str, reference: str) -> dict[str, Any]:
    """The settings that the options of `rushes evaluate` stand for. Raises BadInput where they exclude each other."""
    if prompts and videos:
        raise BadInput("--prompts renders videos and --videos judges existing ones: give one of them")
    if captions and not videos:
        raise BadInput("--captions describes the files of --videos: give both")
    paths = {"videos": videos, "captions": captions, "reference": reference}
    own_prompts = {"prompts_file": prompts, "prompts": [], "heldout": 0} if prompts else {}
    return {**own_prompts, **{name: path for name, path in paths.items() if path}}


def load_evaluation(config: str | Path, values: Mapping[str, Any], overrides: Sequence[str]) -> Evaluation:
    """Merge cascade < configs/evaluate.yaml < config file < values < overrides and check all of it. Raises BadInput
    before any work."""
    path, default = find_config(config), find_config(DEFAULT)
    files = [default] if path == default else [default, path]
    named = on_top(values, overrides)
    trust_named((path.resolve().parent, cache_folder() / TRUE_FRAMES), named)
    layers = [*((str(p), anchored(p)) for p in files), *named]
    settings, steps = resolve(EvaluateConfig, layers)
    if settings.gates:
        raise BadInput("gates: an evaluation renders and judges every take; set gates=[]")
    if settings.deliver != DeliverConfig():
        raise BadInput("deliver belongs to a campaign: an evaluation delivers no videos; leave it out")
    whole = steps
    if settings.until:
        steps = until(steps, settings.until)
    if settings.videos:
        return _with_reference(Evaluation(settings, _looking(steps), tuple(list_clips(settings))))
    if settings.captions:
        raise BadInput("captions belong to videos: give `videos` (--videos FOLDER) too")
    if not any(load_class(r.use, n).kind == "video" for n, r in steps.items()):
        raise BadInput("the cascade has no step that makes videos, so there are none to judge")
    fill_defaults(settings, steps)
    settings = dataclasses.replace(settings, prompts=[*heldout_prompts(settings), *settings.prompts])
    asked = expand(settings, str(path))
    check_takes(asked, whole, run=steps)
    takes = asked.takes
    check_prompts([(f"prompt {t['prompt']!r}", t["prompt"]) for t in takes], settings.world)
    return _with_reference(Evaluation(settings, steps, tuple({**t, "part": JUDGED} for t in takes)))


def _looking(steps: Mapping[str, StepRef]) -> dict[str, StepRef]:
    """Those steps that only look at videos: what is there already is not rendered. QC is left out, too: it holds a
    video against what the row of its render says."""
    kinds = {n: load_class(r.use, n) for n, r in steps.items()}
    made = [n for n, cls in kinds.items() if cls.kind == "video"]
    names = list(steps)
    left, missing = dict[str, StepRef](), {"video"}
    for n in names[names.index(made[-1]) + 1 if made else 0 :]:
        cls = kinds[n]
        if any(p.required and p.kind in missing for p in cls.inputs(steps[n].config).ports.values()):
            missing.add(cls.kind)
        else:
            left[n] = steps[n]
    return left


def _with_reference(evaluation: Evaluation) -> Evaluation:
    """The same with the other set's clips, if there is one. Raises BadInput where one of them is too small."""
    config = evaluation.config
    if not config.reference:
        return evaluation
    folder = Path(config.reference).expanduser()
    if not folder.is_dir():
        raise BadInput(f"reference: there is no folder {folder}")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    sets, pictures = (_config_of(evaluation.steps, kind) for kind in ("distances", "picture_features"))
    needed = max(sets.least_videos, -(-sets.least_frames // pictures.frames))
    counts = [min(n, config.limit or n) for n in (len(evaluation.clips), len(paths))]
    if min(counts) < needed:
        raise BadInput(
            f"reference: FVD and FID are not meaningful with fewer than {needed} videos in each set; "
            f"there are {counts[0]} to judge and "
            f"{counts[1]} in {folder}"
        )
    others = [clip_row(config.name, i, path, "", REFERENCE) for i, path in enumerate(paths)]
    return dataclasses.replace(evaluation, clips=(*evaluation.clips, *others))


def _config_of(steps: Mapping[str, StepRef], kind: str) -> Any:
    found = [ref.config for name, ref in steps.items() if load_class(ref.use, name).kind == kind]
    if not found:
        raise BadInput(f"reference: no step makes {kind}, so two sets cannot be compared; do not switch it off")
    return found[0]


def heldout_prompts(config: EvaluateConfig) -> list[Any]:
    """Prompts that the world holds out, evenly over its list, which goes by colour; with their first and last frames
    where these are asked for. Raises BadInput where it has fewer."""
    if config.heldout < 0:
        raise BadInput(f"heldout must be a number of prompts, 0 or more, not {config.heldout}")
    rows = list(read_yaml(Path(config.world).expanduser()).get("heldout") or ())
    if config.heldout > len(rows):
        raise BadInput(f"heldout: {config.world} holds out {len(rows)} combinations, fewer than {config.heldout}")
    chosen = [rows[i * len(rows) // config.heldout] for i in range(config.heldout)]
    words = (dict(zip(ATTRIBUTES, row, strict=True)) for row in chosen)
    prompts = ["a {colour} {shape} {motion} on a {background} background".format(**w) for w in words]
    moments = {"image": 0.0} if config.first_frames else {}
    if config.last_frames and prompts:
        if not config.frames or not config.fps:
            raise BadInput("last_frames: where a clip ends is not known; give `frames` and `fps`")
        moments["last_image"] = (config.frames - 1) / config.fps
    if not moments:
        return prompts
    pictures = ({k: str(true_frame(p, i, config.world, s)) for k, s in moments.items()} for i, p in enumerate(prompts))
    return [{"prompt": p, **named} for p, named in zip(prompts, pictures, strict=True)]


def true_frame(prompt: str, seed: int, world: str, second: float) -> Path:
    """A frame of a clip of the world that shows a prompt, 256x256, as a file in the user's cache."""
    import cv2

    from data_prep.world import load_world, render, scene_from_prompt

    scene = scene_from_prompt(prompt, seed, load_world(Path(world).expanduser()))
    frame = render(scene, TRUE_FRAME_SIDE, TRUE_FRAME_SIDE, 1, 16, second)[0]
    data = cv2.imencode(".png", frame[..., ::-1])[1].tobytes()
    path = cache_folder() / TRUE_FRAMES / f"{hashlib.sha256(data).hexdigest()}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return path


def check_prompts(placed: Sequence[tuple[str, str]], world: str) -> None:
    """Raise BadInput for a prompt that the judge cannot read: two objects, or what the world does not have."""
    vocabulary = load_vocabulary(world)
    for place, prompt in placed:
        try:
            parse_prompt(prompt, vocabulary)
        except BadInput as bad:
            raise BadInput(f"{place}: {bad}" if prompt not in place else str(bad)) from None


def list_clips(config: EvaluateConfig) -> list[Row]:
    """One row per captioned video. Raises BadInput naming the file and line that is wrong."""
    folder = Path(config.videos).expanduser()
    if not folder.is_dir():
        raise BadInput(f"videos: there is no folder {folder}")
    if not config.captions:
        raise BadInput("videos need `captions` (--captions FILE.csv): which file shows what")
    named = read_captions(Path(config.captions).expanduser(), folder)
    check_prompts([(place, caption) for place, _, caption in named], config.world)
    return [clip_row(config.name, i, path, caption, JUDGED) for i, (_, path, caption) in enumerate(named)]
