"""`rushes doctor`: what is there, what is not, and what to do about it. Quick: versions are read, nothing is loaded."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import click
from omegaconf import OmegaConf
from packaging.requirements import Requirement

from flows.display.terminal import say
from flows.prefect import places
from flows.prefect.server import VARIABLE, named_server, ui_address, unreachable
from infra.ray.session_folder import session_folder
from infra.settings import InfraConfig
from stages.core.config import structured
from stages.core.config_files import CONFIGS, ROOT, parse_overrides
from stages.core.errors import BadInput
from stages.core.ledger.storage import TEMPORARY, Storage
from stages.core.media import ffmpeg_binary, ffmpeg_version
from stages.core.reach import policy
from stages.core.weights.checkpoint import ModelConfig, is_hub_id
from stages.families.contract import offers_of

OK, NOTE, MISSING = "ok", "note", "missing"
NOT_DOWNLOADED = "is not in the local hub cache"
"""What the refusal of published weights says that are not here."""
COLOURS = {OK: "green", NOTE: "yellow", MISSING: "red"}
LOW_DISK_GB, NO_DISK_GB, COMMAND_SECONDS, IMPORT_SECONDS = 5.0, 0.2, 10.0, 300.0
INSTALL = "run `make setup`, or pip install --constraint constraints.txt --editable ."


@dataclass(frozen=True)
class Finding:
    """One line: status, what was examined, the state that it is in, and what to do where that is not enough."""

    status: str
    name: str
    state: str
    advice: str = ""


def examine(store: str | None = None, options: Mapping[str, Any] | None = None) -> int:
    """Print a line for everything that is examined. Returns 0, or 1 where something that is needed is missing.

    options: of the store's file system
    """
    findings = list(run_checks(store, options))
    width = max(len(f.name) for f in findings)
    for f in findings:
        say(f"  {f.name:{width}}  {f.state}", coloured=click.style(f"{f.status:7}", fg=COLOURS[f.status]))
        if f.advice:
            say(f"{'':7}  {'':{width}}  -> {f.advice}")
    return int(any(f.status == MISSING for f in findings))


def run_checks(store: str | None = None, options: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Run every check. Bad input that a check meets is a finding too."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("packages", packages),
        ("ffmpeg", ffmpeg),
        ("GPU", gpu),
        ("Ray", ray),
        ("Prefect", prefect),
        ("weights", weights),
        (policy.VARIABLE, reach),
        (places.VARIABLE, overrides),
        ("TMPDIR", temporary_files),
        ("disk", lambda: disk(store, options)),
        ("store", lambda: writable(store, options)),
    ]
    for name, check in checks:
        try:
            yield from check()
        except BadInput as bad:
            yield Finding(MISSING, name, str(bad))


def packages() -> Iterator[Finding]:
    """The Python that runs, and the version of every distribution that the project needs."""
    yield Finding(OK, "Python", f"{platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPU cores")
    pinned = read_constraints()
    wrong = [text for r in requirements() if (text := mismatch(r))]
    other = [
        f"{n} is {have}, pinned {pin}"
        for n, pin in pinned.items()
        if (have := installed(n)) and have.partition("+")[0] != pin.partition("+")[0]
    ]
    if wrong:
        yield Finding(MISSING, "packages", "; ".join(wrong), INSTALL)
    if other:
        shown = "; ".join(other[:4]) + (f"; {len(other) - 4} more" if len(other) > 4 else "")
        yield Finding(NOTE, "packages", f"not the tested versions: {shown}", INSTALL)
    if not wrong and not other:
        yield Finding(OK, "packages", "all installed" + (", in the tested versions" if pinned else ""))


def requirements() -> list[Requirement]:
    """What the installed project asks for, without its extras."""
    try:
        listed = [Requirement(text) for text in requires("rushes") or []]
    except PackageNotFoundError:
        raise BadInput(f"the project itself is not installed: {INSTALL}") from None
    return [r for r in listed if r.marker is None or r.marker.evaluate({"extra": ""})]


def installed(name: str) -> str:
    """The installed version of a distribution, "" where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def mismatch(requirement: Requirement) -> str:
    """What is wrong with one requirement, "" where it is met."""
    have = installed(requirement.name)
    if have and requirement.specifier.contains(have, prereleases=True):
        return ""
    return f"{requirement.name} is {have or 'not installed'}, required {requirement.specifier or 'any version'}"


