"""Configuration: YAML files merged over a checked schema, with errors that name the key and its nearest neighbour.

    schema (dataclass)  <  configs/x.yaml  <  configs/on/<where>.yaml  <  key=value overrides

A step entry is `{use: data_prep.scores.nsfw:Nsfw, frames: 3, resources: {cpus: 1}}`. `use` is an import path
inside our own packages; the other keys are checked against that class's `Config`. Below `steps`, the name may be left
out: `nsfw.frames=8` means `steps.nsfw.frames=8` where `base` is a step.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.core.config_files import LITERAL, as_written, nearest
from stages.core.errors import BadInput
from stages.core.step import Job, Resources, Step, StepRef

PACKAGES: tuple[str, ...] = ("stages.", "data_prep.")
STEPS = "steps"
ENTRY_KEYS = ("use", "resources", "enabled", "after", "before")
"""Keys of a step's entry that are no part of its `Config`."""

T = TypeVar("T")


def merge(
    schema: type[T], layers: Sequence[tuple[str, Mapping[str, Any] | DictConfig]]
) -> tuple[T, dict[str, StepRef]]:
    """Merge (where it comes from, values) layers over a schema dataclass, later ones winning.

    Returns the checked schema object and the steps of its `steps` mapping, in order. Raises BadInput for an unknown key
    or a wrong type, naming the layer it stands in.
    """
    merged, lifted = OmegaConf.create({}), list[tuple[str, DictConfig]]()
    fields = {f.name for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    names = _step_names(layers)
    for where, values in layers:
        layer = _lift(OmegaConf.create(values), where, fields, names)  # type: ignore[arg-type]
        try:
            checked = {k: v for k, v in layer.items() if k != STEPS}
            OmegaConf.merge(OmegaConf.structured(schema), _without_interpolations(checked))
            merged = OmegaConf.merge(merged, layer)  # type: ignore[assignment]
            lifted.append((where, layer))
        except OmegaConfBaseException as error:
            raise BadInput(_explain(where, error, fields)) from None
    try:
        return _finish(schema, merged, " and ".join(dict.fromkeys(where for where, _ in layers)))
    except BadInput as error:
        raise BadInput(_layer_of(str(error), lifted) + str(error)) from None


def _layer_of(said: str, layers: Sequence[tuple[str, DictConfig]]) -> str:
    """The beginning of a sentence about an unknown key of a step: the last layer that has the key; else ""."""
    match = re.match(r"(\w+)((?:\.\w+)*): unknown key '([^']+)'", said)
    path = f"{STEPS}.{match[1]}{match[2]}.{match[3]}" if match else ""
    found = [where for where, layer in layers if path and OmegaConf.select(layer, path, default=None) is not None]
    return f"{found[-1]}: " if found else ""


def _step_names(layers: Sequence[tuple[str, Any]]) -> set[str]:
    names: set[str] = set()
    for where, values in layers:
        entries = values.get(STEPS) or {}
        if not isinstance(entries, Mapping | DictConfig):
            raise BadInput(f"{where}: {STEPS} must hold a mapping for each step, not {entries!r}")
        names |= {str(name) for name in entries}
    return names


def _lift(layer: DictConfig, where: str, fields: set[str], names: set[str]) -> DictConfig:
    """Move `base: {...}` to `steps: {base: {...}}`; refuse keys that are neither a field nor a step."""
    for key in [str(k) for k in layer]:
        if key in fields or key == STEPS:
            continue
        if key not in names:
            raise BadInput(f"{where}: unknown key {key!r}; {nearest(key, fields | names)}")
        raw = OmegaConf.create({STEPS: {key: layer._get_node(key)}})
        del layer[key]
        layer = OmegaConf.merge(layer, raw)  # type: ignore[assignment]
    return layer


def _without_interpolations(values: Mapping[Any, Any]) -> DictConfig:
    """What can be type-checked layer by layer: `${...}` is only known after the merge."""
    kept = OmegaConf.create({})
    for key, value in values.items():
        node = OmegaConf.to_yaml(OmegaConf.create({"v": value}))
        if "${" not in node:
            kept[key] = value
    return kept


KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false", "String": "a text"}


def _explain(where: str, error: Exception, fields: Iterable[str]) -> str:
    """One sentence about an error of OmegaConf, without its class names."""
    key = str(getattr(error, "full_key", "") or "")
    first = str(error).splitlines()[0]
    if re.match(r"Key '.*' (is )?not in ", first):
        owner: Any = getattr(error, "object_type", None)
        known = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else fields
        parent, _, last = key.rpartition(".")
        return f"{where}: unknown key {key!r}; {nearest(last, known, f'{parent}.' if parent else '')}"
    if match := re.match(r"Value (.+?) (?:of type '\w+' could not be converted to|is not a valid) (\w+)", first):
        return f"{where}: {key} must be {KINDS.get(match[2], match[2])}, not {match[1]}"
    if match := re.match(r"Interpolation key '(.*)' not found", first):
        return (
            f"{where}: {key}: there is no setting {match[1]!r}; " + "${...} stands for the value of another setting, "
            "except in prompts and tags"
        )
    if re.match(r"Incompatible value 'None'|field '.*' is not Optional", first):
        return f"{where}: {key or first.split(chr(39))[1]} must not be null"
    return f"{where}: {key + ': ' if key and key not in first else ''}{first}"


def _finish(schema: type[T], merged: DictConfig, where: str) -> tuple[T, dict[str, StepRef]]:
    try:
        resolved = OmegaConf.to_container(merged, resolve=True)
        assert isinstance(resolved, dict)
        entries = resolved.pop(STEPS, None) or {}
        literal = {k: as_written(resolved.pop(k)) for k in LITERAL if k in resolved}
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), resolved))
    except OmegaConfBaseException as error:
        raise BadInput(_explain(where, error, {f.name for f in dataclasses.fields(schema)})) from None  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise BadInput(_placed("", str(error), [f.name for f in dataclasses.fields(schema)])) from None  # type: ignore[arg-type]
    for name, value in literal.items():
        setattr(settings, name, value)
    steps = {str(name): make_ref(str(name), entry) for name, entry in entries.items() if _enabled(str(name), entry)}
    places = {str(name): entry.get("before") or "" for name, entry in entries.items()}
    return settings, {name: steps[name] for name in in_order(places) if name in steps}  # type: ignore[return-value]


