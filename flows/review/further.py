"""Campaigns that ask for more: approved takes through all stages, more seeds of a prompt, a seed with another setting.

The page starts no render. It gives a campaign file that asks for just these takes, with the settings that they were
made with, and the command that renders it: what is there already is not made again.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from flows.render.campaign import load_campaign
from flows.render.entries import CHECKS, LARGEST_SEED
from flows.render.export import export_name
from flows.render.takes import TAKES
from flows.words import counted, listed
from stages.core.config_files import find_config, parse_overrides, read_yaml
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.binding import make_plan
from stages.core.running.runs import RunRecord
from stages.core.step import Row

PLAIN = ("width", "height", "frames", "fps", "guidance", "longer", "fit")
MOST_SEEDS = 1000
PLACES = {
    ("still", "first"): "image",
    ("still", "last"): "last_image",
    ("source", None): "video",
    ("clip", "mask"): "mask",
}
"""Kind and role of a condition -> the key of a prompt that holds its file."""


def prompt_of(unit: Row, catalog: Catalog) -> Row:
    """A take as a prompt of a campaign, with all that it asks for but its seed. Raises BadInput for what no prompt can
    say."""
    found: Row = {"prompt": unit["prompt"]}
    found |= {"negative_prompt": unit["negative_prompt"]} if unit.get("negative_prompt") else {}
    found |= {name: unit[name] for name in PLAIN if unit.get(name) is not None}
    where = {m["sha256"]: catalog.storage.place(m["uri"]) for m in unit.get("media") or ()}
    for condition in unit.get("conditions") or ():
        kind, role, place = condition["kind"], condition["role"], where.get(condition["sha256"], "")
        if key := PLACES.get((kind, role)):
            found[key] = place
            found |= {"level": condition["level"]} if condition["level"] is not None else {}
        elif role == "keyframe":
            found.setdefault("keyframes", {})[condition["frame"]] = place
        elif kind == "reference":
            found.setdefault("references", []).append(place)
        elif kind == "control":
            medium = "footage" if unit.get("footage") == condition["sha256"] else "video"
            more = {k: condition[k] for k in ("scale", "start", "end") if condition[k] is not None}
            found["control"] = {"signal": role, medium: place, **more}
        else:
            raise BadInput(f"no campaign file can say {kind} {role or ''}; change the campaign that the take is of")
    found |= {"tags": list(unit["tags"])} if unit.get("tags") else {}
    return found | ({"priority": unit["priority"]} if unit.get("priority") else {})


def grouped(units: Sequence[Row], catalog: Catalog) -> list[Row]:
    """Takes as prompts, those that differ in their seed alone as one."""
    found: dict[str, Row] = {}
    for unit in units:
        entry = prompt_of(unit, catalog)
        found.setdefault(json.dumps(entry, sort_keys=True, default=str), {**entry, "seeds": []})["seeds"].append(
            unit["seed"]
        )
    return list(found.values())


def more_seeds(unit: Row, others: Sequence[Row], count: int, catalog: Catalog) -> list[Row]:
    """The prompt of a take with so many new seeds: those after the largest that its prompt has. Raises BadInput."""
    if not 1 <= count <= MOST_SEEDS:
        raise BadInput(f"give 1 to {MOST_SEEDS} seeds, not {count}")
    first = max(u["seed"] for u in (unit, *others) if u["prompt"] == unit["prompt"]) + 1
    if first + count - 1 > LARGEST_SEED:
        raise BadInput(f"the largest seed is {LARGEST_SEED}, and this prompt has come up to it")
    return [{**prompt_of(unit, catalog), "seeds": list(range(first, first + count))}]


def split_settings(words: str) -> tuple[Row, Row]:
    """`guidance=4 refine.strength=0.3` -> the keys of a prompt, and the settings of steps. Raises BadInput."""
    try:
        given = shlex.split(words)
    except ValueError as error:
        raise BadInput(f"settings: {error}") from None
    if not given:
        raise BadInput("say which setting is to change, such as guidance=4 or base.sampling.steps=20")
    plain: Any = OmegaConf.to_container(parse_overrides(given), resolve=False)
    of_prompt = {k: v for k, v in plain.items() if k in CHECKS and k not in ("prompt", "seeds", "tags")}
    return of_prompt, {k: v for k, v in plain.items() if k not in of_prompt}


def campaign_text(
    catalog: Catalog,
    record: RunRecord,
    prompts: Sequence[Row],
    what: str,
    *,
    whole: bool,
    changed: Mapping[str, Any] | None = None,
) -> Row:
    """A campaign file for these prompts, with the settings of a run: its `name`, its `text`, the `command` that renders
    it, and `remarks` on what a person should look at first.

    what: for the file's name and first line; whole: through all stages of the cascade, also those that the run left
    out; changed: settings on top of the run's
    """
    run = json.loads(record.row["config"])
    body: Row = {"name": run["name"], "cascade": run["cascade"]}
    body |= {"model": run["model"]} if run.get("model") else {}
    body |= {"gates": run["gates"]} if run.get("gates") and not whole else {}
    body |= {"until": run["until"]} if run.get("until") and not whole else {}
    steps, own = _steps(run, whole)
    body |= {"steps": steps} if steps else {}
    changed = changed or {}
    of_steps = {k: v for k, v in changed.items() if k in steps}
    on_top = {**{k: v for k, v in changed.items() if k not in steps}, "steps": of_steps}
    merged: Any = OmegaConf.to_container(OmegaConf.merge(body, on_top), resolve=False)
    text = yaml.safe_dump({**merged, "prompts": list(prompts)}, sort_keys=False, allow_unicode=True, width=110)
    takes = sum(len(p["seeds"]) for p in prompts)
    text = f"# {what}: {counted(takes, 'take')}, with the settings of run {record.row['run_id']}\n{text}"
    name = f"{_file_word(run['name'])}-{_file_word(what)}.yaml"
    store = shlex.quote(catalog.storage.url)
    remarks = [*own, *_faults(text, catalog, record, expected=not (whole or changed))]
    return {"name": name, "text": text, "command": f"rushes render {name} --store {store}", "remarks": remarks}


def _steps(run: Row, whole: bool) -> tuple[Row, list[str]]:
    """The settings of the run's steps, and what cannot be said of them. A step that the run left out stays out, unless
    the whole cascade is wanted."""
    try:
        cascade = list(read_yaml(find_config(run["cascade"], "cascades")).get("steps") or {})
    except BadInput as bad:
        return {}, [f"the cascade of the run cannot be read ({bad}): say `cascade:` in the file"]
    steps = {n: {k: v for k, v in e.items() if k != "model"} for n, e in run["steps"].items() if n in cascade}
    if not whole:
        steps |= {name: {"enabled": False} for name in cascade if name not in run["steps"]}
    further = [n for n in run["steps"] if n not in cascade] if not run.get("gates") else []
    return steps, [f"the run had further steps, which are not in this file: {listed(further)}"] if further else []


def _faults(text: str, catalog: Catalog, record: RunRecord, expected: bool) -> list[str]:
    """What keeps this file from being rendered, or from using what is there already."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "campaign.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            campaign = load_campaign([path], {}, [], catalog.storage.address)
        except BadInput as bad:
            return [str(bad).replace(str(path), "this file")]
    marks = {n.name: n.fingerprint for n in make_plan("render", "", campaign.steps, TAKES.names).nodes}
    was = {n.name: n.fingerprint for n in record.plan.nodes}
    other = [name for name in was if marks.get(name) != was[name]]
    return [f"these steps are not as in the run, and are made anew: {listed(other)}"] if expected and other else []


def _file_word(text: str) -> str:
    """A text as part of a file's name."""
    return export_name({"prompt": text, "seed": 0, "id": ""}).partition("-s0-")[0][:40]
