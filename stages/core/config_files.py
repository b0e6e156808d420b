"""Files of configuration and `key=value` words, read as they are; `stages.core.config` checks them against a schema."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._yaml import get_yaml_loader  # what OmegaConf.load reads with

from stages.core.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

OmegaConf.register_resolver("root", lambda path: str(ROOT / path), replace=True)
OmegaConf.register_resolver("is_set", lambda value: value not in (None, ""), replace=True)


def nearest(word: str, known: Iterable[str], before: str = "") -> str:
    """A clause that names the nearest known word, or lists what there is; before: what stands before the word where it
    is written."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {before + close[0]!r}?" if close else f"known: {', '.join(choices)}"


NOUNS = {"campaigns": "campaign", "cascades": "cascade", "models": "model"}
"""What the configs of a folder are called."""


def find_config(name: str | Path, kind: str = "") -> Path:
    """The file that a name means: a path as it is, or `NAME.yaml` below configs/KIND. Raises BadInput."""
    given = Path(name).expanduser()
    candidates = [given, CONFIGS / kind / f"{name}.yaml", CONFIGS / given, CONFIGS.parent / given]
    for path in candidates:
        if path.is_file():
            return path
    folder = CONFIGS / kind
    known = [p.stem for p in folder.glob("*.yaml")]
    raise BadInput(
        f"there is no {NOUNS.get(kind, 'config')} {str(name)!r}: no such file, and none of that name in "
        f"{'/'.join(filter(None, ('configs', kind)))} ({nearest(str(name), known)})"
    )


LITERAL = ("prompts", "negative_prompt", "tags")
"""Keys whose texts are what a user wrote: `${...}` and `???` in them mean nothing to a config."""
_MARKS = str.maketrans({"\ue000": "\ue0000", "$": "\ue0001", "?": "\ue0002"})


def shielded(layer: Mapping[Any, Any]) -> dict[Any, Any]:
    """A layer in which texts that are literal hold nothing that OmegaConf would resolve; see `as_written`."""
    return {k: _shield(v) if k in LITERAL else v for k, v in layer.items()}


def _shield(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_MARKS)
    if isinstance(value, Mapping):
        return {k: _shield(v) for k, v in value.items()}
    return [_shield(v) for v in value] if isinstance(value, list | tuple) else value


def as_written(value: Any) -> Any:
    """The texts as they were before `shielded`."""
    if isinstance(value, str):
        return re.sub("\ue000([012])", lambda m: "\ue000$?"[int(m[1])], value)
    if isinstance(value, dict):
        return {k: as_written(v) for k, v in value.items()}
    return [as_written(v) for v in value] if isinstance(value, list) else value


def read_yaml(path: Path) -> DictConfig:
    """One YAML mapping. Raises BadInput with the file, and the line where the YAML itself is broken."""
    try:
        plain = yaml.load(path.read_text(encoding="utf-8"), Loader=get_yaml_loader())
        loaded = OmegaConf.create(shielded(plain) if isinstance(plain, dict) else plain or {})
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text") from None
    except Exception as error:  # the YAML library's own tree of errors
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{where} is not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(loaded, DictConfig):
        raise BadInput(f"{path} must hold keys and values, not a {type(loaded).__name__}")
    return _undotted(loaded)


def _undotted(layer: DictConfig) -> DictConfig:
    """`nsfw.frames: 8` in a file means what `nsfw.frames=8` means on the command line."""
    for key in [k for k in layer if isinstance(k, str) and "." in k]:
        nested: Any = layer._get_node(key)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        del layer[key]
        layer = OmegaConf.merge(layer, nested)  # type: ignore[assignment]
    return layer


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """`key=value` words as a mapping; values are read as YAML. Raises BadInput for a word without `=`."""
    for word in overrides:
        if "=" not in word or not word.split("=", 1)[0].strip():
            raise BadInput(f"{word!r} is not key=value")
    try:
        return OmegaConf.from_dotlist([_shield(w) if re.split(r"[.=]", w)[0] in LITERAL else w for w in overrides])
    except Exception as error:
        raise BadInput(f"{_unreadable(overrides)}: {str(error).splitlines()[0]}") from None


def _unreadable(overrides: Sequence[str]) -> str:
    """The first override that cannot be read by itself, without its value, which may be a credential."""
    for word in overrides:
        try:
            OmegaConf.from_dotlist([word])
        except Exception:  # the YAML library's own tree of errors
            return f"the value of {word.partition('=')[0]} on the command line is not valid YAML"
    return f"cannot read {', '.join(w.partition('=')[0] for w in overrides)} on the command line together"
