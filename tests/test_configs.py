"""Every file in configs/ resolves, and every step or job that there is keeps the contract."""

from __future__ import annotations

import ast
import dataclasses
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from omegaconf import OmegaConf

from flows.curate.curation import load_curation
from flows.render.campaign import load_campaign
from stages.core.config import load_class, make_ref
from stages.core.config_files import find_config, read_yaml
from stages.core.errors import BadInput
from stages.core.ledger.catalog import LEDGER
from stages.core.reach.policy import operators
from stages.core.step import Job, Step
from stages.training.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.yaml"))


def campaigns(path: Path) -> None:
    assert load_campaign([path], {}, []).takes


def cascades(path: Path) -> None:
    """The model of the same name goes with it, where there is one; any model with one that says no size."""
    model = path.stem if (path.parents[1] / "models" / path.name).exists() else "tiny"
    small = {"width": 64, "height": 64, "frames": 9, "fps": 8, "guidance": 1}
    size = {key: value for key, value in small.items() if key not in read_yaml(path)}
    asked = {"prompts": ["a test"], "cascade": str(path), "model": model, **size}
    if "encode" in read_yaml(path)["steps"]:  # it begins from a video, which is all that is missing here
        said = "the command line: prompt 1: encode: there is no video to begin from: give `video`"
        assert refusal(asked) == said
        return
    campaign = load_campaign([], asked, [])
    kinds = [load_class(ref.use).kind for ref in campaign.steps.values()]
    assert kinds[-3:] == ["video", "measures", "qc"]
    assert {"latent", "text"} <= set(kinds)


def refusal(asked: dict) -> str:
    try:
        load_campaign([], asked, [])
    except BadInput as bad:
        return str(bad)
    return ""


def models(path: Path) -> None:
    """Of published weights that are not here, a family that has to look into them says that they are not."""
    model = OmegaConf.to_container(read_yaml(path), resolve=True)
    cascade = path.stem if (path.parents[1] / "cascades" / path.name).exists() else "plain"
    asked = {"prompts": ["a test"], "model": str(path), "cascade": cascade}
    if not Path(model["checkpoint"]).exists() and (said := refusal(asked)):
        assert re.search(r"is not in the local hub cache.*; set model.download to true", said)
        return
    campaign = load_campaign([], asked, [])
    families = {ref.config.model.family for ref in campaign.steps.values() if hasattr(ref.config, "model")}
    assert families == {model["family"]}


def train(path: Path) -> None:
    """The plan of a training stands beside what is trained."""
    if path.parent == ROOT / "configs":
        assert [load_class(e["use"]).kind for e in read_yaml(path)["steps"].values()]
    else:
        assert load_settings(path).stage


def curate(path: Path) -> None:
    assert load_curation(["clip.mp4"], path, {}, []).steps


def world(path: Path) -> None:
    from data_prep.world import load_world

    assert len(load_world(path).heldout) >= 200


def evaluate(path: Path) -> None:
    from flows.evaluate.evaluation import load_evaluation

    wanted = {"evaluate": 400, "image-to-video": 2}.get(path.stem, 50)
    few = ["heldout=2"] if path.stem == "image-to-video" else []  # each first frame is drawn
    assert len(load_evaluation(path, {}, few).clips) == wanted


def publish(path: Path) -> None:
    from flows.publish.publication import load_publication

    assert load_publication("name", path, {}, []).steps


def reach(path: Path) -> None:
    assert operators().endpoints == {"https://api.openai.com/v1": "OPENAI_API_KEY"}, f"{path} allows nothing by itself"


RESOLVERS = {f.__name__: f for f in (campaigns, cascades, models, train, curate, world, evaluate, publish, reach)}


@pytest.mark.parametrize("name", FILES)
def test_every_config_resolves(name):
    kind = Path(name).parts[0].removesuffix(".yaml")
    RESOLVERS[kind](ROOT / "configs" / name)


def every_step() -> list[str]:
    """`module:Class` of every step and job in the packages, found in the source so that none is forgotten."""
    files = [*(ROOT / "stages").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")]
    return sorted(
        f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}:{node.name}"
        for path in files
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b).split("[")[0] in ("Step", "Job") for b in node.bases)
    )


STEPS = every_step()


@pytest.mark.parametrize("use", STEPS)
def test_every_step_keeps_the_contract(use):
    cls = load_class(use)
    assert (cls.__doc__ or "").strip()
    assert cls.version >= 1
    assert dataclasses.is_dataclass(cls.Config)
    assert cls.Config.__dataclass_params__.frozen
    assert isinstance(cls.writes, pa.Schema)
    assert len(cls.writes) > 0
    own = cls.writes.names
    assert len(own) == len(set(own))
    if issubclass(cls, Job):
        assert "id" in own
        assert cls.run is not Job.run
    else:
        assert cls.process is not Step.process
        assert cls.fan_out or not set(own) & set(LEDGER.names)


def test_every_step_that_has_a_device_refuses_one_that_does_not_exist(tmp_path):
    (tmp_path / "head.safetensors").touch()
    required = {"clip": "a-folder", "head": str(tmp_path / "head.safetensors")}
    tried = []
    for use in STEPS:
        config = load_class(use).Config
        names = {f.name for f in dataclasses.fields(config)}
        if "device" not in names:
            continue
        of_user = {**required, **({"model": "a-folder"} if {"label", "rewriter"} & names else {})}
        values = {k: v for k, v in of_user.items() if k in names}
        assert config(**values, device="cpu").device == "cpu", use
        with pytest.raises(BadInput) as caught:
            config(**values, device="gpu")
        assert str(caught.value) == "device is 'gpu'; it must be auto, cpu or cuda", use
        tried.append(use)
    assert len(tried) >= 8


@pytest.mark.parametrize("key", ["device", "model.device"])
def test_cuda_without_a_gpu_is_refused_by_the_name_of_its_setting(key):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    from stages.families.engine.device import find_device

    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(BadInput, match=rf"^{key} is cuda, but there is no GPU .* set {key}=auto, or "):
        find_device("cuda", key)


def test_every_use_in_a_config_is_one_of_them():
    named = {
        entry["use"]
        for name in FILES
        for entry in (read_yaml(ROOT / "configs" / name).get("steps") or {}).values()
        if entry and "use" in entry
    }
    assert len(named) > 12
    assert named <= set(STEPS)


def test_planning_imports_none_of_the_heavy_libraries():
    """Planning imports every step; `rushes status` must stay quick."""
    script = f"""
import json, sys
from stages.core.config import load_class
for use in {STEPS!r}:
    load_class(use)
print(json.dumps(sorted({{"torch", "diffusers", "transformers", "ray", "prefect", "av"}} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == []


def test_a_step_of_a_config_crosses_processes_as_it_is():
    entries = read_yaml(find_config("curate"))["steps"]
    on = {n: e for n, e in entries.items() if e.get("use") and e.get("enabled", True) and n != "select"}
    refs = [make_ref(name, entry) for name, entry in on.items()]
    assert pickle.loads(pickle.dumps(refs)) == refs
