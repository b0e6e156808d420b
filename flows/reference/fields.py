"""What a config class says of its fields: key, type, default, allowed values, and one sentence.

The sentence is in the docstring of the class, on a line of its own: the field's name, two or more spaces, the allowed
values in brackets where there are any, and the sentence. Lines that go on are indented further.

    crf     [0 to 51] quality of x264; lower is better
    preset  speed preset of x264
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from stages.core.config_files import ROOT

LINE = re.compile(r"(?P<name>\w+) {2,}(?:\[(?P<allowed>.+?)\] )?(?P<meaning>\S.*)")
NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any"}
LONGEST_DEFAULT = 60
LONG_TEXT = "a long text"
"""Stands for a longer default."""


@dataclass(frozen=True)
class Setting:
    """A row of the reference. `part` is the config class behind a field that holds further settings, or None."""

    key: str
    kind: str
    default: str
    allowed: str
    meaning: str
    part: type | None = None
    many: bool = False


def summary(documented: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())


def sentences(documented: Any, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """name -> (allowed values, sentence) for each of the names that the docstring explains."""
    known, found, last = set(names), dict[str, tuple[str, str]](), ""
    for line in (inspect.getdoc(documented) or "").splitlines():
        match = LINE.fullmatch(line)
        if match and match["name"] in known:
            last = match["name"]
            found[last] = (match["allowed"] or "", match["meaning"])
        elif last and line.startswith("  "):
            found[last] = (found[last][0], f"{found[last][1]} {line.strip()}")
        else:
            last = ""
    return {name: (allowed, _sentence(text)) for name, (allowed, text) in found.items()}


def fields_of(config: type) -> list[Setting]:
    """The fields of a config class, in order. Raises LookupError for those that no docstring explains."""
    fields = dataclasses.fields(config)
    explained: dict[str, tuple[str, str]] = {}
    for cls in reversed(config.__mro__):
        explained |= sentences(cls, [f.name for f in fields])
    if missing := [f.name for f in fields if f.name not in explained]:
        raise LookupError(f"the docstring of {config.__module__}.{config.__qualname__} must explain {missing}")
    hints = typing.get_type_hints(config)
    made = []
    for field in fields:
        hint = hints[field.name]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        allowed, meaning = explained[field.name]
        made.append(_setting(field.name, hint, default, allowed, meaning))
    return made


def arguments_of(cls: type) -> list[Setting]:
    """Likewise of the arguments with which a class is made."""
    parameters = list(inspect.signature(cls).parameters.values())
    explained = sentences(cls, [p.name for p in parameters])
    if missing := [p.name for p in parameters if p.name not in explained]:
        raise LookupError(f"the docstring of {cls.__module__}.{cls.__qualname__} must explain {missing}")
    hints = typing.get_type_hints(getattr(cls, "__init__"))  # noqa: B009
    return [_setting(p.name, hints[p.name], p.default, *explained[p.name]) for p in parameters]


def _setting(name: str, hint: Any, default: Any, allowed: str, meaning: str) -> Setting:
    element = next(iter(typing.get_args(hint)), None)
    many = dataclasses.is_dataclass(element)
    part: Any = element if many else hint if dataclasses.is_dataclass(hint) else None
    return Setting(name, type_name(hint), as_text(default), allowed, meaning, part, many)


def type_name(hint: Any) -> str:
    """A type in words: `list of numbers`, `text or null`."""
    if hint in NAMES:
        return NAMES[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is types.NoneType else type_name(a) for a in arguments)
    if origin in (list, tuple):
        plain = arguments[0] is Any or dataclasses.is_dataclass(arguments[0])
        return "list" if plain else f"list of {type_name(arguments[0])}s"
    return "mapping"


def as_text(value: Any) -> str:
    """A default as it is written in YAML, on one line; paths in the checkout are relative to it."""
    if value is dataclasses.MISSING or value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
        return ""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _part_text(value)
    plain = list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
    if isinstance(plain, str):
        plain = plain.replace(f"{ROOT}/", "")
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    if plain == "":
        return '""'
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    return text if len(text) <= LONGEST_DEFAULT else LONG_TEXT


def _part_text(value: Any) -> str:
    """Of a part that is not as its class has it, what is set: `{max: 0.02}`; else "", for its own table says it."""
    usual = {f.name: f.default for f in dataclasses.fields(value)}
    own = {name: v for name in usual if (v := getattr(value, name)) != usual[name]}
    plain = all(isinstance(v, int | float | str | bool) for v in own.values())
    return as_text(own) if own and plain else ""


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?")) else f"{text}."
