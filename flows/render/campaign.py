"""Prompts to finished video: a campaign's takes through the steps of a cascade."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from flows.render.conditions import named_places, rebase
from flows.render.delivery import DeliverConfig, Delivery, check_delivery, plain_name
from flows.render.gates import with_gates
from flows.render.probing import Looking
from flows.render.takes import SIZES, TAKES, TakesConfig, check_takes, expand, with_media
from flows.run.promoted import resolve_promoted
from flows.run.settings import ResolvedConfig
from stages.core.config import load_class, merge
from stages.core.config_files import find_config, parse_overrides, read_yaml, shielded
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.planning.binding import make_plan, until
from stages.core.planning.plan import Plan
from stages.core.reach.policy import begin
from stages.core.reach.secrets import bare
from stages.core.step import Row, Step, StepRef
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import offers_of

FLOW = "render"


@dataclass
class RenderConfig(TakesConfig):
    """A campaign: its takes, and the cascade and model that make them.

    cascade  name of a file in configs/cascades, or a path
    model    name of a file in configs/models, or a path, or a mapping of the keys of
             `stages.core.weights.checkpoint.ModelConfig`
    gates    which takes go on behind a step: a list of mappings such as `{after: base, top: 1, per: prompt, by:
             sharpness}`, with `threshold`, `review` or `all` in the place of `top` and `by`
    deliver  how `--export` delivers finished videos
    """

    cascade: str = "tiny"
    model: Any = None
    gates: Any = None
    deliver: DeliverConfig = field(default_factory=DeliverConfig)


C = TypeVar("C", bound=RenderConfig)


@dataclass(frozen=True)
class Campaign(ResolvedConfig):
    """A checked campaign: its settings, the steps of its cascade, one row per take, and what a person should know of
    its prompts."""

    config: RenderConfig
    steps: dict[str, StepRef]
    takes: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    delivery: Delivery = field(default_factory=lambda: Delivery(DeliverConfig()))

    def plan(self, catalog: Catalog) -> Plan:
        """The plan of this campaign; keeps the takes as the roots of the store's next run."""
        plan = make_plan(FLOW, "", self.steps, TAKES.names)
        takes = with_media(catalog, self.takes[: self.config.limit] if self.config.limit else self.takes)
        mark = digest("takes", [[t["id"], t["position"], t["tags"], t["media"]] for t in takes])
        return dataclasses.replace(plan, roots=catalog.put_roots(takes, TAKES, mark, plan.phases[0].depends))


def load_campaign(
    files: Sequence[str | Path],
    values: Mapping[str, Any],
    overrides: Sequence[str],
    store: str = "",
    looking: Looking | None = None,
) -> Campaign:
    """Merge cascade < campaign file < values < overrides and check all of it. Raises BadInput before any work.

    store: where results go; prompts may name files on the same kind of store. looking: told how many of the pictures
    and videos that prompts name have been looked at."""
    named = on_top(values, overrides)
    layers = [*((str(path), anchored(find_config(path, "campaigns"))) for path in files), *named]
    trust_named((find_config(path, "campaigns").resolve().parent for path in files), named, store)
    config, steps = resolve(RenderConfig, layers)
    whole = steps = with_gates(config.gates, steps)
    if config.until:
        steps = until(steps, config.until)
    fill_defaults(config, steps)
    check_delivery(config.deliver)
    folder = find_config(files[0], "campaigns").resolve().parent if files else None
    asked = expand(config, str(files[0]) if files else "the command line", folder, looking)
    check_takes(asked, whole, run=steps)
    named_model = next((v["model"] for _, v in reversed(layers) if isinstance(v.get("model"), str)), "")
    about = {"model": plain_name(named_model, "tiny"), "cascade": plain_name(config.cascade, "tiny")}
    delivery = Delivery(config.deliver, tuple(asked.takes), about)
    remarks = (*asked.remarks, *filter(None, [delivery.remark]))
    return Campaign(config, steps, tuple(asked.takes), remarks, delivery)


