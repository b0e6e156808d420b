"""What a campaign asks for, one row per take: every prompt with every seed, all that a take may set filled in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from flows.render.conditions import KEYS, check_files_of_all, conditions_of, media_of
from flows.render.entries import CHECKS, Entry, as_entry, check_entry, checked, raise_faults
from flows.render.matrix import check_matrix, combinations
from flows.render.probing import Looking, Probes
from flows.render.prompts import read_prompts
from flows.render.templates import Templates, columns_in, columns_used
from flows.run.settings import FlowConfig
from flows.words import counted
from stages.core.config import load_class
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.latents.artifacts import CONDITION, MEDIUM
from stages.core.ledger.catalog import Catalog
from stages.core.reach.opening import check_named, joined, read_named
from stages.core.reach.policy import in_force
from stages.core.step import Row, Step, StepRef
from stages.families.contract import offers_kept

TAKES = pa.schema(
    [
        ("id", pa.string()),
        ("position", pa.int64()),
        ("campaign", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("guidance", pa.float64()),
        ("longer", pa.int64()),
        ("fit", pa.string()),
        ("conditions", pa.list_(CONDITION)),
        ("footage", pa.string()),
        ("media", pa.list_(MEDIUM)),
        ("tags", pa.list_(pa.string())),
        ("priority", pa.int64()),
    ]
)
"""Nulls are what a take does not have: no `longer`, no conditions, and then no `fit`. Sizes in pixels, fps in frames
a second; `footage` is the SHA-256 of what the signal of its `control` is made from."""

SIZES = ("width", "height", "frames", "fps", "guidance")
"""What a family has defaults for."""
SETTINGS = ("width", "height", "frames", "fps", "guidance", "longer", "fit", "priority")
"""What prompts may set for themselves, and campaigns and cascades for all."""
OF_ALL = ("negative_prompt", "seeds", "tags", *KEYS, "level", *SETTINGS)
"""Settings of a campaign that hold for every prompt that does not set its own."""
NOT_IDENTITY = ("id", "position", "media", "tags", "priority")
MOST_REMARKS = 5


@dataclass
class TakesConfig(FlowConfig):
    """What a campaign says of its takes.

    name             name of the campaign, which is part of each take's id; for a file of prompts, the file's name
                     without its suffix
    prompts          list of texts, or of mappings with the keys of a prompt
    prompts_file     a file with more prompts: .csv, .tsv, .jsonl, .ndjson, .json, .parquet or .txt
    seeds            number of takes of each prompt, or the list of their seeds
    seed             the first seed where `seeds` is a number: 100 gives 100, 101, ...
    negative_prompt  negative prompt of every prompt that has none of its own
    tags             list of tags, or text with commas; for your own use, they change nothing in the video
    image            picture that each clip begins with, for every prompt that names none
    last_image       picture that each clip ends with
    keyframes        pictures that a clip shows at single frames, `{16: picture.png}`
    references       picture, or list of pictures, of things (people, objects) that appear somewhere in the clip
    video            video to start from, with noise of the level `level`, or to change inside `mask`
    level            [above 0, below 1] how much noise is added to `video` first; a higher level keeps less of it
    mask             video that is white where `video` may change
    control          control video that the clip follows, `edges:FILE`, or
                     `{signal: edges, video: FILE, scale: 1, start: 0, end: 1}`; signals are depth, pose, edges and
                     flow. With `footage: FILE` in the place of `video`, edges and flow are made from it
    fit              [crop, pad or stretch] how a picture of another aspect ratio fills the frame: `crop` cuts off its
                     sides, `pad` keeps all of it and adds black bars, `stretch` changes its proportions
    width            pixels of what `base` makes; null takes the cascade's
    height           pixels of what `base` makes; null takes the cascade's
    frames           frames of what `base` makes; null takes the cascade's
    fps              frames a second at playback; null takes the cascade's
    guidance         scale of classifier-free guidance in `base`; values up to 1 switch it off, which halves the cost of
                     a pass
    longer           how many times as long as one clip of `base` the video is
    priority         takes with a higher number are rendered first
    matrix           keys of a prompt with lists of values, `{guidance: [1, 3], width: [128, 256]}`: every prompt is
                     rendered with every combination; what a prompt sets itself is not spanned
    wildcards        in prompts, `{a|b}` is one of these texts and `__file__` a line of file.txt in the campaign's
                     folder, chosen by the take's seed
    """

    name: str = "render"
    prompts: list[Any] = field(default_factory=list)
    prompts_file: str = ""
    seeds: Any = 1
    seed: int = 0
    negative_prompt: str = ""
    tags: Any = None
    image: str = ""
    last_image: str = ""
    keyframes: Any = None
    references: Any = None
    video: str = ""
    level: float | None = None
    mask: str = ""
    control: Any = None
    fit: str = "crop"
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    guidance: float | None = None
    longer: int | None = None
    priority: int = 0
    matrix: Any = None
    wildcards: bool = False


@dataclass(frozen=True)
class Asked:
    """What a campaign asks for.

    where    what is called so in messages: its file
    takes    one row per take, in their order
    places   id of a take -> where its prompt stands; with several prompts, the first of them
    prompts  where each prompt stands
    faults   where a prompt stands that cannot be used -> why, as sentences that name the place
    remarks  what a person should know of the prompts
    """

    where: str
    takes: list[Row]
    places: dict[str, str]
    prompts: tuple[str, ...]
    faults: dict[str, str]
    remarks: tuple[str, ...] = ()


def expand(config: TakesConfig, where: str, folder: Path | None = None, looking: Looking | None = None) -> Asked:
    """Every prompt with every seed. What is wrong with a prompt by itself is in `faults`, for `check_takes` to tell.

    folder: where the campaign lies, with the files of its wildcards; None takes that of the file of prompts, or the
    working folder. looking: told how many of the pictures and videos have been looked at. Raises BadInput where
    there are no prompts, and for what holds for all of them.
    """
    entries = [as_entry(f"{where}: prompt {i}", p) for i, p in enumerate(config.prompts, 1)]
    if config.prompts_file:
        listed = in_force().keep(joined("", config.prompts_file))
        check_named(listed)
        entries += read_prompts(listed, known={*CHECKS, *columns_in(config.negative_prompt)})
    if not entries:
        raise BadInput(f"{where}: there are no prompts; give `prompts:` a list, or --prompt TEXT")
    of_all = {name: value for name in OF_ALL if (value := getattr(config, name)) not in (None, "", [])}
    check_files_of_all(check_entry(where, {**of_all, "prompt": "any"}), where)
    columns = columns_used(e.values for e in entries) | columns_in(config.negative_prompt)
    matrix = check_matrix(config.matrix, where, columns)
    there = {key for e in entries for key in e.values} | {*matrix}
    named = frozenset(columns if columns & there else ())
    templates = Templates(config.wildcards, folder or _folder_of(config.prompts_file), named)
    probes = Probes()
    probes.look_at_all((place for e in entries for place in media_of(e, e.values)), looking)
    takes: dict[str, Row] = {}
    places: dict[str, str] = {}
    faults: dict[str, str] = {}
    twice: dict[str, None] = {}
    for entry in entries:
        try:
            for own in combinations(entry.values, matrix):
                asked = replace(entry, values={**_without_clash(of_all, own), **own})
                for take in _takes_of(config, asked, own, templates, probes):
                    if (first := takes.setdefault(take["id"], take)) is not take:
                        twice[_twice(entry.place, places[take["id"]], take, first, bool(matrix))] = None
                    places.setdefault(take["id"], entry.place)
        except BadInput as bad:
            faults[entry.place] = str(bad)
    ordered = sorted(takes.values(), key=lambda t: -t["priority"])
    rows = [{**take, "position": i} for i, take in enumerate(ordered)]
    return Asked(where, rows, places, tuple(e.place for e in entries), faults, _remarks(list(twice)))


def _folder_of(prompts_file: str) -> Path | None:
    """The local folder of a file of prompts, the working folder where there is none."""
    if "://" in prompts_file:
        return None
    return Path(prompts_file).expanduser().parent if prompts_file else Path.cwd()


def _twice(place: str, before: str, take: Row, first: Row, spanned: bool = False) -> str:
    """What is said of a take that is there already."""
    tags = "; the tags of the first count" if take["tags"] != first["tags"] else ""
    if place == before and spanned:
        return f"{place}, seed {take['seed']}: the matrix gives the same take twice; there is one video for it"
    if place == before:
        return f"{place}: seed {take['seed']} is given twice; there is one video for it"
    return f"{place}, seed {take['seed']}: the same take as {before}; there is one video for both{tags}"


def _remarks(lines: Sequence[str]) -> tuple[str, ...]:
    left = len(lines) - MOST_REMARKS
    more = (f"and {counted(left, 'more take')} that {'is' if left == 1 else 'are'} there already",) if left > 0 else ()
    return (*lines[:MOST_REMARKS], *more)


def _without_clash(of_all: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt with a `seed` of its own has no use for the campaign's `seeds`, one without a video none for `level`."""
    without = {"seeds"} if "seed" in values else set()
    without |= set() if "video" in values or "video" in of_all else {"level"}
    return {k: v for k, v in of_all.items() if k not in without}


