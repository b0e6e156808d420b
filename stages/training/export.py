"""A run's model as a folder that `from_pretrained` opens: the starting checkpoint with the trained parts in place."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors.torch import save_file
from torch import nn

from stages.core.config_files import ROOT
from stages.core.weights.lora import FILE
from stages.training.settings import Lora, TrainConfig
from stages.training.tasks.base import Task
from stages.training.tasks.models import lora_tensors

ABOUT = "training.json"


def export(task: Task, config: TrainConfig, folder: Path, about: Mapping[str, Any]) -> Path:
    """Write `model` below a run's folder, whole or not at all, with training.json: what it is and how it came about.

    Weights rest in float16. With LoRA only the adapters are written, as diffusers' load_lora_weights reads them.
    """
    target = folder / "model"
    building = Path(tempfile.mkdtemp(prefix=".model-", dir=folder))
    try:
        if config.model.lora.rank:
            write_lora(task, config.model.lora, building)
        else:
            _write_parts(task, config, building)
        earlier = _history(task.start)
        record = {**about, "code": code_version(), "trained": _learned(task), "before": earlier}
        (building / ABOUT).write_text(json.dumps(record, indent=1, default=str))
        os.chmod(building, 0o755)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _write_parts(task: Task, config: TrainConfig, folder: Path) -> None:
    shutil.copytree(task.start, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", ABOUT))
    if config.model.vae:
        shutil.rmtree(folder / "vae", ignore_errors=True)
        shutil.copytree(Path(config.model.vae).expanduser() / "vae", folder / "vae")
    for name in _learned(task):
        shutil.rmtree(folder / name, ignore_errors=True)
        resting(task.trained[name]).save_pretrained(folder / name, safe_serialization=True)


def _learned(task: Task) -> list[str]:
    """The parts of which something was trained."""
    return sorted({name.partition(".")[0] for name in task.trained_names})


def write_lora(task: Task, lora: Lora, folder: Path) -> None:
    """The adapters alone, as diffusers' load_lora_weights reads them, with their rank, alpha and layers."""
    name, part = next(iter(task.trained.items()))
    tensors = {f"{name}.{k}": v.detach().cpu().contiguous() for k, v in lora_tensors(part).items()}
    about = {"r": lora.rank, "lora_alpha": lora.alpha or lora.rank, "target_modules": list(lora.targets)}
    notes = {LORA_ADAPTER_METADATA_KEY: json.dumps({f"{name}.{k}": v for k, v in about.items()})}
    save_file(tensors, folder / FILE, {"format": "pt", **notes})


def resting(part: nn.Module) -> Any:
    """A copy on the CPU in float16; the statistics of latents stay in float32."""
    found = copy.deepcopy(getattr(part, "_orig_mod", part)).cpu()
    for tensor in (*found.parameters(), *(b for n, b in found.named_buffers() if not n.startswith("latents_"))):
        tensor.data = (tensor.data.half() if tensor.is_floating_point() else tensor.data).contiguous()
    return found


def _history(start: Path) -> list[Any]:
    """The records of the trainings that the starting checkpoint had already."""
    path = start / ABOUT
    if not path.is_file():
        return []
    record = json.loads(path.read_text())
    return [*record.pop("before", []), record]


def code_version() -> str:
    """The commit of this code, `+` where the tree differs from it; the package's version where there is no commit."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True,
            check=True, timeout=10,
        )  # fmt: skip
        return run.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("rushes")
        except PackageNotFoundError:
            return "unknown"
