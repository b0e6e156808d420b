"""docs/settings.md: every setting of every command, step and training, read from the classes that check them.

    python -m flows.reference.page        # writes docs/settings.md

Commands, steps and sources of clips are found in the source; none of them is listed here by its name.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from data_prep.select import CLIP_METRICS, SOURCE_METRICS
from data_prep.sources.ingest import EVERY_CORE
from flows.curate.curation import LIMITS
from flows.reference import shipped
from flows.reference.fields import LONG_TEXT, Setting, arguments_of, as_text, fields_of, sentences, summary
from flows.render.entries import CHECKS, check_entry
from flows.run.settings import FlowConfig
from flows.train.training import FLOW_KEYS
from stages.core.config import ENTRY_KEYS, load_class, make_ref
from stages.core.config_files import ROOT
from stages.core.step import Resources
from stages.training.settings import TrainConfig

PAGE = ROOT / "docs" / "settings.md"
COMMAND = "python -m flows.reference.page"
HEAD = f"""\
# Settings

A setting is a key in a YAML file (a campaign, or a file given with `--config`) or a `KEY=VALUE` on the command line,
which wins. A dot separates nested keys: `budget.wall_seconds=600` means `budget: {{wall_seconds: 600}}`. A setting of a
step is `STEP.KEY`, such as `clips.max_s=10`. Lists and mappings are written as in YAML: `only='[decode]'`.

*Default* is the default in the code. If a file in `configs/` sets another value, the name of that file and its value
follow. *Allowed* shows what is accepted; where it is empty, any value of the type is. `null` means no value. Settings
that a command fills in by itself are left out.

