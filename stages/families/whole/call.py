"""Which class runs, what its checkpoint holds, and which of its arguments a take fills."""

from __future__ import annotations

from types import MappingProxyType

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.families.engine.variant import has

OF_TAKES = MappingProxyType(
    {
        "prompt": "prompt", "negative_prompt": "negative_prompt", "width": "width", "height": "height",
        "frames": "num_frames", "guidance": "guidance_scale",
    }
)  # fmt: skip
"""Column of a take -> the argument that it goes to."""
RATES = ("fps", "frame_rate")
CONTROLS = ("control_video", "conditioning_frames", "pose_video")


def pipeline_of(model: ModelConfig) -> str:
    """The class that runs: the one that the config names, else the one that wrote the checkpoint."""
    name = model.pipeline or str(model.read_index().get("_class_name", ""))
    if not name:
        raise BadInput(
            f"model.checkpoint: model_index.json of {model.checkpoint} names no pipeline; set model.pipeline"
        )
    return name


def components(model: ModelConfig) -> tuple[str, ...]:
    """The component folders that a checkpoint's index names."""
    index = model.read_index()
    return tuple(name for name in index if has(index, name))