def fill_defaults(config: TakesConfig, steps: Mapping[str, StepRef]) -> None:
    """Give takes what their checkpoint was made for, where neither campaign nor cascade says anything."""
    model = next(
        (m for ref in steps.values() if isinstance(m := getattr(ref.config, "model", None), ModelConfig)), None
    )
    if model is None or all(getattr(config, name) is not None for name in SIZES):
        return
    for name, value in offers_of(model).defaults.items():
        if getattr(config, name) is None:
            setattr(config, name, value)


def trust_named(folders: Iterable[Path], layers: Iterable[tuple[str, Any]], store: str = "") -> None:
    """Begin with the operator's rules: prompts may name what lies below these folders, and what the layers, which are
    the command line's, name themselves."""
    reach = begin()
    reach.allow_store(store)
    for folder in folders:
        reach.trust(folder)
    for _, layer in layers:
        prompts = [p for p in layer.get("prompts") or () if isinstance(p, Mapping | DictConfig)]
        for place in (place for holder in (layer, *prompts) for place in named_places(holder)):
            reach.trust_file(place)
        if (listed := layer.get("prompts_file")) and isinstance(listed, str):
            reach.trust(bare(listed).rpartition("/")[0] if "://" in listed else Path(listed).expanduser().parent)


def anchored(path: Path) -> Any:
    """What a campaign file says. Its relative paths count from the folder in which it lies; a cascade, a model or a
    checkpoint is taken from there where it is there, because these may be names as well."""
    layer, folder = read_yaml(path), path.resolve().parent
    for holder in (layer, *(p for p in layer.get("prompts") or () if OmegaConf.is_dict(p))):
        for key in ("prompts_file", "videos", "captions", "reference"):
            value = holder.get(key)
            if isinstance(value, str) and value and "://" not in value:
                holder[key] = str(folder / Path(value).expanduser())
        rebase(holder, lambda value: value if "://" in value else str(folder / Path(value).expanduser()))
    model = layer.get("model")
    parts: Any = model.get("parts") if OmegaConf.is_dict(model) else None
    further = tuple(str(name) for name in parts) if OmegaConf.is_dict(parts) else ()
    holders: list[tuple[Any, tuple[str, ...]]] = [
        (layer, ("cascade", "model")),
        (model, ("checkpoint", "vae")),
        (parts, further),
    ]
    for holder, keys in holders:
        for key in keys if OmegaConf.is_dict(holder) else ():
            value = holder.get(key)
            if isinstance(value, str) and value and (folder / value).exists():
                holder[key] = str(folder / value)
    return layer


def on_top(values: Mapping[str, Any], overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """What the command line says, as layers; each override is its own, for `model=x` beside `model.dtype=y`."""
    own: list[tuple[str, Any]] = [("the command line", shielded(values))]
    return own + [("the command line", parse_overrides([word])) for word in overrides]


def resolve(
    schema: type[C], layers: Sequence[tuple[str, Any]], behind: Mapping[str, Any] | None = None
) -> tuple[C, dict[str, StepRef]]:
    """Put the cascade that the layers name under them, `behind` it, and check all. Raises BadInput."""
    layers = [(where, resolve_promoted(layer)) for where, layer in layers]
    path = find_config(_last(layers, "cascade") or RenderConfig.cascade, "cascades")
    below = [(str(path), read_yaml(path)), ("the flow", dict(behind or {}))]
    config, steps = merge(schema, _with_model([*below, *layers]))
    return config, {name: ref for name, ref in steps.items() if _needed(name, ref)}


def _needed(name: str, ref: StepRef) -> bool:
    """Whether the plan has any use for a step: a family that reads no text has none for `text`."""
    cls = load_class(ref.use, name)
    return not issubclass(cls, Step) or cls.needed(ref.config)


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
