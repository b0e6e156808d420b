"""What a pipeline class of diffusers is called with, read from the source of the installed library: no torch is loaded,
so that a campaign can be checked while it is planned."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.config_files import nearest
from stages.core.errors import BadInput

_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of a pipeline's call: whether it must be given, what it is by default where that is plain, and what
    its annotation allows: `number`, `whole` number, `switch`, `text`, or "" for anything else."""

    required: bool
    default: Any
    form: str


@functools.cache
def _files() -> Mapping[str, Path]:
    """Every class in the pipelines of diffusers -> the file that defines it."""
    spec = importlib.util.find_spec("diffusers")  # of a package without a dot this imports nothing
    if spec is None or spec.origin is None:
        raise BadInput("diffusers is not installed")
    found: dict[str, Path] = {}
    for path in sorted(Path(spec.origin).parent.glob("pipelines/**/pipeline_*.py")):
        found.update(dict.fromkeys(_CLASS.findall(path.read_text(encoding="utf-8")), path))
    return found


def module_of(name: str) -> str:
    """The module that defines a pipeline class. Raises BadInput for a class that there is not."""
    path = _path(name)
    return ".".join(path.with_suffix("").parts[path.parts.index("pipelines") - 1 :])


def _path(name: str) -> Path:
    files = _files()
    if name not in files:
        known = [n for n in files if n.endswith("Pipeline")]
        raise BadInput(f"the installed diffusers has no pipeline {name!r}; {nearest(name, known)}")
    return files[name]


@functools.cache
def arguments_of(name: str) -> Mapping[str, Argument]:
    """The arguments of a pipeline's call, in their order.

    Raises BadInput for a class that the installed diffusers lacks, and for one that makes no video.
    """
    found = _call_of(name)
    if found is None or not {"num_frames", "video"} & set(found):
        raise BadInput(f"{name} makes no video: its call takes neither `num_frames` nor `video`")
    return found


def _call_of(name: str) -> Mapping[str, Argument] | None:
    tree = ast.parse(_path(name).read_text(encoding="utf-8"))
    cls = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__call__":
            return _arguments(node.args)
    for base in cls.bases:  # a class may take its parent's call
        if isinstance(base, ast.Name) and base.id in _files():
            return _call_of(base.id)
    return None


def _arguments(args: ast.arguments) -> Mapping[str, Argument]:
    plain = [*args.posonlyargs, *args.args][1:]
    defaults = [*[None] * (len(plain) - len(args.defaults)), *args.defaults]
    every = [*zip(plain, defaults, strict=True), *zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return {a.arg: _argument(a.annotation, default) for a, default in every}


def _argument(annotation: ast.expr | None, default: ast.expr | None) -> Argument:
    words = set(re.findall(r"\w+", ast.unparse(annotation))) - {"None", "Optional", "Union"} if annotation else set()
    forms = {"int": "whole", "float": "number", "bool": "switch", "str": "text"}
    kinds = {forms.get(word, "") for word in words}
    form = kinds.pop() if len(kinds) == 1 else "number" if kinds == {"whole", "number"} else ""
    value = default.value if isinstance(default, ast.Constant) else None
    return Argument(required=default is None, default=value, form=form)