APPLIED = {
    "conditions": ("to be made after pictures or videos", "tiny"),
    "longer": ("to be longer (`longer`)", "tiny"),
    "footage": ("to follow edges or motion of footage (`control`)", "plain"),
}
"""Columns that only steps act on which apply to takes that have them, in words, and a cascade that has such a step."""


SETTING = re.compile(r"[\w-]+\.\w")
"""How what is said of a setting begins: with its key, such as `base.lora.path`."""


def check_takes(asked: Asked, cascade: Mapping[str, StepRef], run: Mapping[str, StepRef]) -> None:
    """Ask every step that is run whether it can make what the takes ask for, and the cascade whether any step does.

    Raises one BadInput that names the place of every prompt that cannot be used; what is wrong with all prompts, or
    with a setting of a step, is said once.
    """
    found: dict[str, dict[str, None]] = {place: {} for place in asked.places.values()}
    with offers_kept():
        refusals = list(_refusals(asked.takes, cascade, run))
    for take, said in refusals:
        if SETTING.match(said):
            raise BadInput(said)
        found[asked.places[take["id"]]][said] = None
    each = list(found.values())
    shared = [said for said in each[0] if all(said in others for others in each)] if len(each) > 1 else []
    if shared and not asked.faults:
        raise BadInput(f"{asked.where}: {'; '.join(shared)}")
    faults = asked.faults | {place: f"{place}: {'; '.join(said)}" for place, said in found.items() if said}
    if faults:
        raise_faults([faults[place] for place in asked.prompts if place in faults], len(asked.prompts))


