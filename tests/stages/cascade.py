"""The stages of a cascade at a size that a test can afford, and a take through them."""

from __future__ import annotations

from typing import Any

from stages.base import Base
from stages.core.step import InputRow, Row, Step, Workspace
from stages.core.weights.checkpoint import ModelConfig
from stages.decode import Decode
from stages.families.contract import Sampling
from stages.refine import Refine
from stages.text import Text
from stages.upsample import Upsample

PROMPT = "a red circle moving left on a black background"
NEGATIVE = "blue square"
GUIDANCE = 3.0
SAMPLING = Sampling(steps=3)
GUIDED = Sampling(steps=3, guidance=GUIDANCE)
REFINING = Sampling(steps=4, guidance=2.0, schedule="linear")
STRENGTH = 0.5
SETTINGS: dict[str, tuple[type[Step], dict[str, Any]]] = {
    "text": (Text, {"max_tokens": 24}),
    "base": (Base, {"sampling": SAMPLING}),
    "spatial": (Upsample, {"axis": "spatial", "adain": 0.5}),
    "temporal": (Upsample, {"axis": "temporal", "tone_map": 0.3}),
    "refine": (Refine, {"sampling": REFINING, "strength": STRENGTH}),
    "decode": (Decode, {}),
}
SIZE = {"conditions": None, "width": 96, "height": 64, "frames": 9, "fps": 8.0, "guidance": GUIDANCE}


def make_stages(model: ModelConfig, workspace: Workspace, setup: bool = True) -> dict[str, Step]:
    """Each stage by name, weights loaded."""
    stages = {n: cls(cls.Config(model=model, **given), workspace, n) for n, (cls, given) in SETTINGS.items()}
    for stage in stages.values() if setup else ():
        stage.setup()
    return stages


def take(seed: int = 7, prompt: str = PROMPT) -> Row:
    """The columns of one take."""
    return {"prompt": prompt, "negative_prompt": NEGATIVE, "seed": seed, **SIZE}


def run_take(stages: dict[str, Step], row: Row, last: str = "decode") -> Row:
    """The row with each stage's output row in it, through the last stage wanted."""
    row = dict(row)
    for name, stage in stages.items():
        row[name] = stage.process(inputs(name, row))
        if name == last:
            break
    return row


def inputs(name: str, row: Row, **ports: Any) -> Row:
    """What the plan hands to a stage of a row with all stages in it: what it declares, and nothing else; its ports from
    the nearest stages of their kind, or from `ports`."""
    cls, given = SETTINGS[name]
    declared = cls.inputs(cls.Config(**given))
    before = [n for n in list(SETTINGS)[: list(SETTINGS).index(name)] if n in row]
    filled = {
        port: ports.get(port, next((row[n] for n in reversed(before) if SETTINGS[n][0].kind == p.kind), None))
        for port, p in declared.ports.items()
    }
    return InputRow({**{c: row[c] for c in (*declared.depends, *declared.carries)}, **filled})
