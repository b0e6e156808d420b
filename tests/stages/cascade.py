"""The six stages at a size that a test can afford, and a take through them."""

from __future__ import annotations

from typing import Any

from stages.base import Base
from stages.core.step import Row, Step, Workspace
from stages.core.weights.checkpoint import ModelConfig
from stages.decode import Decode
from stages.families.contract import Sampling
from stages.refine import Refine
from stages.spatial import Spatial
from stages.temporal import Temporal
from stages.text import Text

PROMPT = "a red circle moving left on a black background"
NEGATIVE = "blue square"
SAMPLING = Sampling(steps=3, guidance=3.0)
REFINING = Sampling(steps=4, guidance=2.0, schedule="linear")
STRENGTH = 0.5
SETTINGS: dict[type[Step], dict[str, Any]] = {
    Text: {"max_tokens": 24},
    Base: {"sampling": SAMPLING, "width": 96, "height": 64, "frames": 9, "fps": 8.0},
    Spatial: {"adain": 0.5},
    Temporal: {"tone_map": 0.3},
    Refine: {"sampling": REFINING, "strength": STRENGTH},
    Decode: {},
}


def make_stages(model: ModelConfig, workspace: Workspace, setup: bool = True) -> dict[str, Step]:
    """Each stage by name, weights loaded."""
    stages = {cls.__name__.lower(): cls(cls.Config(model=model, **given), workspace) for cls, given in SETTINGS.items()}
    for stage in stages.values() if setup else ():
        stage.setup()
    return stages


def take(seed: int = 7, prompt: str = PROMPT) -> Row:
    """The columns of one take."""
    return {"prompt": prompt, "negative_prompt": NEGATIVE, "seed": seed}


def run_take(stages: dict[str, Step], row: Row, last: str = "decode") -> Row:
    """The row with each stage's output row in it, through the last stage wanted; each is given what `after` would."""
    row = dict(row)
    for name, stage in stages.items():
        row[name] = stage.process(inputs(name, row))
        if name == last:
            break
    return row


def inputs(name: str, row: Row) -> Row:
    """What the cascade hands to a stage of a row with all stages in it: the take, the stage before, and the text."""
    order = [cls.__name__.lower() for cls in SETTINGS]
    before = [*reversed(order[: order.index(name)][-1:]), "text"]
    return {**{k: v for k, v in row.items() if k not in order}, **{n: row[n] for n in before if n in row}}