def _refusals(
    takes: Sequence[Row], cascade: Mapping[str, StepRef], run: Mapping[str, StepRef]
) -> Iterator[tuple[Row, str]]:
    """What the cascade or a step says of a take that it cannot make. A step is asked once for equal values."""
    yield from _not_applied(takes, cascade)
    for name, ref in run.items():
        cls = load_class(ref.use, name)
        if not issubclass(cls, Step):
            continue
        inputs = cls.inputs(ref.config)
        told: dict[str, str] = {}
        for take in takes:
            values = {c: take.get(c) for c in (*inputs.depends, *inputs.carries) if c not in ("seed", "media")}
            mark = repr(values)
            if inputs.when and not any(take.get(c) for c in inputs.when):
                continue
            if mark not in told:
                told[mark] = _refusal(cls, ref.config, values)
            if told[mark]:
                yield take, told[mark]


def _refusal(cls: type[Step], config: Any, values: Row) -> str:
    try:
        cls.check_unit(config, values)
    except BadInput as bad:
        return str(bad)
    return ""


def _not_applied(takes: Sequence[Row], cascade: Mapping[str, StepRef]) -> Iterator[tuple[Row, str]]:
    classes = [(load_class(ref.use, name), ref.config) for name, ref in cascade.items()]
    read = [cls.inputs(config) for cls, config in classes if issubclass(cls, Step)]
    applied = {c for inputs in read for c in inputs.when}
    # A step that is handed the take alone, whatever it holds, acts on all that it reads.
    applied |= {c for inputs in read if not (inputs.when or inputs.ports) for c in inputs.depends}
    for column, (what, named) in APPLIED.items():
        if column not in applied:
            said = f"it asks {what}, and the cascade has no step for that; configs/cascades/{named}.yaml has one"
            yield from ((take, said) for take in takes if take.get(column))


