"""What a campaign asks for, one row per take: every prompt with every seed, all that a take may set filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.run.settings import FlowConfig
from stages.core.config import load_class, nearest
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.latents.artifacts import CONDITION, MEDIUM
from stages.core.ledger.catalog import Catalog
from stages.core.media import BadMedia, read_picture
from stages.core.step import Row, Step, StepRef
from stages.core.weights.digests import file_digest

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
        ("conditions", pa.list_(CONDITION)),
        ("media", pa.list_(MEDIUM)),
        ("tags", pa.list_(pa.string())),
        ("priority", pa.int64()),
    ]
)
"""Nulls are what a take does not have: no `longer`, no conditions. Sizes in pixels, fps in frames a second."""

SETTINGS = ("width", "height", "frames", "fps", "guidance", "longer", "priority")
"""What prompts may set for themselves, and campaigns and cascades for all."""
PROMPT_KEYS = ("prompt", "negative_prompt", "seeds", "tags", "image", *SETTINGS)
NOT_IDENTITY = ("id", "position", "media", "tags", "priority")


@dataclass
class TakesConfig(FlowConfig):
    """What a campaign says of its takes.

    prompts          texts, or mappings with `prompt` and optionally `negative_prompt`, `seeds`, `tags`, `image`, and
                     what stands below from `width` on
    prompts_file     one prompt a line (.txt), or one such mapping a line (.jsonl), after those of `prompts`
    seeds            how many takes of each prompt, or the list of their seeds
    seed             added to every seed of a count: another number gives other takes
    image            a picture that clips begin with; prompts may name their own
    width, height    pixels of what base makes; frames: how many; fps: frames a second at playback
    guidance         classifier-free guidance scale of base; up to 1 there is none, and a pass costs half
    longer           how many times the length that base makes at once: 3 goes on twice from the end of what is there
    priority         takes with a higher one are made first
    """

    name: str = "render"
    prompts: list[Any] = field(default_factory=list)
    prompts_file: str = ""
    seeds: Any = 1
    seed: int = 0
    negative_prompt: str = ""
    tags: list[str] = field(default_factory=list)
    image: str = ""
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    guidance: float | None = None
    longer: int | None = None
    priority: int = 0


def expand(config: TakesConfig, where: str) -> list[Row]:
    """One row per take: every prompt with every seed. Raises BadInput naming the prompt or line that is wrong."""
    entries = [(f"{where}: prompts[{i}]", p) for i, p in enumerate(config.prompts)] + _from_file(config.prompts_file)
    if not entries:
        raise BadInput(f"{where}: there are no prompts; give `prompts:` a list, or --prompt TEXT")
    takes: dict[str, Row] = {}
    for place, entry in entries:
        for take in _takes_of(config, place, entry):
            takes.setdefault(take["id"], take)
    ordered = sorted(takes.values(), key=lambda t: -t["priority"])
    return [{**take, "position": i} for i, take in enumerate(ordered)]


def check_takes(takes: Sequence[Row], steps: Mapping[str, StepRef]) -> None:
    """Ask every step whether it can make what the takes ask for. Raises BadInput for the first that cannot."""
    for name, ref in steps.items():
        cls = load_class(ref.use, name)
        if not issubclass(cls, Step):
            continue
        inputs = cls.inputs(ref.config)
        seen: set[str] = set()
        for take in takes:
            values = {c: take.get(c) for c in inputs.depends if c != "seed"}
            mark = digest(values)
            if mark not in seen and (not inputs.when or any(take.get(c) for c in inputs.when)):
                seen.add(mark)
                cls.check_unit(ref.config, values)


def _from_file(name: str) -> list[tuple[str, Any]]:
    if not name:
        return []
    path = Path(name).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"prompts_file {path} cannot be read: {error}") from None
    placed = [(f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    return [(p, _json_line(p, line)) for p, line in placed] if path.suffix == ".jsonl" else list(placed)


def _json_line(place: str, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise BadInput(f"{place} is not JSON: {error}") from None


def _takes_of(config: TakesConfig, place: str, entry: Any) -> Iterable[Row]:
    values = dict(entry) if isinstance(entry, Mapping) else {"prompt": entry}
    for key in values:
        if key not in PROMPT_KEYS:
            raise BadInput(f"{place}: unknown key {key!r}; {nearest(str(key), PROMPT_KEYS)}")
    prompt = values.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput(f"{place}: the prompt is empty or no text: {prompt!r}")
    negative = values.get("negative_prompt", config.negative_prompt)
    if not isinstance(negative, str):
        raise BadInput(f"{place}: negative_prompt is no text: {negative!r}")
    conditions, media = _conditions(values.get("image", config.image), place)
    take = {
        "campaign": config.name,
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        **{name: _setting(name, values.get(name, getattr(config, name)), place) for name in SETTINGS},
        "conditions": conditions or None,
        "media": media or None,
        "tags": [str(t) for t in values.get("tags", config.tags)],
    }
    for seed in parse_seeds(values.get("seeds", config.seeds), config.seed, place):
        row = {**take, "seed": seed}
        yield {"id": take_id(row), **row}


def take_id(take: Mapping[str, Any]) -> str:
    """The identity of a take: all that it asks for. Where files lie, its tags and its place in line are no part."""
    return digest("take", {k: v for k, v in take.items() if k not in NOT_IDENTITY and v is not None})


def _setting(name: str, value: Any, place: str) -> Any:
    """A number of a take, checked; None where nothing is set. `longer: 1` is as long as ever, so nothing too."""
    if value is None:
        return None
    kind = TAKES.field(name).type
    whole = pa.types.is_integer(kind)
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and value != int(value)):
        raise BadInput(f"{place}: {name} must be a {'whole ' if whole else ''}number, not {value!r}")
    if name != "priority" and value < (0 if name == "guidance" else 1):
        raise BadInput(f"{place}: {name} counts from {0 if name == 'guidance' else 1}, it is {value}")
    if name == "longer" and value == 1:
        return None
    return int(value) if whole else float(value)


def _conditions(image: Any, place: str) -> tuple[list[Row], list[Row]]:
    """The conditions of a take, and where their files lie. Raises BadInput for what is no picture."""
    if not image:
        return [], []
    path, sha256 = find_image(image, place)
    return [{"kind": "still", "role": "first", "sha256": sha256, "frame": 0}], [{"sha256": sha256, "uri": path}]


def find_image(name: Any, place: str) -> tuple[str, str]:
    """Path and SHA-256 of a picture. Raises BadInput for what is none."""
    path = Path(str(name)).expanduser()
    try:
        read_picture(path.read_bytes(), 16, 16)
    except (OSError, BadMedia) as error:
        raise BadInput(f"{place}: image {path}: {getattr(error, 'strerror', None) or error}") from None
    return str(path.resolve()), file_digest(path)


def parse_seeds(value: Any, offset: int, place: str) -> list[int]:
    """`3` means three seeds counted from the offset, `[7, 9]` means these. Raises BadInput for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return [offset + i for i in range(value)]
    seeds = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if seeds and all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**63 for s in seeds):
        return list(dict.fromkeys(seeds))
    raise BadInput(f"{place}: seeds must be a count from 1, or a list of integers from 0 to 2**63-1, not {value!r}")


def with_media(catalog: Catalog, takes: Sequence[Row]) -> list[Row]:
    """The takes, with the files of their conditions kept in the store, under the hashes of what is in them."""
    kept: dict[str, str] = {}
    for medium in (m for t in takes for m in t.get("media") or ()):
        if medium["sha256"] not in kept:
            path = Path(medium["uri"])
            kept[medium["sha256"]] = catalog.storage.put_media(path.read_bytes(), path.suffix.lower())["uri"]
    return [
        {**t, "media": [{"sha256": m["sha256"], "uri": kept[m["sha256"]]} for m in t["media"]]} if t.get("media") else t
        for t in takes
    ]
