"""What a campaign asks for, one row per take: every prompt with every seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stages.core.config import nearest
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.media import BadMedia, read_picture
from stages.core.step import Row
from stages.core.weights.digests import file_digest

if TYPE_CHECKING:
    from flows.render.campaign import RenderConfig

TAKES = pa.schema(
    [
        ("id", pa.string()),
        ("position", pa.int64()),
        ("campaign", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("tags", pa.list_(pa.string())),
        ("prompt_id", pa.string()),
        ("image", pa.string()),
        ("image_sha256", pa.string()),
        ("image_uri", pa.string()),
    ]
)
PROMPT_KEYS = ("prompt", "negative_prompt", "seeds", "tags", "image")


def expand(config: RenderConfig, where: str) -> list[Row]:
    """One row per take: every prompt with every seed. Raises BadInput naming the prompt or line that is wrong."""
    entries = [(f"{where}: prompts[{i}]", p) for i, p in enumerate(config.prompts)] + _from_file(config.prompts_file)
    if not entries:
        raise BadInput(f"{where}: there are no prompts; give `prompts:` a list, or --prompt TEXT")
    takes: dict[str, Row] = {}
    for place, entry in entries:
        for take in _takes_of(config, place, entry):
            takes.setdefault(take["id"], {**take, "position": len(takes)})
    return list(takes.values())


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


def _takes_of(config: RenderConfig, place: str, entry: Any) -> list[Row]:
    given = dict(entry) if isinstance(entry, Mapping) else {"prompt": entry}
    for key in given:
        if key not in PROMPT_KEYS:
            raise BadInput(f"{place}: unknown key {key!r}; {nearest(str(key), PROMPT_KEYS)}")
    prompt = given.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput(f"{place}: the prompt is empty or no text: {prompt!r}")
    negative = given.get("negative_prompt", config.negative_prompt)
    if not isinstance(negative, str):
        raise BadInput(f"{place}: negative_prompt is no text: {negative!r}")
    prompt, negative = prompt.strip(), negative.strip()
    seeds = parse_seeds(given.get("seeds", config.seeds), config.seed, place)
    tags = [str(t) for t in given.get("tags", config.tags)]
    image = find_image(given.get("image", config.image), place)
    return [_take(config.name, prompt, negative, seed, tags, image) for seed in seeds]


def find_image(name: Any, place: str) -> tuple[str, str]:
    """Path and SHA-256 of a picture, ("", "") for none. Raises BadInput for what is none."""
    if not name:
        return "", ""
    path = Path(str(name)).expanduser()
    try:
        read_picture(path.read_bytes(), 16, 16)
    except (OSError, BadMedia) as error:
        raise BadInput(f"{place}: image {path}: {getattr(error, 'strerror', None) or error}") from None
    return str(path.resolve()), file_digest(path)


def _take(campaign: str, prompt: str, negative: str, seed: int, tags: list[str], image: tuple[str, str]) -> Row:
    own = [image[1]] if image[1] else []  # a take without an image keeps the identity that it always had
    return {
        "id": digest("take", campaign, prompt, negative, seed, *own),
        "campaign": campaign,
        "prompt": prompt,
        "negative_prompt": negative,
        "seed": seed,
        "tags": tags,
        "prompt_id": digest("prompt", prompt, negative, *own),
        "image": image[0],
        "image_sha256": image[1],
        "image_uri": "",
    }


def parse_seeds(value: Any, offset: int, place: str) -> list[int]:
    """`3` means three seeds counted from the offset, `[7, 9]` means these. Raises BadInput for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return [offset + i for i in range(value)]
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if given and all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**63 for s in given):
        return list(dict.fromkeys(given))
    raise BadInput(f"{place}: seeds must be a count from 1, or a list of integers from 0 to 2**63-1, not {value!r}")


def with_images(catalog: Catalog, takes: Sequence[Row]) -> list[Row]:
    """The takes, with the pictures that they begin with kept in the store."""
    kept: dict[str, str] = {}
    for path, sha in {(t["image"], t["image_sha256"]) for t in takes if t["image"]}:
        kept[sha] = catalog.storage.put_media(Path(path).read_bytes(), Path(path).suffix.lower())["uri"]
    return [{**t, "image_uri": kept.get(t["image_sha256"], "")} for t in takes]
