"""Prompts to finished video: a campaign's takes through text -> base -> spatial -> temporal -> refine -> decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from flows.render.takes import TAKES, expand, with_images
from flows.run.promoted import resolve_promoted
from flows.run.settings import FlowConfig
from stages.core.config import find_config, merge, parse_overrides, read_yaml
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.plan import ROOT_UNITS, Node, Phase, Plan, make_node
from stages.core.step import Row, StepRef

FLOW = "render"
FIRST_FRAME = {
    "use": "stages.condition:FirstFrame",
    "enabled": True,
    "model": "${model}",
    **{name: f"${{steps.base.{name}}}" for name in ("width", "height", "fps")},
}
EXTEND = {
    "use": "stages.extend:Extend",
    "enabled": True,
    "model": "${model}",
    "sampling": "${steps.base.sampling}",
    "lora": "${oc.select:steps.base.lora,{}}",
}
ON_DEMAND = ("condition", "extend")
"""Steps that a campaign's takes ask for. A cascade may keep settings for them, with `enabled: false`."""


@dataclass
class RenderConfig(FlowConfig):
    """A campaign.

    prompts          texts, or mappings with `prompt` and optionally `negative_prompt`, `seeds`, `tags`, `image`
    prompts_file     one prompt a line (.txt), or one such mapping a line (.jsonl), after those of `prompts`
    seeds            how many takes of each prompt, or the list of their seeds
    seed             added to every seed of a count: another number gives other takes
    image            a picture that clips begin with; prompts may name their own
    longer           how many times the length that base makes at once: 3 goes on twice from the end of what is there
    cascade, model   names below configs/cascades and configs/models, or files; `model` may be a mapping
    """

    name: str = "render"
    prompts: list[Any] = field(default_factory=list)
    prompts_file: str = ""
    seeds: Any = 1
    seed: int = 0
    negative_prompt: str = ""
    tags: list[str] = field(default_factory=list)
    image: str = ""
    longer: int = 1
    cascade: str = "tiny"
    model: Any = None


C = TypeVar("C", bound=RenderConfig)


def load_campaign(files: Sequence[str | Path], values: Mapping[str, Any], overrides: Sequence[str]) -> Campaign:
    """Merge cascade < campaign file < values < overrides and check all of it. Raises BadInput before any work."""
    layers: list[tuple[str, Any]] = [(str(path), read_yaml(find_config(path, "campaigns"))) for path in files]
    layers += on_top(values, overrides)
    config, steps = resolve(RenderConfig, layers)
    takes = expand(config, str(files[0]) if files else "the command line")
    if wanted := more_stages(config, steps, takes):
        config, steps = resolve(RenderConfig, layers, wanted)
    return Campaign(config, in_order(steps), tuple(takes))


def more_stages(config: RenderConfig, steps: Mapping[str, StepRef], takes: Sequence[Row]) -> dict[str, Any]:
    """The stages that a campaign needs beyond its cascade: for first frames, and for clips longer than base's.

    Raises BadInput where the cascade has no `text` and `base` to put them between.
    """
    if config.longer < 1:
        raise BadInput(f"longer counts from 1, it is {config.longer}")
    found: dict[str, Any] = {}
    if any(t["image"] for t in takes):
        found |= {"condition": {**FIRST_FRAME, "after": ["text"]}, "base": {"after": ["condition", "text"]}}
    if config.longer > 1:
        found |= {"extend": {**EXTEND, "times": config.longer, "after": ["base", "text"]}}
    if found and not {"text", "base"} <= set(steps):
        raise BadInput("image and longer need a cascade with the steps `text` and `base`")
    return {"steps": found} if found else {}


def in_order(steps: Mapping[str, StepRef]) -> dict[str, StepRef]:
    """The steps with `condition` before `base`, and `extend` behind it."""
    names = [n for n in steps if n not in ON_DEMAND]
    place = names.index("base") if "base" in names else 0
    names[place : place + 1] = [n for n in ("condition", *names[place : place + 1], "extend") if n in steps]
    return {n: steps[n] for n in names}


def on_top(values: Mapping[str, Any], overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """What the command line says, as layers; each override is its own, for `model=x` beside `model.dtype=y`."""
    given: list[tuple[str, Any]] = [("the command line", dict(values))]
    return given + [("the command line", parse_overrides([word])) for word in overrides]


def resolve(
    schema: type[C], layers: Sequence[tuple[str, Any]], extra: Mapping[str, Any] | None = None
) -> tuple[C, dict[str, StepRef]]:
    """Put the cascade that the layers name, then `extra`, under them, and check all. Raises BadInput."""
    layers = [(where, resolve_promoted(layer)) for where, layer in layers]
    path = find_config(_last(layers, "cascade") or RenderConfig.cascade, "cascades")
    cascade = read_yaml(path)
    known = {n: {"enabled": False} for n in ON_DEMAND if n not in (cascade.get("steps") or {})}
    below = [(str(path), cascade), ("the flow", {"steps": known}), ("the flow", dict(extra or {}))]
    return merge(schema, _with_model([*below, *layers]))


def _last(layers: Sequence[tuple[str, Any]], key: str) -> Any:
    found = [values[key] for _, values in layers if key in values]
    return found[-1] if found else None


def _with_model(layers: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Put the model that is named last under everything; mappings given beside the name change single fields of it."""
    names = [v["model"] for _, v in layers if isinstance(v.get("model"), str)]
    path = find_config(names[-1] if names else "tiny", "models")
    model = read_yaml(path)
    return [(str(path), {"model": model}), *((where, _without_name(values)) for where, values in layers)]


def _without_name(values: Any) -> DictConfig:
    """A copy without the model's name; `${...}` in it stays as it is."""
    copy = OmegaConf.create(OmegaConf.to_container(OmegaConf.create(values), resolve=False))
    assert isinstance(copy, DictConfig)
    if isinstance(copy.get("model"), str):
        del copy["model"]
    return copy


@dataclass(frozen=True)
class Campaign:
    """A checked campaign: its settings, the steps of its cascade, and one row per take."""

    config: RenderConfig
    steps: dict[str, StepRef]
    takes: tuple[Row, ...]

    def plan(self, catalog: Catalog) -> Plan:
        """The plan of this campaign; keeps the takes as the roots of the store's next run."""
        takes = with_images(catalog, self.takes[: self.config.limit] if self.config.limit else self.takes)
        roots = catalog.put_roots(takes, TAKES, digest([{k: v for k, v in t.items()} for t in takes]))
        nodes, refs = chain(self.steps)
        return Plan(FLOW, roots, (Phase("takes", ROOT_UNITS, tuple(nodes)),), refs)


def chain(steps: Mapping[str, StepRef]) -> tuple[list[Node], dict[str, StepRef]]:
    """The cascade as nodes: each stage after the one before it unless its entry says `after`."""
    nodes: list[Node] = []
    refs: dict[str, StepRef] = {}
    for name, ref in steps.items():
        after = tuple(ref.extra.get("after", ())) or ((nodes[-1].name,) if nodes else ())
        node, refs[name] = make_node(ref, after, key="id" if after else "prompt_id")
        nodes.append(node)
    return nodes, refs


def as_plain(config: RenderConfig, steps: Mapping[str, StepRef]) -> dict[str, Any]:
    """The resolved config, as it is stored with the run and printed by --dry-run."""
    entries = {n: {"use": r.use, **dataclasses.asdict(r.config)} for n, r in steps.items()}
    return {**dataclasses.asdict(config), "steps": entries}