def _takes_of(
    config: TakesConfig, entry: Entry, own: Mapping[str, Any], templates: Templates, probes: Probes
) -> Iterable[Row]:
    """The takes of one prompt. Raises BadInput that names its place."""
    drawn = templates.needs_seed(entry.values)
    texts = {} if drawn or entry.fault else _placed_texts(entry, own, templates)
    kept = {k: v for k, v in entry.values.items() if k in CHECKS or k not in templates.named}
    values = checked(replace(entry, values={**kept, **texts}))
    conditions, media = conditions_of(values, entry, probes)
    take = {
        "campaign": config.name,
        "prompt": values["prompt"].strip(),
        "negative_prompt": values.get("negative_prompt", "").strip(),
        **{name: values.get(name) for name in SETTINGS},
        "conditions": conditions or None,
        "footage": _footage(values, conditions),
        "media": media or None,
        "tags": values.get("tags", []),
    }
    take |= {"longer": None if take["longer"] == 1 else take["longer"], "priority": take["priority"] or 0}
    take |= {"fit": take["fit"] if conditions else None}
    for seed in _seeds(values, config.seed):
        row = {**take, "seed": seed, **(_drawn_texts(entry, own, templates, seed) if drawn else {})}
        yield {"id": take_id(row), **row}


def _placed_texts(entry: Entry, own: Mapping[str, Any], templates: Templates, seed: int = 0) -> dict[str, str]:
    try:
        return templates.texts(entry.values, own, seed)
    except BadInput as bad:
        raise BadInput(f"{entry.place}: {bad}") from None


def _drawn_texts(entry: Entry, own: Mapping[str, Any], templates: Templates, seed: int) -> dict[str, str]:
    """What a prompt says with this seed, checked like any other."""
    texts = check_entry(f"{entry.place}, seed {seed}", _placed_texts(entry, own, templates, seed))
    return {key: text.strip() for key, text in texts.items()}


def _footage(values: Mapping[str, Any], conditions: Sequence[Row]) -> str | None:
    """The SHA-256 of the footage of a control, None where the signal itself is given."""
    if not (values.get("control") or {}).get("footage"):
        return None
    return next(str(c["sha256"]) for c in conditions if c["kind"] == "control")


def _seeds(values: Mapping[str, Any], offset: int) -> list[int]:
    """`seed: 7` is this one; `seeds: 3` three of them, counted from the offset; `seeds: [7, 9]` these."""
    if "seed" in values:
        return [values["seed"]]
    seeds = values.get("seeds", 1)
    return [offset + i for i in range(seeds)] if isinstance(seeds, int) else seeds


def take_id(take: Mapping[str, Any]) -> str:
    """The identity of a take: all that it asks for. Where files lie, its tags and its place in line are no part."""
    return digest("take", {k: v for k, v in take.items() if k not in NOT_IDENTITY and v is not None})


def with_media(catalog: Catalog, takes: Sequence[Row]) -> list[Row]:
    """The takes, with the files of their conditions kept in the store, under the hashes of what is in them."""
    kept: dict[str, str] = {}
    for medium in (m for t in takes for m in t.get("media") or ()):
        if medium["sha256"] not in kept:
            data = read_named(medium["uri"])
            if hashlib.sha256(data).hexdigest() != medium["sha256"]:
                raise BadInput(f"{medium['uri']} has changed since it was looked at; run again")
            suffix = PurePosixPath(medium["uri"]).suffix.lower()
            kept[medium["sha256"]] = catalog.storage.put_media(data, suffix)["uri"]
    return [
        {**t, "media": [{**m, "uri": kept[m["sha256"]]} for m in t["media"]]} if t.get("media") else t for t in takes
    ]
