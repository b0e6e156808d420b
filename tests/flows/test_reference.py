"""docs/settings.md: current, complete, and true: its keys are taken by the commands, its ranges are enforced."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from flows.curate.curation import load_curation
from flows.evaluate.evaluation import load_evaluation
from flows.publish.publication import load_publication
from flows.reference.fields import fields_of
from flows.reference.page import COMMAND, PAGE, page
from flows.render.campaign import load_campaign
from flows.render.entries import check_entry
from flows.run.settings import FlowConfig
from flows.train.training import FLOW_KEYS, load_training
from stages.core.config import load_class, structured
from stages.core.config_files import ROOT
from stages.core.errors import BadInput
from stages.core.step import Resources
from stages.training.settings import TrainConfig
from tests.test_configs import STEPS

LOADERS = {
    "curate": lambda words: load_curation(["clip.mp4"], "curate", {}, words),
    "evaluate": lambda words: load_evaluation("evaluate", {}, [*words, "heldout=1"]),
    "publish": lambda words: load_publication("name", "publish", {}, words),
    "render": lambda words: load_campaign([], {"prompts": ["a test"]}, words),
    "train": lambda words: load_training("base", words),
}
WEIGHTS = ROOT / "stages" / "pretrained" / "world" / "vae" / "diffusion_pytorch_model.safetensors"
NEEDED = {"model": "some", "base_url": "http://127.0.0.1:1/v1", "clip": "some", "head": str(WEIGHTS)}
"""Settings without which some steps cannot be made at all."""
ROW = re.compile(r"\| `(?P<key>[^`]+)` \|(?P<cells>.*)\|")
DEFAULT = re.compile(r"`([^`]+)`(?=;|$)")
NUMBER = r"(-?[\d.]+(?:\^\d+ - 1)?)"
RANGES = {
    rf"from {NUMBER}": lambda low: [low - 1],
    rf"above {NUMBER}": lambda low: [low],
    rf"{NUMBER} to {NUMBER}": lambda low, high: [low - 1, high + 1],
    rf"above {NUMBER} to {NUMBER}": lambda low, high: [low, high + 1],
    rf"above {NUMBER}, below {NUMBER}": lambda low, high: [low, high],
    r"\w+(?:, \w+)+": lambda *_: ["nonsense"],
}


def outside(allowed: str) -> list[Any]:
    """Values that a range or a list of choices excludes; [] for what is neither."""
    for pattern, values in RANGES.items():
        if match := re.fullmatch(pattern, allowed):
            return values(*(2**63 - 1 if "^" in n else float(n) if "." in n else int(n) for n in match.groups()))
    return []


def rows() -> dict[str, dict[str, list[str]]]:
    """Heading of the second level -> key -> cells, for the table right below it and that of the training."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.strip("# ")
        elif match := ROW.fullmatch(line):
            found.setdefault(section, {})[match["key"]] = [c.strip() for c in match["cells"].split(" | ")]
    return found


def test_the_page_is_current():
    assert page() == PAGE.read_text(encoding="utf-8"), f"docs/settings.md is not current; run `{COMMAND}`"


def test_every_setting_is_there():
    """Read from the classes themselves: no field that a user can set is missing."""
    text = PAGE.read_text(encoding="utf-8")
    configs = [load_class(use).Config for use in STEPS]
    for config in configs:
        for setting in fields_of(config):
            assert f"`{setting.key}` |" in text or setting.meaning.startswith("Set by the flow"), (config, setting.key)
    for key in ("budget.wall_seconds", "manifest.licence", "label_from_folder", "publish.val_share", "negative_prompt"):
        assert f"| `{key}` |" in text


@pytest.mark.parametrize("command", LOADERS)
def test_a_command_takes_the_keys_and_refuses_what_is_not_allowed(command):
    load, tables = LOADERS[command], rows()
    own = tables[f"rushes {command}"]
    every = {k: v for k, v in tables["Every command"].items() if command != "train" or k.split(".")[0] in FLOW_KEYS}
    settings = {**every, **own, **(tables["The training"] if command == "train" else {})}
    plain = {key: DEFAULT.match(cells[1]) for key, cells in settings.items() if "[]" not in key}
    load([f"{key}={match[1]}" for key, match in plain.items() if match and match[1] not in ('""', "[]", "null")])
    key = next(iter(own))
    with pytest.raises(BadInput, match=f"{key}x"):
        load([f"{key}x=1"])
    for key, (_, _, allowed, _) in own.items():
        for value in outside(allowed):
            with pytest.raises(BadInput, match=key.rpartition(".")[2]):
                load([f"{key}={value}"])


def parts(config: type) -> list[type]:
    """A config class and those within it."""
    return [config, *(p for setting in fields_of(config) if setting.part for p in parts(setting.part))]


@pytest.mark.parametrize("config", [FlowConfig, TrainConfig, Resources, *(load_class(use).Config for use in STEPS)])
def test_no_config_takes_what_is_not_allowed(config):
    for part in parts(config):
        needed = {f.name: NEEDED[f.name] for f in dataclasses.fields(part) if f.name in NEEDED and f.default == ""}
        for setting in fields_of(part):
            for value in outside(setting.allowed):
                with pytest.raises(BadInput, match=setting.key):
                    structured(part, {**needed, setting.key: value}, "here")


def test_no_prompt_takes_what_is_not_allowed():
    for key, (allowed, _) in rows()["Keys of a prompt"].items():
        for value in outside(allowed):
            with pytest.raises(BadInput, match=key):
                check_entry("here", {"prompt": "a test", key: value})
