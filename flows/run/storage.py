"""`infra.storage` for what looks at a store and takes no other settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stages.core.config_files import parse_overrides, read_yaml
from stages.core.errors import BadInput
from stages.core.reach.secrets import remember, secret_values

KEY = "infra.storage"


def is_option(word: str) -> bool:
    """Whether a word is infra.storage.KEY=VALUE."""
    return word.startswith(f"{KEY}.")


def read_options(words: Iterable[str], config: str | None = None) -> dict[str, Any]:
    """The options of a config file, and over them those of infra.storage.KEY=VALUE words. Raises BadInput."""
    layers = [read_yaml(Path(config).expanduser())] if config else []
    merged = OmegaConf.merge(*layers, parse_overrides(list(words)))
    options = OmegaConf.select(merged, KEY, default=OmegaConf.create({}))
    found = OmegaConf.to_container(options, resolve=True) if OmegaConf.is_config(options) else None
    if not isinstance(found, dict):
        raise BadInput(f"{config}: {KEY} must hold names and values")
    named = {str(k): v for k, v in found.items()}
    remember(secret_values(named))
    return named