*This page is written by `{COMMAND}`, from the docstrings of the classes that check the settings.*
"""
REFERENCE = re.compile(rf"`((?:{'|'.join(map(re.escape, shipped.PACKAGES))})[\w.]+)`")
FILLED_IN = "Set by the flow"

Rows = list[tuple[str, Setting]]
Shared = dict[type, str]
"""Config classes that several settings hold -> the name of their group."""


def page() -> str:
    """The whole page. Raises LookupError for a setting that no docstring explains."""
    flows, left = shipped.every_flow(), list(shipped.every_step())
    shared = shared_groups([*flows.values(), TrainConfig, *(load_class(use).Config for use in left)])
    everywhere = {label: values for name in flows for label, values in shipped.top_level(name).items()}
    lines = [HEAD, "## Every command\n", *table(rows_of(FlowConfig, shared), everywhere)]
    lines += ["\n## Every step\n", "Keys of an entry under `steps`, beside the settings of its class:\n"]
    lines += short_table(sentences(make_ref, ENTRY_KEYS))
    lines += ["\nKeys of `resources`:\n", *table(rows_of(Resources, shared))]
    for name, config in flows.items():
        own = own_fields(config, flows.values())
        rows = [(key, s) for key, s in rows_of(config, shared) if key.split(".")[0] in own]
        lines += [f"\n## rushes {name}\n", f"{summary(config)}\n", *table(rows, shipped.top_level(name))]
        lines += _prompt() if name == "render" else _training(shared) if name == "train" else []
        uses = list(dict.fromkeys([*shipped.plan_of(name), *(u for u in left if shipped.stands_for(u, name))]))
        lines += [line for use in uses for line in step_section(use, name, shared)]
        left = [use for use in left if use not in uses]
    if left:
        lines += ["\n## Further steps\n", "No file in `configs/` uses these steps."]
        lines += [line for use in left for line in step_section(use, "", shared)]
    lines += ["\n## Groups of settings\n", "Several settings hold such a group."]
    for part, name in shared.items():
        lines += [f"\n### {name}\n", f"{summary(part)}\n", *table(rows_of(part, shared))]
    return "\n".join(lines).rstrip() + "\n"


def rows_of(config: type, shared: Shared, prefix: str = "") -> Rows:
    """(dotted key, setting) of a config class and of the classes within; a shared one is a link."""
    found: Rows = []
    for setting in fields_of(config):
        key = prefix + setting.key
        if setting.part is not None and setting.part not in shared:
            found += rows_of(setting.part, shared, f"{key}[]." if setting.many else f"{key}.")
        elif not setting.meaning.startswith(FILLED_IN):
            link = f" See [{shared[setting.part]}](#{shared[setting.part]})." if setting.part else ""
            found.append((key, dataclasses.replace(setting, meaning=_linked(setting.meaning, shared) + link)))
    return found


def table(rows: Rows, files: Mapping[str, Any] | None = None) -> list[str]:
    """A Markdown table. files: label -> what a file in configs/ sets, as nested mappings."""
    lines = ["| Key | Type | Default | Allowed | Meaning |", "|---|---|---|---|---|"]
    for key, s in rows:
        default = [_quoted(s.default)] if s.default else []
        for label, values in (files or {}).items():
            if (own := _value_at(values, key)) not in (None, s.default):
                default.append(f"{label}: {_quoted(own)}")
        lines.append(_cells(f"`{key}`", s.kind, "; ".join(default), s.allowed, s.meaning))
    return lines


def short_table(explained: Mapping[str, tuple[str, str]]) -> list[str]:
    """Likewise of keys whose types are among the allowed values, and that have no default."""
    lines = ["| Key | Allowed | Meaning |", "|---|---|---|"]
    return lines + [_cells(f"`{key}`", allowed, meaning) for key, (allowed, meaning) in explained.items()]


def step_section(use: str, flow: str, shared: Shared) -> list[str]:
    """What one step is for, and its settings. flow: the one in whose plan it is or can be; "" for none."""
    cls = load_class(use)
    names = shipped.plan_of(flow).get(use, []) if flow else []
    lines = [f"\n### {', '.join(f'`{name}`' for name in names) or cls.__name__}\n", f"{_purpose(use)} `use: {use}`\n"]
    if flow and not names:
        lines.append(f"It can take the place of `{shipped.stands_for(use, flow)}`.\n")
    ours, usual = cls.resources, Resources()
    asked = [f.name for f in dataclasses.fields(Resources) if getattr(ours, f.name) != getattr(usual, f.name)]
    if asked:
        lines.append(
            f"Default resources: {', '.join(f'`{name}` {_asked(name, getattr(ours, name))}' for name in asked)}.\n"
        )
    rows = rows_of(cls.Config, shared)
    lines += table(rows, shipped.entries_of(flow, use) if flow else {}) if rows else ["It has no settings of its own."]
    return lines + (_metrics(flow, use) if flow and any(key == LIMITS for key, _ in rows) else [])


def _asked(name: str, value: float) -> str:
    """A default of the resources; so many workers that no machine holds them are as many as it holds."""
    return "as many as there are cores" if name == "workers" and value == EVERY_CORE else f"{value:g}"


def _purpose(use: str) -> str:
    """What a step is for: the head of its module where it is the only one there, else its own docstring."""
    module = importlib.import_module(use.split(":")[0])
    alone = sum(other.startswith(f"{module.__name__}:") for other in shipped.every_step()) == 1
    return summary(module if alone else load_class(use))


def _metrics(flow: str, use: str) -> list[str]:
    """What limits can be set on, and those that are set."""
    limits = {k: v for entry in shipped.entries_of(flow, use).values() for k, v in entry.items()}
    measured = {
        field.name: f"`{name}`"
        for step, names in shipped.plan_of(flow).items()
        for name in names
        if load_class(step).kind == "scores"
        for field in load_class(step).writes
        if field.name not in ("id", "clip_id") and not pa.types.is_nested(field.type)
    }
    measured |= dict.fromkeys(CLIP_METRICS, "the clip") | dict.fromkeys(SOURCE_METRICS, "the source")
    lines = ["\nMetrics that can have a limit:\n", "| Metric | Measured by | Default limit |", "|---|---|---|"]
    for metric, by in measured.items():
        lines.append(_cells(f"`{metric}`", by, f"`{as_text(limits[metric])}`" if metric in limits else ""))
    return lines


def _prompt() -> list[str]:
    """Keys of a single prompt of a campaign."""
    return ["\n### Keys of a prompt\n", *short_table(sentences(check_entry, CHECKS))]


def _training(shared: Shared) -> list[str]:
    """What stands in a file of configs/train."""
    keys = ", ".join(f"`{f.name}`" for f in dataclasses.fields(FlowConfig) if f.name in FLOW_KEYS)
    lines = [f"\nIt takes these settings of every command: {keys}.\n"]
    lines += ["### The training\n", f"{summary(TrainConfig)}\n", *table(rows_of(TrainConfig, shared))]
    for use in shipped.every_source_of_clips():
        cls = shipped.get_class(use)
        lines += [f"\n### `data.args` of {cls.__name__}\n", f"{summary(cls)} `data.use={use}`\n"]
        lines += table([(s.key, s) for s in arguments_of(cls)])
    return lines


def shared_groups(configs: Iterable[type]) -> Shared:
    """Config classes that more than one field holds, or that a sentence names, and the name of that field; that of the
    class where fields have several."""
    holders: dict[type, set[tuple[type, str]]] = {}
    named: Shared = {}

    def visit(config: type) -> None:
        for s in fields_of(config):
            owner = next(c for c in config.__mro__ if s.key in inspect.get_annotations(c))
            for path in REFERENCE.findall(s.meaning):
                named.setdefault(_class_at(path), s.key)
            if s.part is not None:
                holders.setdefault(s.part, set()).add((owner, s.key))
                visit(s.part)

    for config in configs:
        visit(config)
    return {part: _name(part, {key for _, key in held}) for part, held in holders.items() if len(held) > 1} | named


def _name(part: type, keys: set[str]) -> str:
    return next(iter(keys)) if len(keys) == 1 else part.__name__.lower()


def own_fields(config: type[FlowConfig], others: Iterable[type]) -> set[str]:
    """Fields that neither all flows have nor the flow that this one builds on."""
    above = [c for c in config.__mro__[1:] if c is FlowConfig or c in set(others)]
    taken = {f.name for c in above for f in dataclasses.fields(c)}
    return {f.name for f in dataclasses.fields(config)} - taken


def _value_at(values: Any, key: str) -> str | None:
    """What a file sets at a dotted key, as text; None where it sets nothing, or what another key has."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return None
        values = values[part]
    return None if isinstance(values, str) and "${" in values else as_text(values)


def _quoted(default: str) -> str:
    return f"({default})" if default == LONG_TEXT else f"`{default}`"


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _class_at(path: str) -> type:
    return shipped.get_class(":".join(path.rsplit(".", 1)))


def _linked(meaning: str, shared: Shared) -> str:
    """A sentence in which the paths of config classes are links to their groups."""
    return REFERENCE.sub(lambda m: f"[{shared[_class_at(m[1])]}](#{shared[_class_at(m[1])]})", meaning)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