def in_order(places: Mapping[str, str]) -> list[str]:
    """Step -> before which other one it has its place, "" for where it is written; the steps in their order.

    Steps that are switched off count: what stands before one of them stays there.
    """
    names = [name for name, before in places.items() if not before]
    for name, before in places.items():
        if not before:
            continue
        if before not in names:
            raise BadInput(f"{name}.before names {before!r}, which is not a step; {nearest(before, names)}")
        names.insert(names.index(before), name)
    return names


def _enabled(name: str, entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        raise BadInput(f"step {name} must be a mapping with a `use` key, not {entry!r}")
    if not isinstance(entry.get("enabled", True), bool):
        raise BadInput(f"{name}.enabled must be true or false, not {entry['enabled']!r}")
    return entry.get("enabled", True) is not False


def load_class(use: str, name: str = "") -> type[Step] | type[Job]:
    """The Step or Job class behind `module:Class`. Raises BadInput for anything outside our packages."""
    label = f"{name}.use" if name else "use"
    module_name, _, class_name = str(use).partition(":")
    if not class_name or not module_name.startswith(PACKAGES):
        raise BadInput(f"{label}: {use!r} must be `module:Class` inside {' or '.join(p + '*' for p in PACKAGES)}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise BadInput(f"{label}: there is no module {error.name!r}") from None
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Step | Job)):
        known = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, Step | Job)]
        raise BadInput(f"{label}: {module_name} has no step {class_name!r}; {nearest(class_name, known)}")
    return found


def make_ref(name: str, entry: Mapping[str, Any]) -> StepRef:
    """Check one step entry against its class. Raises BadInput that names the step and the key.

    use        [module:Class] import path of the step's class, inside `stages` or `data_prep`
    resources  what each worker of the step asks for
    enabled    [true, false] false leaves the step out
    after      [a name, or a list of names] earlier steps to read from, where it is not clear from the kind alone
    before     [a name] place the step before this one; without it, a step stays where it is written
    """
    if "use" not in entry:
        raise BadInput(f"step {name} needs `use: module:Class`")
    cls = load_class(entry["use"], name)
    values = {k: v for k, v in entry.items() if k not in ENTRY_KEYS}
    config = structured(cls.Config, values, name)
    asked = entry.get("resources") or {}
    if not isinstance(asked, Mapping):
        known = ", ".join(f.name for f in dataclasses.fields(Resources))
        raise BadInput(f"{name}.resources must be a mapping ({known}), not {asked!r}")
    resources = structured(Resources, {**dataclasses.asdict(cls.resources), **asked}, f"{name}.resources")
    after = _after(name, entry["after"]) if entry.get("after") else ()
    before = entry.get("before") or ""
    if not isinstance(before, str):
        raise BadInput(f"{name}.before must be the name of one step, not {before!r}")
    return StepRef(name, entry["use"], config, resources, after=after, before=before)


def _after(name: str, value: Any) -> tuple[str, ...]:
    """One step's name, or several."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        raise BadInput(f"{name}.after must be a list of step names, not {value!r}")
    return tuple(names)


def structured(schema: type[T], values: Mapping[str, Any], where: str) -> T:
    """One dataclass from plain values, checked. Raises BadInput naming `where` and the nearest key."""
    known = [f.name for f in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise BadInput(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        said = _explain(where, error, known).removeprefix(f"{where}: ")
        raise BadInput(_placed(where, said, known)) from None
    except (ValueError, TypeError) as error:
        raise BadInput(_placed(where, str(error), known)) from None


def _placed(where: str, said: str, known: Iterable[str]) -> str:
    """What a class says of its settings, by their whole keys: `max_s is -1` becomes `clips.max_s is -1`."""
    first = re.match(r"\w*", said)
    if first and first[0] in known and where:
        return f"{where}.{said}"
    return said if not where or re.match(r"[\w-]+\.\w", said) else f"{where}: {said}"
