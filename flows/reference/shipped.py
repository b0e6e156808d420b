"""What the project ships, read from its source and from configs/: flows, steps, and the plans in which they are."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from flows.run.settings import FlowConfig
from stages.core.config import STEPS, load_class
from stages.core.config_files import CONFIGS, ROOT, read_yaml

PACKAGES = ("stages.", "data_prep.")
"""Where steps are shipped. The PACKAGES of `stages.core.config` also has what tests add."""
Entries = dict[str, Mapping[str, Any]]
"""Label, such as `curate.yaml` -> what that file sets."""


def find_classes(packages: Sequence[str], wanted: Callable[[ast.ClassDef], bool]) -> list[str]:
    """`module:Class` of every class in the packages that is wanted, without an import of any."""
    files = [p for package in packages for p in sorted((ROOT / package.rstrip(".")).rglob("*.py"))]
    return [
        f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}:{node.name}"
        for path in files
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and wanted(node)
    ]


@cache
def every_step() -> tuple[str, ...]:
    """Every step and job."""
    return tuple(
        find_classes(
            PACKAGES, lambda node: any(ast.unparse(base).split("[")[0] in ("Step", "Job") for base in node.bases)
        )
    )


def every_source_of_clips() -> list[str]:
    """Every class that a training can take its clips from (`data.use`)."""

    def is_one(node: ast.ClassDef) -> bool:
        methods = {f.name: [a.arg for a in f.args.args] for f in node.body if isinstance(f, ast.FunctionDef)}
        return methods.get("clip") == ["self", "seed", "bucket"] and "__init__" in methods

    return find_classes(PACKAGES, is_one)


def every_flow() -> dict[str, type[FlowConfig]]:
    """Command -> the class of its config."""
    found = {}
    for use in find_classes(("flows.",), lambda node: any(ast.unparse(b).endswith("Config") for b in node.bases)):
        module, cls = importlib.import_module(use.split(":")[0]), get_class(use)
        if issubclass(cls, FlowConfig) and hasattr(module, "FLOW"):
            found[module.FLOW] = cls
    return dict(sorted(found.items()))


def get_class(use: str) -> type:
    """The class at `module:Class`."""
    module, _, name = use.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


@cache
def files_of(flow: str) -> Mapping[str, Mapping[str, Any]]:
    """Label -> content of the files that hold a flow's plan: its own one, or else the cascades."""
    own = CONFIGS / f"{flow}.yaml"
    paths = [own] if own.is_file() else sorted((CONFIGS / "cascades").glob("*.yaml"))
    labels = [f"`{path.relative_to(CONFIGS).as_posix()}`" for path in paths]
    read = [OmegaConf.to_container(read_yaml(path), resolve=False) for path in paths]
    return dict(zip(labels, read, strict=True))  # type: ignore[arg-type]


def top_level(flow: str) -> Entries:
    """What the files of a flow set beside their steps."""
    return {label: {k: v for k, v in content.items() if k != STEPS} for label, content in files_of(flow).items()}


@cache
def plan_of(flow: str) -> Mapping[str, list[str]]:
    """`module:Class` -> the names that the files of a flow give to it, in the order of the plan."""
    plan: dict[str, list[str]] = {}
    for content in files_of(flow).values():
        for name, entry in content[STEPS].items():
            names = plan.setdefault(entry["use"], [])
            names += [name] if name not in names else []
    return plan


def entries_of(flow: str, use: str) -> Entries:
    """What the files of a flow set for a step, for each entry that has it."""
    several = len(plan_of(flow).get(use, [])) > 1
    return {
        f"`{name}` in {label}" if several else label: entry
        for label, content in files_of(flow).items()
        for name, entry in content[STEPS].items()
        if entry["use"] == use
    }


def stands_for(use: str, flow: str) -> str:
    """The one step of a flow's plan in whose place another class can be used: of its kind, from its package; or ""."""

    def place(use: str) -> tuple[str, str]:
        return load_class(use).kind, use.split(":")[0].rpartition(".")[0]

    names = [name for other, names in plan_of(flow).items() if place(other) == place(use) for name in names]
    return names[0] if len(names) == 1 else ""
