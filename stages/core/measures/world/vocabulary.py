"""The file of a world, read as the words of prompts and what they look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stages.core.config_files import CONFIGS, read_yaml
from stages.core.errors import BadInput
from stages.core.measures.world.words import Vocabulary

WORLD = str(CONFIGS / "world.yaml")


def load_vocabulary(path: str) -> Vocabulary:
    """The words of a world file. Raises BadInput."""
    config: Any = OmegaConf.to_container(read_yaml(Path(path).expanduser()), resolve=True)
    try:
        return Vocabulary.of(config)
    except (TypeError, AttributeError) as error:
        raise BadInput(f"{path} does not describe a world: {error}") from None