def read_constraints(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """The tested version of every pinned distribution; empty where the file does not come with the installation."""
    lines = path.read_text().splitlines() if path.is_file() else []
    pins = [Requirement(line.split("#")[0].strip()) for line in lines if "==" in line.split("#")[0]]
    met = [p for p in pins if p.marker is None or p.marker.evaluate()]
    return {p.name: next(iter(p.specifier)).version for p in met}


def ffmpeg() -> Iterator[Finding]:
    """The ffmpeg in use, and whether it makes H.264."""
    binary = ffmpeg_binary()
    encoders = run([binary, "-hide_banner", "-encoders"])
    advice = "unset IMAGEIO_FFMPEG_EXE to use the one of the imageio-ffmpeg package, or install a full ffmpeg"
    if "libx264" not in encoders:
        yield Finding(MISSING, "ffmpeg", f"{binary} has no libx264", advice)
    else:
        yield Finding(OK, "ffmpeg", f"{ffmpeg_version()} with x264, {binary}")


def run(command: list[str]) -> str:
    """What a command prints, "" where it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def gpu() -> Iterator[Finding]:
    """The GPUs that the driver shows, and whether the installed torch can use them."""
    torch = installed("torch")
    if not torch:
        return  # reported under packages
    smi = shutil.which("nvidia-smi")
    query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    cards = run([smi, *query]).strip().splitlines() if smi else []
    if not cards:
        yield Finding(NOTE, "GPU", f"none; torch {torch} computes on the CPU", "the embedded model needs none")
    elif torch.endswith("+cpu"):
        yield Finding(
            NOTE, "GPU", f"{'; '.join(cards)}, but torch {torch} cannot use it", "install a CUDA build of torch"
        )
    else:
        yield Finding(OK, "GPU", f"{'; '.join(cards)}; torch {torch}")


def ray() -> Iterator[Finding]:
    """Ray: whether it can be imported, and has a folder for its session."""
    if not (have := installed("ray")):
        return
    if fault := import_fault("ray"):
        yield Finding(MISSING, "Ray", f"{have}, which cannot be imported: {fault}", INSTALL)
        return
    session_folder()
    yield Finding(
        OK,
        "Ray",
        f"{have}; each run that needs Ray starts it on this machine, unless infra.ray.address names a cluster",
    )


def import_fault(name: str) -> str:
    """Why a package cannot be imported here, "" where it can. A process of its own: the import takes seconds."""
    code = f"import {name}"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


def reach() -> Iterator[Finding]:
    """The operator's rules, where there are some."""
    if file := os.environ.get(policy.VARIABLE):
        policy.operators()
        yield Finding(OK, policy.VARIABLE, file)


def overrides() -> Iterator[Finding]:
    """What the runs of a worker begin with. Of the settings only those under `infra` are the same for all flows."""
    if os.environ.get(places.VARIABLE):
        given = parse_overrides(places.worker_overrides())
        structured(InfraConfig, OmegaConf.select(given, "infra", default={}), f"{places.VARIABLE}: infra")
        yield Finding(OK, places.VARIABLE, f"sets {', '.join(str(k) for k in given)}")


def temporary_files() -> Iterator[Finding]:
    """The folder for temporary files, where one is named."""
    if folder := os.environ.get("TMPDIR"):
        if not (Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise BadInput(f"{folder} is no folder that can be written to; make it, or unset TMPDIR")
        yield Finding(OK, "TMPDIR", folder)


def prefect() -> Iterator[Finding]:
    """Prefect, and the server that is named."""
    if not (have := installed("prefect")):
        return
    if fault := import_fault("prefect"):
        yield Finding(MISSING, "Prefect", f"{have}, which cannot be imported: {fault}", INSTALL)
        return
    try:
        url = named_server()
        reason = unreachable(url) if url else ""
    except BadInput as bad:
        url, reason = os.environ[VARIABLE], str(bad)
    if reason:
        advice = f"start it (`rushes serve`), or unset {VARIABLE}: runs work without one"
        yield Finding(MISSING, "Prefect", f"{have}; {VARIABLE} names {url}, which does not answer: {reason}", advice)
    else:
        where = (
            f"the server {ui_address(url)} answers" if url else f"no server is set ({VARIABLE}): runs work without one"
        )
        yield Finding(OK, "Prefect", f"{have}; {where}", "" if url else "`rushes serve` starts one")


def weights() -> Iterator[Finding]:
    """Whether the weights of every entry in configs/models are complete. Those that come with the project must be; of
    published ones that were never downloaded one finding names all."""
    absent = list[str]()
    for path in sorted((CONFIGS / "models").glob("*.yaml")):
        name, needed = f"model {path.stem}", False
        try:
            model = read_model(path)
            needed = Path(model.checkpoint).is_relative_to(ROOT)
            yield Finding(OK, name, weights_on_disk(model))
        except BadInput as bad:
            if NOT_DOWNLOADED in str(bad):
                absent.append(path.stem)
                continue
            advice = (
                "it is part of the project: get that again"
                if needed
                else f"needed only by campaigns with model={path.stem}"
            )
            yield Finding(MISSING if needed else NOTE, name, str(bad), advice)
    if absent:
        yield Finding(
            NOTE,
            "weights",
            f"not downloaded: {', '.join(absent)}",
            "needed only by campaigns with one of these as `model`; model.download=true with HF_HUB_OFFLINE=0 gets it",
        )


def read_model(path: Path) -> ModelConfig:
    """A file of configs/models, with nothing to be downloaded. Raises BadInput."""
    entry = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(entry, dict)
    return structured(ModelConfig, {str(k): v for k, v in entry.items() if k != "download"}, str(path))


def weights_on_disk(model: ModelConfig) -> str:
    """Where a model's weights lie and how much that is. Raises BadInput naming what its family needs and is missing."""
    weights = offers_of(model).everything()
    folders = weights.get("checkpoint", ())
    folder = model.folder(folders)
    places = [folder / p for p in folders]
    for key in weights:
        if key.startswith("parts."):
            places.append(model.part(key.removeprefix("parts.")))
        elif key != "checkpoint":
            places.append(model.upsampler(key))
    files = {f for p in places for f in ([p] if p.is_file() else p.rglob("*.safetensors"))}
    size = sum(f.stat().st_size for f in files)
    where = model.checkpoint if is_hub_id(model.checkpoint) else folder
    return f"complete, {size / 1e6:,.0f} MB in {len(files)} files: {where}"


def disk(store: str | None, options: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Free space where the store lies, or here."""
    root = Storage(store, dict(options or {})).local_root if store else Path.cwd()
    if root is None:
        return
    there = nearest_folder(root)
    free = shutil.disk_usage(there).free / 1e9
    advice = "" if free >= LOW_DISK_GB else "make room, or give another --store"
    status = MISSING if free < NO_DISK_GB else NOTE if advice else OK
    yield Finding(status, "disk", f"{free:,.1f} GB free in {there}", advice)


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.is_dir())


def writable(store: str | None, options: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Whether a file can be put into the store and read back."""
    if not store:
        yield Finding(NOTE, "store", "none given", "`rushes doctor --store URL` checks that a store can be written to")
        return
    storage = Storage(store, dict(options or {}))
    root = storage.local_root
    if root is not None and not root.is_dir():
        yield _can_be_made(storage.url, nearest_folder(root))
        return
    probe = f"{TEMPORARY}/doctor-{uuid.uuid4().hex}"
    try:
        storage.write(probe, b"rushes")
        same = storage.read(probe) == b"rushes"
        storage.fs.rm_file(probe)
    except Exception as error:  # every file system has errors of its own
        yield Finding(
            MISSING, "store", f"{storage.url}: {type(error).__name__}: {error}", "check permissions and address"
        )
        return
    yield Finding(
        OK if same else MISSING,
        "store",
        f"{storage.url} can be written to" if same else "what was written could not be read back",
    )


def _can_be_made(url: str, above: Path) -> Finding:
    if os.access(above, os.W_OK):
        return Finding(OK, "store", f"{url} is not there yet and can be made")
    return Finding(MISSING, "store", f"{url} cannot be made: {above} is not writable", "give another --store")
